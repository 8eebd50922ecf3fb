//! A sequence of messages, each with a length of two bytes before it, to one boot: no panic, always an answer that reads,
//! and what is accepted reads back to the same bytes.
#![no_main]

#[path = "../../job/tests/support/attester.rs"]
mod attester;
#[path = "../../job/tests/support/engine.rs"]
mod engine;
#[path = "../../job/tests/support/entropy.rs"]
mod entropy;

use libfuzzer_sys::fuzz_target;
use myelin_job::Job;
use myelin_wire::{Reader, Request};

fuzz_target!(|data: &[u8]| {
    let mut entropy = entropy::SeededEntropy::new(1);
    // Half of the inputs go to an image that has what runs it asked for evidence.
    let is_asked = data.first().is_some_and(|byte| byte % 2 == 1);
    let attester = attester::TestAttester::start(&mut entropy, is_asked);
    let mut job = Job::new(engine::HashEngine::new(9, 5), attester, entropy);
    job.handle(
        &Request::Launch {
            measurement: &[1; 32],
            threads: 1,
        }
        .write(),
    );
    let mut rest = data;
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(tail.len());
        let (message, tail) = tail.split_at(length);
        rest = tail;
        if let Ok(request) = Request::read(message) {
            assert_eq!(
                request.write(),
                message,
                "read, but not in its one encoding"
            );
        }
        let reply = job.handle(message);
        let mut reader = Reader::new(&reply);
        assert!(reader.array("reply", 1, 16).is_ok() && reader.uint("status").is_ok());
    }
});
