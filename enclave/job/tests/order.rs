//! Messages out of order, twice, cut, too long or unknown.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use myelin_wire::{Code, Request, Writer};
use support::{World, accepted, number, refused};

fn fetch(output: u64, offset: u64, length: u64) -> Request<'static> {
    Request::Fetch {
        output,
        offset,
        length,
    }
}

#[test]
fn launch_is_first_and_once() {
    let mut w = World::new();
    let receipt = [0; 8];
    let early = [
        Request::Describe,
        Request::Shares,
        Request::Release,
        Request::Train { steps: 1 },
        Request::Attest {
            nonce: &[0; 32],
            policy: &[0; 32],
        },
        Request::Grant {
            party: 0,
            sealed: &receipt,
        },
        Request::Deposited {
            party: 0,
            receipt: &receipt,
        },
        Request::DataBegin {
            dataset: 0,
            header: &receipt,
        },
        Request::DataChunk {
            chunk: 0,
            ciphertext: &receipt,
        },
        fetch(0, 0, 1),
    ];
    for request in &early {
        refused(&w.send(request), Code::OutOfOrder);
    }
    refused(&w.bind(), Code::OutOfOrder);
    for threads in [0, 17, u64::MAX] {
        let measurement = w.measurement;
        let launch = Request::Launch {
            measurement: &measurement,
            threads,
        };
        refused(&w.send(&launch), Code::ThreadUnavailable);
    }
    accepted(w.launch());
    let keys = w.keys();
    refused(&w.launch(), Code::AlreadyGiven);
    let other = Request::Launch {
        measurement: &[9; 32],
        threads: 1,
    };
    refused(&w.send(&other), Code::AlreadyGiven);
    assert_eq!(w.keys(), keys);
    for request in &early[1..] {
        refused(&w.send(request), Code::OutOfOrder);
    }
    assert_eq!(w.state(), "launched");
}

#[test]
fn training_needs_everything_and_ends() {
    let mut w = World::admitted();
    refused(&w.train(1), Code::OutOfOrder);
    w.deposit_all();
    refused(&w.train(1), Code::OutOfOrder);
    w.load(0);
    w.load(1);
    refused(&w.train(1), Code::OutOfOrder);
    accepted(w.begin(2));
    refused(&w.train(1), Code::OutOfOrder);
    accepted(w.chunk(2, 0));
    accepted(w.chunk(2, 1));
    refused(&w.train(0), Code::MalformedMessage);
    refused(&w.send(&Request::Release), Code::OutOfOrder);
    accepted(w.train(4));
    refused(&w.send(&Request::Release), Code::OutOfOrder);
    refused(&w.send(&fetch(1, 0, 1)), Code::OutOfOrder);
    accepted(w.train(4));
    refused(&w.train(1), Code::OutOfOrder);
    refused(&w.send(&fetch(1, 0, 1)), Code::OutOfOrder);
    w.release();
    refused(&w.train(1), Code::OutOfOrder);
    refused(&w.chunk(2, 1), Code::OutOfOrder);
    refused(&w.begin(0), Code::AlreadyGiven);
    refused(&w.grant(0, false), Code::AlreadyGiven);
    refused(&w.bind(), Code::AlreadyGiven);
    refused(&w.launch(), Code::AlreadyGiven);
}

#[test]
fn fetch_stays_inside_what_was_released() {
    let mut w = World::new();
    let outputs = w.whole_run(false);
    let bytes = outputs[0].len() as u64;
    accepted(w.send(&fetch(0, bytes, 1)));
    for request in [
        fetch(0, bytes + 1, 1),
        fetch(0, u64::MAX, 1),
        fetch(3, 0, 1),
        fetch(u64::MAX, 0, 1),
    ] {
        refused(&w.send(&request), Code::MalformedMessage);
    }
    refused(
        &w.send(&fetch(0, 0, 512 * 1024 + 1)),
        Code::MalformedMessage,
    );
    accepted(w.send(&fetch(0, 0, 512 * 1024)));
}

#[test]
fn attest_binds_the_nonce() {
    let mut w = World::admitted();
    let evidence = |w: &mut World, nonce: u8| {
        accepted(w.send(&Request::Attest {
            nonce: &[nonce; 32],
            policy: &[1; 32],
        }))
    };
    assert_ne!(evidence(&mut w, 1), evidence(&mut w, 2));
    assert_eq!(evidence(&mut w, 1), evidence(&mut w, 1));
}

#[test]
fn unknown_codes_and_wrong_counts() {
    let mut w = World::new();
    accepted(w.launch());
    for code in [13, 23, 24, 255, 256, u64::MAX] {
        let message = Writer::new().array(1).uint(code).finish();
        refused(&w.job.handle(&message), Code::UnknownMessage);
    }
    for message in [
        Writer::new().array(2).uint(1).uint(0).finish(),
        Writer::new().array(1).uint(3).finish(),
        Writer::new().array(0).finish(),
        Writer::new().map(0).finish(),
        Writer::new().array(1).text("describe").finish(),
        vec![],
        vec![0x81, 0x18, 0x01],       // 1, not in its shortest form
        vec![0x9f, 0x01, 0xff],       // indefinite length
        vec![0x81, 0xf9, 0x3c, 0x00], // a float
        vec![0xc1, 0x81, 0x01],       // a tag
        vec![0x81, 0x01, 0x00],       // trailing
        vec![0x9b, 255, 255, 255, 255, 255, 255, 255, 255], // 2^64 - 1 items
        vec![
            0x83, 0x04, 0x00, 0x5b, 255, 255, 255, 255, 255, 255, 255, 255,
        ], // 2^64 - 1 bytes
    ] {
        let reply = w.job.handle(&message);
        refused(&reply, Code::MalformedMessage);
    }
    accepted(w.job.handle(&[0x81, 0x01]));
}

#[test]
fn oversized_messages() {
    let mut w = World::new();
    accepted(w.launch());
    refused(
        &w.job.handle(&vec![0x81; (1 << 20) + 1]),
        Code::OversizedMessage,
    );
    let long = vec![0; 300 * 1024];
    let contract = Request::Contract {
        contract: &long,
        signatures: vec![],
    };
    refused(&w.send(&contract), Code::OversizedMessage);
    let signature = vec![0; 257];
    let contract = Request::Contract {
        contract: b"x",
        signatures: vec![Some(&signature)],
    };
    refused(&w.send(&contract), Code::OversizedMessage);
    refused(
        &w.send(&Request::Deposited {
            party: 0,
            receipt: &[0; 513],
        }),
        Code::OversizedMessage,
    );
}

#[test]
fn a_truncated_message_changes_nothing() {
    let mut w = World::ready();
    let prefix = w.files[0].prefix.clone();
    let messages = [
        Request::Describe.write(),
        Request::Attest {
            nonce: &[3; 32],
            policy: &[4; 32],
        }
        .write(),
        Request::Grant {
            party: 0,
            sealed: &[7; 1200],
        }
        .write(),
        Request::Deposited {
            party: 0,
            receipt: &[7; 300],
        }
        .write(),
        Request::DataBegin {
            dataset: 0,
            header: &prefix,
        }
        .write(),
        Request::DataChunk {
            chunk: 0,
            ciphertext: &[7; 700],
        }
        .write(),
        Request::Train { steps: 1 << 40 }.write(),
        Request::Release.write(),
        fetch(1, 70_000, 500).write(),
    ];
    for message in &messages {
        for length in 0..message.len() {
            let reply = w.job.handle(&message[..length]);
            assert_ne!(number(&reply), 0, "{length} of {} bytes", message.len());
        }
    }
    assert_eq!(w.state(), "ready");
}
