//! Grants, shares and receipts that must not be taken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use myelin_seal::{GrantPlace, SealingKey};
use myelin_wire::cose::{DEPOSIT_TYPE, RECEIPT_TYPE, Verifier};
use myelin_wire::{Code, Digest, Request, Writer, sha256};
use support::entropy::SeededEntropy;
use support::parties::Kept;
use support::{World, accepted, refused, results};

fn bound() -> World {
    let mut w = World::new();
    accepted(w.launch());
    accepted(w.bind());
    w
}

/// A world whose owners hold deposits of an earlier run, around a new boot with the contract bound.
fn to_resume() -> World {
    let mut w = World::ready().reboot(2);
    accepted(w.launch());
    accepted(w.bind());
    w
}

fn send_grant(w: &mut World, party: u64, sealed: &[u8]) -> Vec<u8> {
    w.send(&Request::Grant { party, sealed })
}

fn place_sealed(
    w: &mut World,
    edit: impl FnOnce(&mut [Digest; 3], &mut usize),
    plain: Option<Vec<u8>>,
) -> Vec<u8> {
    let keys = w.keys();
    let mut digests = [w.contract(), w.measurement, keys.boot_id()];
    let mut party = 0;
    edit(&mut digests, &mut party);
    let place = GrantPlace {
        contract: &digests[0],
        measurement: &digests[1],
        boot: &digests[2],
        party,
    };
    let plain = plain.unwrap_or_else(|| grant_plain("fresh", None, None, None, 32));
    let key = SealingKey::new(&keys.hpke).unwrap();
    key.seal(&place.info(), &plain, &mut SeededEntropy::new(77))
        .unwrap()
}

type Field<'a> = Option<&'a [u8]>;

fn grant_plain(
    mode: &str,
    run: Field<'_>,
    check: Field<'_>,
    share: Field<'_>,
    key_bytes: usize,
) -> Vec<u8> {
    Writer::new()
        .map(5)
        .text("run")
        .bytes_or_nil(run)
        .text("mode")
        .text(mode)
        .text("check")
        .bytes_or_nil(check)
        .text("share")
        .bytes_or_nil(share)
        .text("data_key")
        .bytes(&vec![1; key_bytes])
        .finish()
}

#[test]
fn a_grant_is_for_one_boot_contract_image_and_party() {
    let mut w = bound();
    let edits: [fn(&mut [Digest; 3], &mut usize); 4] = [
        |d, _| d[0] = sha256(b"another contract"),
        |d, _| d[1] = sha256(b"another image"),
        |d, _| d[2] = sha256(b"another boot"),
        |_, party| *party = 1,
    ];
    for edit in edits {
        let sealed = place_sealed(&mut w, edit, None);
        refused(&send_grant(&mut w, 0, &sealed), Code::GrantUnsealable);
    }
    let replayed = w.sealed_grant(0, false);
    accepted(w.grant(0, false));
    let mut w = w.reboot(2);
    accepted(w.launch());
    accepted(w.bind());
    refused(&send_grant(&mut w, 0, &replayed), Code::GrantUnsealable);
    w.grant_all(false);
}

#[test]
fn an_altered_grant_does_not_open() {
    let mut w = bound();
    let sealed = w.sealed_grant(0, false);
    for byte in (0..sealed.len())
        .step_by(11)
        .chain(sealed.len() - 17..sealed.len())
    {
        let mut flipped = sealed.clone();
        flipped[byte] ^= 0x10;
        refused(&send_grant(&mut w, 0, &flipped), Code::GrantUnsealable);
    }
    for length in [0, 1, 1119, 1120, 1135, 1136, sealed.len() - 1] {
        refused(
            &send_grant(&mut w, 0, &sealed[..length]),
            Code::GrantUnsealable,
        );
    }
    refused(
        &send_grant(&mut w, 0, &[sealed.clone(), vec![0]].concat()),
        Code::GrantUnsealable,
    );
    refused(
        &send_grant(&mut w, 0, &vec![0; 4096]),
        Code::OversizedMessage,
    );
    assert_eq!(w.state(), "bound");
    accepted(send_grant(&mut w, 0, &sealed));
}

#[test]
fn a_grant_is_of_its_form() {
    let mut w = bound();
    let (a, short) = ([7_u8; 32], [7_u8; 31]);
    let bad = [
        grant_plain("fresh", Some(&a), None, None, 32),
        grant_plain("fresh", None, Some(&a), None, 32),
        grant_plain("fresh", None, None, Some(&a), 32),
        grant_plain("resume", Some(&a), Some(&a), None, 32),
        grant_plain("resume", None, Some(&a), Some(&a), 32),
        grant_plain("resume", Some(&a), None, Some(&a), 32),
        grant_plain("resume", Some(&a), Some(&a), Some(&short), 32),
        grant_plain("again", None, None, None, 32),
        grant_plain("fresh", None, None, None, 31),
        grant_plain("fresh", None, None, None, 33),
        [grant_plain("fresh", None, None, None, 32), vec![0]].concat(),
        vec![],
    ];
    for plain in bad {
        let sealed = place_sealed(&mut w, |_, _| {}, Some(plain));
        refused(&send_grant(&mut w, 0, &sealed), Code::GrantUnsealable);
    }
    w.grant_all(false);
}

#[test]
fn only_owners_grant_and_each_once() {
    let mut w = bound();
    for party in [3, 4, 31, 32, u64::MAX] {
        let sealed = w.sealed_grant(0, false);
        refused(&send_grant(&mut w, party, &sealed), Code::NotAParty);
    }
    accepted(w.grant(0, false));
    refused(&w.grant(0, false), Code::AlreadyGiven);
    accepted(w.grant(1, false));
    accepted(w.grant(2, false));
    refused(&w.grant(2, false), Code::AlreadyGiven);
}

#[test]
fn modes_are_not_mixed() {
    let mut w = to_resume();
    accepted(w.grant(0, false));
    refused(&w.grant(1, true), Code::GrantMixed);
    accepted(w.grant(1, false));
    let mut w = to_resume();
    accepted(w.grant(0, true));
    refused(&w.grant(1, false), Code::GrantMixed);
    accepted(w.grant(1, true));
    refused(&w.grant(2, false), Code::GrantMixed);
    accepted(w.grant(2, true));
    assert_eq!(w.state(), "admitted");
}

#[test]
fn a_wrong_share_buys_nothing() {
    for owner in 0..3 {
        let mut w = to_resume();
        let right = w.parties[owner].deposit;
        let (run, check, mut share) = right.unwrap();
        share[31] ^= 1;
        w.parties[owner].deposit = Some((run, check, share));
        accepted(w.grant((owner + 1) % 3, true));
        accepted(w.grant((owner + 2) % 3, true));
        refused(&w.grant(owner, true), Code::ShareInconsistent);
        assert_eq!(w.state(), "bound");
        w.parties[owner].deposit = right;
        accepted(w.grant(owner, true));
    }
}

#[test]
fn runs_and_checks_agree() {
    let edits: [fn(&mut Kept); 2] = [|d| d.0[0] ^= 1, |d| d.1[0] ^= 1];
    for edit in edits {
        let mut w = to_resume();
        accepted(w.grant(0, true));
        let mut deposit = w.parties[1].deposit.unwrap();
        edit(&mut deposit);
        w.parties[1].deposit = Some(deposit);
        refused(&w.grant(1, true), Code::ShareInconsistent);
    }
    // All owners together cannot name a check that their shares do not make.
    let mut w = to_resume();
    for party in &mut w.parties[..3] {
        let (run, mut check, share) = party.deposit.unwrap();
        check[5] ^= 1;
        party.deposit = Some((run, check, share));
    }
    accepted(w.grant(0, true));
    accepted(w.grant(1, true));
    refused(&w.grant(2, true), Code::ShareInconsistent);
}

#[test]
fn a_share_alone_is_unrelated_to_the_key() {
    let w = World::ready();
    let shares: Vec<_> = w.parties[..3].iter().map(|p| p.deposit.unwrap()).collect();
    assert!(
        shares
            .iter()
            .all(|s| s.0 == shares[0].0 && s.1 == shares[0].1)
    );
    assert!(shares[0].2 != shares[1].2 && shares[1].2 != shares[2].2 && shares[0].2 != shares[2].2);
}

#[test]
fn deposits_are_made_once_and_signed() {
    let mut w = World::admitted();
    let first = accepted(w.send(&Request::Shares));
    assert_eq!(first, accepted(w.send(&Request::Shares)));
    let keys = w.keys();
    let verifier = Verifier::new(&keys.signing).unwrap();
    let mut r = results(&first);
    let run = *r.fixed::<32>("run").unwrap();
    assert_eq!(run, keys.boot_id());
    for party in 0..r.array("list", 3, 3).unwrap() {
        r.array("deposit", 3, 3).unwrap();
        assert_eq!(r.uint("party").unwrap(), party as u64);
        let sealed = r.bytes("sealed", 0, 4096).unwrap();
        let signed = verifier
            .open(DEPOSIT_TYPE, r.bytes("signature", 0, 4096).unwrap())
            .unwrap();
        let expected = Writer::new()
            .array(3)
            .bytes(&run)
            .uint(party as u64)
            .bytes(&sha256(sealed))
            .finish();
        assert_eq!(signed, expected);
    }
}

#[test]
fn a_receipt_is_the_owners_for_this_run_and_deposit() {
    let mut w = World::admitted();
    let (run, list) = w.shares();
    let (contract, sealed) = (w.contract(), list[0].1.clone());
    let other = sha256(b"other");
    let payload = Writer::new()
        .array(4)
        .bytes(&contract)
        .bytes(&run)
        .uint(0)
        .bytes(&sha256(&sealed))
        .finish();
    let right = w.parties[0].receipt(0, &contract, &run, &sealed);
    let wrong = [
        w.parties[0].receipt(0, &other, &run, &sealed),
        w.parties[0].receipt(0, &contract, &other, &sealed),
        w.parties[0].receipt(1, &contract, &run, &sealed),
        w.parties[0].receipt(0, &contract, &run, &list[1].1),
        w.parties[1].receipt(0, &contract, &run, &sealed),
        w.parties[0].signer.sign(DEPOSIT_TYPE, &payload),
        w.parties[0].signer.sign_detached(RECEIPT_TYPE, &payload),
        w.parties[0]
            .signer
            .sign(RECEIPT_TYPE, &[payload, vec![0]].concat()),
        right[..right.len() - 1].to_vec(),
    ];
    let flipped = (0..right.len()).map(|byte| {
        let mut flipped = right.clone();
        flipped[byte] ^= 1 << (byte % 8);
        flipped
    });
    for receipt in wrong.into_iter().chain(flipped) {
        let reply = w.send(&Request::Deposited {
            party: 0,
            receipt: &receipt,
        });
        refused(&reply, Code::ReceiptInvalid);
    }
    for (party, code) in [
        (3, Code::NotAParty),
        (9, Code::NotAParty),
        (1, Code::ReceiptInvalid),
    ] {
        refused(
            &w.send(&Request::Deposited {
                party,
                receipt: &right,
            }),
            code,
        );
    }
    let ok = Request::Deposited {
        party: 0,
        receipt: &right,
    };
    accepted(w.send(&ok));
    refused(&w.send(&ok), Code::AlreadyGiven);
}

#[test]
fn a_fresh_run_trains_only_with_all_receipts() {
    let mut w = World::admitted();
    (0..3).for_each(|i| w.load(i));
    refused(&w.train(1), Code::OutOfOrder);
    let (run, list) = w.shares();
    let contract = w.contract();
    for (party, sealed) in list {
        refused(&w.train(1), Code::OutOfOrder);
        let receipt = w.parties[party].store(party, &contract, &run, &sealed);
        let party = party as u64;
        accepted(w.send(&Request::Deposited {
            party,
            receipt: &receipt,
        }));
    }
    accepted(w.train(1));
}

#[test]
fn shares_are_made_once_however_often_the_host_asks() {
    let mut w = World::admitted();
    let made = w.shares();
    assert_eq!(w.shares(), made);
}

#[test]
fn receipts_come_after_shares_and_never_on_resume() {
    let mut w = World::admitted();
    let receipt = w.parties[0].receipt(0, &w.contract(), &[0; 32], b"");
    let message = Request::Deposited {
        party: 0,
        receipt: &receipt,
    };
    refused(&w.send(&message), Code::OutOfOrder);
    let mut w = to_resume();
    w.grant_all(true);
    assert!(w.shares().1.is_empty());
    refused(&w.send(&message), Code::OutOfOrder);
}

#[test]
fn no_entropy_is_fatal() {
    let break_at: [fn(&mut World) -> Vec<u8>; 4] = [
        |w| w.launch(),
        |w| {
            accepted(w.launch());
            accepted(w.bind());
            let sealed: Vec<_> = (0..3).map(|i| w.sealed_grant(i, false)).collect();
            accepted(send_grant(w, 0, &sealed[0]));
            accepted(send_grant(w, 1, &sealed[1]));
            w.entropy.broken.set(true);
            send_grant(w, 2, &sealed[2])
        },
        |w| {
            accepted(w.launch());
            accepted(w.bind());
            w.grant_all(false);
            w.entropy.broken.set(true);
            w.send(&Request::Shares)
        },
        |w| {
            w.whole_run(false);
            *w = World::ready();
            accepted(w.train(5));
            w.entropy.broken.set(true);
            w.send(&Request::Release)
        },
    ];
    for (case, attempt) in break_at.into_iter().enumerate() {
        let mut w = World::new();
        w.entropy.broken.set(case == 0);
        refused(&attempt(&mut w), Code::EntropyFailed);
        assert!(w.job.is_dead() && w.seen.borrow().dropped);
        refused(&w.send(&Request::Describe), Code::Dead);
        refused(&w.launch(), Code::Dead);
    }
}
