//! Contracts that must not be bound, each with the error that names why.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use myelin_wire::cose::{CERTIFICATE_TYPE, CONTRACT_TYPE};
use myelin_wire::{Code, Request, Rule, Writer, sha256};
use support::parties::{Draft, Party, signatures};
use support::{World, accepted, refused};

fn launched() -> World {
    let mut w = World::new();
    accepted(w.launch());
    w
}

/// Binds a changed contract that every party has signed; the right one must still bind afterwards.
#[track_caller]
fn refused_with(code: Code, change: impl FnOnce(&mut Draft)) {
    let mut w = launched();
    let right = w.draft.clone();
    change(&mut w.draft);
    refused(&w.bind(), code);
    assert_eq!(w.state(), "launched");
    w.draft = right;
    accepted(w.bind());
}

fn send(w: &mut World, contract: &[u8], signatures: &[Vec<u8>]) -> Vec<u8> {
    w.send(&Request::Contract {
        contract,
        signatures: signatures.iter().map(|s| Some(s.as_slice())).collect(),
    })
}

#[test]
fn every_signature_is_needed() {
    for party in 0..4 {
        let mut w = launched();
        refused(
            &w.bind_signed_by(|list| list[party] = None),
            Code::SignatureMissing,
        );
        assert_eq!(w.state(), "launched");
    }
    let mut w = launched();
    refused(
        &w.bind_signed_by(|list| list.truncate(3)),
        Code::SignatureMissing,
    );
    refused(
        &w.bind_signed_by(|list| list.push(None)),
        Code::ContractMalformed,
    );
    refused(&w.bind_signed_by(Vec::clear), Code::SignatureMissing);
    accepted(w.bind());
}

#[test]
fn every_signature_is_verified() {
    let mut w = launched();
    for party in 0..4 {
        let contract = w.draft.bytes();
        let right = signatures(&w.parties, &contract);
        let wrong = [
            w.parties[(party + 1) % 4]
                .signer
                .sign_detached(CONTRACT_TYPE, &contract),
            w.parties[party]
                .signer
                .sign_detached(CERTIFICATE_TYPE, &contract),
            w.parties[party]
                .signer
                .sign_detached(CONTRACT_TYPE, b"another contract"),
            [right[party].clone(), vec![0]].concat(),
            right[party][..right[party].len() - 1].to_vec(),
            Vec::new(),
        ];
        for signature in wrong {
            refused(
                &w.bind_signed_by(|list| list[party] = Some(signature)),
                Code::SignatureInvalid,
            );
        }
        for byte in 0..right[party].len() {
            let mut flipped = right[party].clone();
            flipped[byte] ^= 1 << (byte % 8);
            refused(
                &w.bind_signed_by(|list| list[party] = Some(flipped)),
                Code::SignatureInvalid,
            );
        }
    }
    accepted(w.bind());
}

#[test]
fn a_signature_that_carries_its_payload_is_not_detached() {
    let mut w = launched();
    let party = Party::new("A", "owner", 101);
    // Long enough to need the limit of a detached signature raised, so a short stand-in shows the rule.
    let attached = party.signer.sign(CONTRACT_TYPE, b"x");
    refused(
        &w.bind_signed_by(|list| list[0] = Some(attached)),
        Code::SignatureInvalid,
    );
}

#[test]
fn any_flipped_bit_of_a_contract_is_refused() {
    let mut w = launched();
    let contract = w.draft.bytes();
    let list = signatures(&w.parties, &contract);
    for bit in (0..contract.len() * 8).step_by(37) {
        let mut flipped = contract.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(
            support::number(&send(&mut w, &flipped, &list)),
            0,
            "bit {bit}"
        );
        assert_eq!(w.state(), "launched");
    }
    accepted(send(&mut w, &contract, &list));
}

#[test]
fn the_contract_means_this_image_and_this_plan() {
    refused_with(Code::WrongMeasurement, |d| {
        d.measurement = sha256(b"another image").to_vec()
    });
    refused_with(Code::WrongPlan, |d| {
        d.plan = sha256(b"another plan").to_vec()
    });
    let changes: [fn(&mut Draft); 10] = [
        |d| d.event.sampling_threshold += 1,
        |d| d.event.capacity += 1,
        |d| d.event.noise_multiplier_e9 += 1,
        |d| d.event.clipping_norm_e9 -= 1,
        |d| d.event.sensitivity_e9 -= 1,
        |d| d.event.expected_batch_size += 1,
        |d| d.event.steps -= 1,
        |d| d.event.parameters -= 1,
        |d| d.event.views += 1,
        |d| {
            d.event.augment.push(Rule {
                name: "flip".into(),
                numbers: Vec::new(),
            });
        },
    ];
    for change in changes {
        refused_with(Code::WrongPlan, change);
    }
}

#[test]
fn the_image_has_room_for_the_data() {
    refused_with(Code::DataTooLarge, |d| {
        d.datasets[0].3 = 1_000_000;
        d.event.dataset_size = 1_000_000 + 27_282;
    });
}

#[test]
fn parties_are_of_their_form() {
    let malformed: [fn(&mut Draft); 9] = [
        |d| d.parties[0].1 = "researcher".into(),
        |d| d.parties[3].1 = "owner".into(),
        |d| d.parties[3].1 = "observer".into(),
        |d| d.parties[1].0 = d.parties[0].0.clone(),
        |d| d.parties[1].2 = d.parties[0].2.clone(),
        |d| d.parties[0].0 = String::new(),
        |d| d.parties[0].2[64] ^= 1,
        |d| d.parties[0].2.truncate(64),
        // 0xfff coefficients are above the modulus of ML-KEM.
        |d| d.parties[3].3[..1152].fill(0xff),
    ];
    for change in malformed {
        refused_with(Code::ContractMalformed, change);
    }
    refused_with(Code::OversizedMessage, |d| d.parties[0].0 = "x".repeat(129));
}

#[test]
fn datasets_budgets_and_recipients_are_of_their_form() {
    let malformed: [fn(&mut Draft); 22] = [
        // Budgets that agree with the wrong datasets, so that each rule stands alone.
        |d| {
            d.datasets.swap(0, 1);
            d.budgets.swap(0, 1);
        },
        |d| {
            d.datasets[2].0 = 3;
            d.budgets[2] = 3;
        },
        |d| {
            d.event.dataset_size -= d.datasets.remove(2).3;
            d.budgets.truncate(2);
        },
        |d| d.datasets.swap(0, 1),
        |d| d.datasets[1].0 = 0,
        |d| d.datasets[2].0 = 3,
        |d| d.datasets.truncate(2),
        |d| d.datasets.clear(),
        |d| d.datasets[0].3 = 0,
        |d| d.datasets[0].3 = (1 << 31) + 1,
        |d| d.datasets[0].1.truncate(31),
        |d| d.event.dataset_size += 1,
        |d| d.budgets.swap(0, 1),
        |d| d.budgets.truncate(2),
        |d| d.recipients = vec![],
        |d| d.recipients = vec![3, 0],
        |d| d.recipients = vec![3, 3],
        |d| d.recipients = vec![4],
        |d| d.version = 1,
        |d| d.anchors = vec!["witnesses", "log"],
        |d| d.anchors = vec!["log", "log"],
        |d| d.anchors = vec!["other"],
    ];
    for change in malformed {
        refused_with(Code::ContractMalformed, change);
    }
}

#[test]
fn more_parties_than_the_limit_are_refused() {
    refused_with(Code::ContractMalformed, |d| {
        for i in 4..33 {
            let party = Party::new("X", "owner", 500 + i);
            d.parties.push((
                format!("X{i}"),
                "owner".into(),
                party.signing_key,
                party.sealing_key,
            ));
        }
    });
}

#[test]
fn unknown_fields_and_trailing_bytes_are_refused() {
    let mut w = launched();
    let contract = w.draft.bytes();
    let extended = [contract.clone(), vec![0xf6]].concat();
    let list = signatures(&w.parties, &extended);
    refused(&send(&mut w, &extended, &list), Code::ContractMalformed);
    // The map's first byte says how many entries it has: one more, and a key that sorts behind all others.
    let mut unknown = contract.clone();
    unknown[0] += 1;
    unknown.extend(Writer::new().text("release_nonfinite2").nil().finish());
    let list = signatures(&w.parties, &unknown);
    refused(&send(&mut w, &unknown, &list), Code::UnknownField);
    let mut renamed = contract.clone();
    let at = renamed
        .windows(6)
        .position(|window| window == b"policy")
        .unwrap();
    renamed[at + 5] = b'z';
    let list = signatures(&w.parties, &renamed);
    refused(&send(&mut w, &renamed, &list), Code::UnknownField);
}

#[test]
fn a_contract_is_bound_once() {
    let mut w = launched();
    accepted(w.bind());
    refused(&w.bind(), Code::AlreadyGiven);
    w.draft.release = (false, false);
    refused(&w.bind(), Code::AlreadyGiven);
    assert_eq!(w.state(), "bound");
}

#[test]
fn a_contract_of_owners_alone_has_no_researcher() {
    let mut w = launched();
    w.draft.parties.truncate(3);
    w.draft.recipients = vec![0];
    w.parties.truncate(3);
    let reply = w.bind();
    refused(&reply, Code::ContractMalformed);
    assert_eq!(support::detail(&reply), "expected one researcher, got 0");
}
