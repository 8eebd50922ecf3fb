//! The state machine as a process, for tests in other languages: frames of `u32 little-endian length ‖ message` on standard
//! input, answered the same way on standard output. Its engine is the tests' small one, and its randomness comes from the
//! seed that is its first argument; the second is the bytes of a record, a third has it ask for evidence. It is not an
//! enclave and protects nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../tests/support/attester.rs"]
mod attester;
#[path = "../tests/support/engine.rs"]
mod engine;
#[path = "../tests/support/entropy.rs"]
mod entropy;

use std::io::{Read, Write};

use myelin_job::Job;

const FRAME_BYTES_MAX: usize = 2 << 20;

fn main() {
    let number = |index: usize| std::env::args().nth(index).and_then(|a| a.parse().ok());
    let mut entropy = entropy::SeededEntropy::new(number(1).unwrap_or(1));
    let engine = engine::HashEngine::new(number(2).unwrap_or(9), 5);
    let is_asked = std::env::args().nth(3).is_some();
    let attester = attester::TestAttester::start(&mut entropy, is_asked);
    let mut job = Job::new(engine, attester, entropy);
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    loop {
        let mut length = [0; 4];
        if input.read_exact(&mut length).is_err() {
            return;
        }
        let length = u32::from_le_bytes(length) as usize;
        assert!(length <= FRAME_BYTES_MAX, "frame too long");
        let mut message = vec![0; length];
        input.read_exact(&mut message).unwrap();
        let reply = job.handle(&message);
        output
            .write_all(&(reply.len() as u32).to_le_bytes())
            .unwrap();
        output.write_all(&reply).unwrap();
        output.flush().unwrap();
    }
}
