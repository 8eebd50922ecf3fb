//! An image that has what runs it asked for evidence: what is answered when, and what a host can do in between.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use myelin_wire::cose::CERTIFICATE_TYPE;
use myelin_wire::limits::EVIDENCE_BYTES_MAX;
use myelin_wire::{Code, Purpose, Reader, Report, Request, Writer, bundle, sha256};
use support::{World, accepted, refused, results};

const CMW: &[u8] = b"\x82\x61x\x43abc";

fn asked() -> World {
    let world = World::admitted();
    world.platform.is_asked.set(true);
    world
}

fn attest(nonce: &[u8; 32]) -> Request<'_> {
    Request::Attest {
        nonce,
        policy: &[1; 32],
    }
}

/// The report data of `[2, report data]`, which must be what the attester was told.
fn wanted(w: &World, reply: &[u8]) -> [u8; 64] {
    let mut r = Reader::new(reply);
    assert_eq!(r.array("reply", 2, 2).unwrap(), 2);
    assert_eq!(r.uint("status").unwrap(), 2);
    let data = *r.fixed::<64>("report data").unwrap();
    r.finish().unwrap();
    assert_eq!(w.platform.wanted.get(), Some(data));
    data
}

#[test]
fn attest_is_answered_once_the_evidence_is_there() {
    let mut w = asked();
    let keys = w.keys();
    let reply = w.send(&attest(&[7; 32]));
    let report = Report {
        purpose: Purpose::KeyRelease,
        nonce: &[7; 32],
        keys: &keys,
        measurement: &w.measurement.clone(),
        contract: &w.contract(),
        policy: &[1; 32],
    };
    assert_eq!(wanted(&w, &reply), report.data());
    let reply = accepted(w.send(&Request::Evidence { cmw: CMW }));
    assert_eq!(results(&reply).bytes("evidence", 0, 64).unwrap(), CMW);
    assert_eq!(w.platform.wanted.get(), None);
    refused(&w.send(&Request::Evidence { cmw: CMW }), Code::OutOfOrder);
}

#[test]
fn any_other_message_drops_the_request() {
    let too_long = Request::Evidence {
        cmw: &vec![0; EVIDENCE_BYTES_MAX + 1],
    }
    .write();
    for message in [
        Request::Describe.write(),
        Request::Shares.write(),
        Request::Release.write(),
        Writer::new().array(1).uint(99).finish(),
        Writer::new().array(2).uint(12).bytes(&[]).finish(),
        b"\xff".to_vec(),
        too_long,
    ] {
        let mut w = asked();
        let reply = w.send(&attest(&[7; 32]));
        wanted(&w, &reply);
        w.job.handle(&message);
        assert_eq!(w.platform.wanted.get(), None);
        refused(&w.send(&Request::Evidence { cmw: CMW }), Code::OutOfOrder);
        assert_eq!(w.state(), "admitted");
    }
}

#[test]
fn a_second_request_is_the_one_that_counts() {
    let mut w = asked();
    let first = w.send(&attest(&[7; 32]));
    let second = w.send(&attest(&[8; 32]));
    assert_ne!(first, second);
    wanted(&w, &second);
    accepted(w.send(&Request::Evidence { cmw: CMW }));
}

#[test]
fn evidence_that_nobody_asked_for_is_refused() {
    let mut w = World::new();
    refused(&w.send(&Request::Evidence { cmw: CMW }), Code::OutOfOrder);
    accepted(w.launch());
    refused(&w.send(&Request::Evidence { cmw: CMW }), Code::OutOfOrder);
    accepted(w.bind());
    refused(&w.send(&Request::Evidence { cmw: CMW }), Code::OutOfOrder);
    accepted(w.send(&attest(&[7; 32])));
    refused(&w.send(&Request::Evidence { cmw: CMW }), Code::OutOfOrder);
}

fn fetch(w: &mut World, output: u64, length: u64) -> Vec<u8> {
    w.send(&Request::Fetch {
        output,
        offset: 0,
        length,
    })
}

#[test]
fn nothing_is_released_before_its_evidence() {
    let mut w = World::ready();
    w.platform.is_asked.set(true);
    accepted(w.train(u64::MAX));
    let first = w.send(&Request::Release);
    let data = wanted(&w, &first);
    for output in 0..3 {
        refused(&fetch(&mut w, output, 1), Code::OutOfOrder);
    }
    assert_eq!(w.state(), "trained");
    assert!(
        w.seen.borrow().dropped,
        "what was trained is sealed, and gone"
    );
    let again = w.send(&Request::Release);
    assert_eq!(wanted(&w, &again), data, "the same certificate");
    let reply = accepted(w.send(&Request::Evidence { cmw: CMW }));
    assert_eq!(w.state(), "released");
    let mut r = results(&reply);
    assert_eq!(r.array("lengths", 0, 64).unwrap(), 3);
    let length = r.uint("length").unwrap();
    let reply = accepted(fetch(&mut w, 0, length));
    let output = results(&reply).bytes("output", 0, 1 << 20).unwrap();
    let mut r = Reader::new(output);
    r.array("bundle", 3, 3).unwrap();
    r.constant("magic", "myelin-certificate").unwrap();
    let certificate = r.bytes("certificate", 0, 65536).unwrap().to_vec();
    assert_eq!(output, bundle(&certificate, CMW));
    let keys = w.keys();
    assert!(
        myelin_wire::cose::Verifier::new(&keys.signing)
            .unwrap()
            .open(CERTIFICATE_TYPE, &certificate)
            .is_ok()
    );
    let report = Report {
        purpose: Purpose::Certificate,
        nonce: &sha256(&certificate),
        keys: &keys,
        measurement: &w.measurement.clone(),
        contract: &w.contract(),
        policy: &sha256(b"policy"),
    };
    assert_eq!(data, report.data());
    accepted(w.send(&Request::Release));
    refused(&w.send(&Request::Evidence { cmw: CMW }), Code::OutOfOrder);
}

#[test]
fn a_dead_enclave_wants_nothing() {
    let mut w = asked();
    let reply = w.send(&attest(&[7; 32]));
    wanted(&w, &reply);
    w.entropy.broken.set(true);
    refused(&w.send(&Request::Shares), Code::EntropyFailed);
    assert_eq!(w.platform.wanted.get(), None);
    refused(&w.send(&Request::Evidence { cmw: CMW }), Code::Dead);
}
