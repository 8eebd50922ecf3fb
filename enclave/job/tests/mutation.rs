//! A host that mutates every message at random: nothing panics, nothing changes, and the run ends with the same model.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use myelin_wire::{Reader, Request};
use support::{World, accepted, number, start};

/// xorshift64*, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

const INTERESTING: [u8; 12] = [
    0x00, 0x17, 0x18, 0x1b, 0x40, 0x5b, 0x5f, 0x80, 0x9f, 0xa0, 0xf6, 0xff,
];

fn mutate(message: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = message.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len().max(1));
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = INTERESTING[random.below(INTERESTING.len())],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, INTERESTING[random.below(INTERESTING.len())]),
            4 if !bytes.is_empty() => drop(bytes.remove(at)),
            5 => bytes.extend_from_within(at..),
            // The heads are short, so most of the above hits payloads: aim at the first bytes as well.
            _ if !bytes.is_empty() => {
                let at = random.below(bytes.len().min(12));
                bytes[at] = random.next() as u8;
            }
            _ => {}
        }
    }
    bytes
}

/// Sends mutants of a message. What is accepted must be harmless: a question, or a piece of what is released.
fn barrage(w: &mut World, message: &[u8], random: &mut Random, count: usize) {
    for _ in 0..count {
        let mutant = mutate(message, random);
        if mutant == message {
            continue;
        }
        let (before, records) = (w.state(), w.seen.borrow().records.len());
        let reply = w.job.handle(&mutant);
        assert!(!w.job.is_dead());
        if number(&reply) == 0 {
            let mut r = Reader::new(&mutant);
            r.array("message", 1, 16).unwrap();
            let code = r.uint("code").unwrap();
            assert!(
                [1, 3, 5, 9, 10, 11].contains(&code),
                "message {code} was accepted when mutated"
            );
        } else {
            assert_eq!(
                (w.state(), w.seen.borrow().records.len()),
                (before, records)
            );
        }
    }
}

fn deposit(w: &mut World, random: &mut Random, count: usize) {
    let (run, deposits) = w.shares();
    let digest = w.contract();
    for (party, sealed) in deposits {
        let receipt = w.parties[party].store(party, &digest, &run, &sealed);
        let message = Request::Deposited {
            party: party as u64,
            receipt: &receipt,
        }
        .write();
        barrage(w, &message, random, count);
        accepted(w.job.handle(&message));
    }
}

fn run(random: &mut Random, count: usize) -> [[u8; 32]; 4] {
    let mut w = World::new();
    accepted(w.launch());
    let contract = w.draft.bytes();
    let list = support::parties::signatures(&w.parties, &contract);
    let bind = Request::Contract {
        contract: &contract,
        signatures: list.iter().map(|s| Some(s.as_slice())).collect(),
    }
    .write();
    let attest = Request::Attest {
        nonce: &[1; 32],
        policy: &[2; 32],
    }
    .write();
    barrage(&mut w, &Request::Describe.write(), random, count);
    barrage(&mut w, &bind, random, count);
    accepted(w.job.handle(&bind));
    barrage(&mut w, &attest, random, count);
    for owner in 0..3 {
        let sealed = w.sealed_grant(owner, false);
        let message = Request::Grant {
            party: owner as u64,
            sealed: &sealed,
        }
        .write();
        barrage(&mut w, &message, random, count);
        accepted(w.job.handle(&message));
    }
    deposit(&mut w, random, count);
    for dataset in 0..3 {
        let file = w.files[dataset].clone();
        accepted(w.begin(dataset));
        for (chunk, ciphertext) in file.chunks.iter().enumerate() {
            let message = Request::DataChunk {
                chunk: chunk as u64,
                ciphertext,
            }
            .write();
            barrage(&mut w, &message, random, count.min(20));
            accepted(w.job.handle(&message));
        }
    }
    barrage(&mut w, &Request::Train { steps: 2 }.write(), random, count);
    while w.state() != "trained" {
        accepted(w.train(1));
    }
    barrage(&mut w, &Request::Release.write(), random, count);
    w.release();
    let fetch = Request::Fetch {
        output: 1,
        offset: 3,
        length: 200,
    }
    .write();
    barrage(&mut w, &fetch, random, count);
    let keys = w.seen.borrow().keys;
    keys.unwrap()
}

#[test]
fn a_mutating_host_gains_and_breaks_nothing() {
    let quiet = run(&mut Random(1), 0);
    for seed in [2, 3] {
        assert_eq!(run(&mut Random(seed), 150), quiet);
    }
}

#[test]
fn mutated_headers_never_reach_the_engine() {
    let mut random = Random(5);
    let mut w = World::admitted();
    let header = w.files[0].prefix.clone();
    let message = Request::DataBegin {
        dataset: 0,
        header: &header,
    }
    .write();
    for _ in 0..400 {
        if number(&w.job.handle(&mutate(&message, &mut random))) == 0 {
            assert_ne!(number(&w.chunk(0, 0)), 0);
            w = World::admitted();
        }
        assert!(w.seen.borrow().records.is_empty());
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random(11);
    for state in 0..3 {
        let mut w = match state {
            0 => World::new(),
            1 => World::admitted(),
            _ => World::ready(),
        };
        for _ in 0..3000 {
            let length = random.below(200);
            let mut bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            if let Some(first) = bytes.first_mut() {
                *first = 0x80 | (*first & 7);
            }
            w.job.handle(&bytes);
            assert!(!w.job.is_dead());
        }
    }
    let (mut job, _, _, _) = start(3);
    assert_ne!(number(&job.handle(&[])), 0);
}
