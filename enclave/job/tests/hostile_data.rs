//! Datasets that must not reach the engine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use myelin_wire::{Code, Error, Request, sha256};
use support::parties::{RECORD_BYTES, SealedFile};
use support::{World, accepted, detail, refused};

fn send_begin(w: &mut World, dataset: u64, header: &[u8]) -> Vec<u8> {
    w.send(&Request::DataBegin { dataset, header })
}

fn send_chunk(w: &mut World, chunk: u64, ciphertext: &[u8]) -> Vec<u8> {
    w.send(&Request::DataChunk { chunk, ciphertext })
}

fn seen_bytes(w: &World) -> usize {
    w.seen.borrow().records.len()
}

/// A world that loads `file` in place of owner 1's, which the contract names by `digest`.
fn with_file(file: SealedFile, edit: impl FnOnce(&mut World)) -> World {
    let mut w = World::new();
    w.files[1] = file;
    edit(&mut w);
    accepted(w.launch());
    accepted(w.bind());
    w.grant_all(false);
    w.load(0);
    w
}

#[test]
fn data_needs_all_keys() {
    let mut w = World::new();
    accepted(w.launch());
    refused(&w.begin(0), Code::OutOfOrder);
    accepted(w.bind());
    refused(&w.begin(0), Code::OutOfOrder);
    accepted(w.grant(0, false));
    accepted(w.grant(1, false));
    refused(&w.begin(0), Code::OutOfOrder);
    accepted(w.grant(2, false));
    accepted(w.begin(0));
}

#[test]
fn datasets_come_in_order_and_once() {
    let mut w = World::admitted();
    refused(&w.begin(1), Code::OutOfOrder);
    refused(&w.chunk(0, 0), Code::OutOfOrder);
    accepted(w.begin(0));
    refused(&w.begin(0), Code::AlreadyGiven);
    refused(&w.begin(1), Code::OutOfOrder);
    accepted(w.chunk(0, 0));
    refused(&w.chunk(0, 0), Code::OutOfOrder);
    refused(&w.begin(0), Code::AlreadyGiven);
    refused(&w.begin(2), Code::OutOfOrder);
    w.load(1);
    w.load(2);
    refused(&send_begin(&mut w, 3, b""), Code::OutOfOrder);
    refused(&send_begin(&mut w, u64::MAX, b""), Code::OutOfOrder);
}

#[test]
fn chunks_reordered_repeated_or_dropped() {
    let mut w = World::admitted();
    w.load(0);
    accepted(w.begin(1));
    let chunks = w.files[1].chunks.clone();
    refused(&w.chunk(1, 1), Code::OutOfOrder);
    refused(&send_chunk(&mut w, 0, &chunks[1]), Code::DataChunkInvalid);
    accepted(w.chunk(1, 0));
    refused(&w.chunk(1, 0), Code::OutOfOrder);
    refused(&send_chunk(&mut w, 1, &chunks[0]), Code::DataChunkInvalid);
    refused(&w.chunk(1, 2), Code::OutOfOrder);
    refused(&send_chunk(&mut w, 1, &chunks[2]), Code::DataChunkInvalid);
    assert_eq!(seen_bytes(&w), 4 * 9 + 65_536);
    accepted(w.chunk(1, 1));
    accepted(w.chunk(1, 2));
    assert_eq!(seen_bytes(&w), 4 * 9 + 180_000);
}

#[test]
fn chunks_swapped_between_owners() {
    // Equal sizes, so that nothing but the key tells them apart.
    let mut w = World::new();
    w.files[2] = SealedFile::new(&w.parties[2].data_key, 20_000, 9);
    w.draft.datasets[2] = (
        2,
        w.files[2].digest().to_vec(),
        w.files[2].schema.to_vec(),
        20_000,
    );
    w.draft.event.dataset_size = 40_004;
    accepted(w.launch());
    accepted(w.bind());
    w.grant_all(false);
    w.load(0);
    accepted(w.begin(1));
    let other = w.files[2].clone();
    for (index, chunk) in other.chunks.iter().enumerate() {
        refused(&send_chunk(&mut w, 0, chunk), Code::DataChunkInvalid);
        assert!(index < 3);
    }
    assert_eq!(seen_bytes(&w), 36);
    (0..3).for_each(|chunk| drop(accepted(w.chunk(1, chunk))));
}

#[test]
fn chunks_altered_cut_or_extended() {
    let mut w = World::admitted();
    w.load(0);
    accepted(w.begin(1));
    let chunk = w.files[1].chunks[0].clone();
    let bytes = chunk.len();
    for byte in (0..bytes).step_by(3001).chain(bytes - 16..bytes) {
        let mut flipped = chunk.clone();
        flipped[byte] ^= 0x80;
        refused(&send_chunk(&mut w, 0, &flipped), Code::DataChunkInvalid);
    }
    for length in [0, 15, 16, 17, bytes - 1] {
        refused(
            &send_chunk(&mut w, 0, &chunk[..length]),
            Code::DataChunkInvalid,
        );
    }
    refused(
        &send_chunk(&mut w, 0, &[chunk.clone(), vec![0]].concat()),
        Code::OversizedMessage,
    );
    assert_eq!(seen_bytes(&w), 36);
    accepted(send_chunk(&mut w, 0, &chunk));
}

#[test]
fn a_flipped_bit_in_the_header_is_refused() {
    let prefix = World::new().files[0].prefix.clone();
    for byte in 0..prefix.len() {
        let mut w = World::admitted();
        let mut flipped = prefix.clone();
        flipped[byte] ^= 1 << (byte % 8);
        refused(&send_begin(&mut w, 0, &flipped), Code::DataHeaderInvalid);
        accepted(w.begin(0));
        assert_eq!(seen_bytes(&w), 0);
    }
}

#[test]
fn a_header_cut_or_too_long() {
    let mut w = World::admitted();
    let prefix = w.files[0].prefix.clone();
    for length in 0..prefix.len() {
        refused(
            &send_begin(&mut w, 0, &prefix[..length]),
            Code::DataHeaderInvalid,
        );
    }
    refused(
        &send_begin(&mut w, 0, &[prefix.clone(), vec![0]].concat()),
        Code::DataHeaderInvalid,
    );
    refused(
        &send_begin(&mut w, 0, &vec![0; 4109]),
        Code::OversizedMessage,
    );
    accepted(w.begin(0));
}

#[test]
fn a_header_that_is_not_the_contracts() {
    let key = World::new().parties[1].data_key;
    let (plain, schema) = (vec![1; 20_000 * 9], sha256(b"schema"));
    let wrong = [
        SealedFile::seal(&key, 20_001, RECORD_BYTES, &schema, &plain),
        SealedFile::seal(&key, 20_000, RECORD_BYTES + 1, &schema, &plain),
        SealedFile::seal(
            &key,
            20_000,
            RECORD_BYTES,
            &sha256(b"another schema"),
            &plain,
        ),
    ];
    for file in wrong {
        let mut w = World::admitted();
        w.load(0);
        refused(
            &send_begin(&mut w, 1, &file.prefix),
            Code::DataHeaderInvalid,
        );
        w.load(1);
    }
}

#[test]
fn another_file_under_the_same_key_is_not_the_contracts() {
    // The owner's own key, the right form, other records: every chunk decrypts, and only the digest tells.
    let other = SealedFile::new(&World::new().parties[1].data_key, 20_000, 0x55);
    let mut w = with_file(other, |_| {});
    accepted(w.begin(1));
    accepted(w.chunk(1, 0));
    accepted(w.chunk(1, 1));
    let before = seen_bytes(&w);
    refused(&w.chunk(1, 2), Code::DataDigestMismatch);
    refused(&w.chunk(1, 2), Code::DataDigestMismatch);
    assert_eq!(seen_bytes(&w), before, "the last chunk stays inside");
    refused(&w.begin(2), Code::OutOfOrder);
    refused(&w.train(1), Code::OutOfOrder);
}

#[test]
fn a_file_cut_at_a_chunk_does_not_end_there() {
    // Two of three chunks, in a header that says so: the last flag is not where this file's is.
    let key = World::new().parties[1].data_key;
    let whole = SealedFile::new(&key, 65_536 * 2, 1);
    let mut w = with_file(whole.clone(), |w| {
        w.draft.datasets[1].3 = 65_536;
        w.draft.event.dataset_size = 65_536 + 7_286;
        w.draft.datasets[1].1 = whole.digest().to_vec();
    });
    let half = SealedFile::seal(
        &key,
        65_536,
        RECORD_BYTES,
        &whole.schema,
        &whole.plain[..65_536 * 9],
    );
    refused(
        &send_begin(&mut w, 1, &whole.prefix),
        Code::DataHeaderInvalid,
    );
    accepted(send_begin(&mut w, 1, &half.prefix));
    for chunk in 0..9_usize {
        // The header is part of every chunk's key, so a header of another length opens none of the whole file's chunks.
        refused(
            &send_chunk(&mut w, 0, &whole.chunks[chunk]),
            Code::DataChunkInvalid,
        );
    }
}

#[test]
fn a_grant_with_another_key_opens_nothing() {
    let mut w = World::new();
    accepted(w.launch());
    accepted(w.bind());
    w.parties[0].data_key[0] ^= 1;
    w.grant_all(false);
    // The header commits to its key: an owner cannot have one file open to other records under another key, and so have
    // other data trained on with the noise of a run that was paid for.
    refused(&w.begin(0), Code::DataHeaderInvalid);
    refused(&w.chunk(0, 0), Code::OutOfOrder);
    assert_eq!(seen_bytes(&w), 0);
}

#[test]
fn a_record_outside_the_schema_stops_the_enclave_and_says_nothing_of_it() {
    let mut w = World::admitted();
    w.load(0);
    accepted(w.begin(1));
    w.seen.borrow_mut().refuse = Some(Error::new(
        Code::DataRecordInvalid,
        "record 17 has label 99",
    ));
    let reply = w.chunk(1, 0);
    refused(&reply, Code::DataRecordInvalid);
    assert_eq!(
        detail(&reply),
        "fatal: dataset 1: a record holds a value outside the schema"
    );
    assert!(w.job.is_dead() && w.seen.borrow().dropped);
    refused(&w.chunk(1, 0), Code::Dead);
}

#[test]
fn a_failed_kernel_stops_the_enclave_and_releases_nothing() {
    let mut w = World::ready();
    accepted(w.train(2));
    w.seen.borrow_mut().fail = Some(Error::new(Code::KernelFailed, "loss is 0.25"));
    let reply = w.train(1);
    refused(&reply, Code::KernelFailed);
    assert_eq!(detail(&reply), "fatal: a kernel returned an error");
    refused(&w.send(&Request::Release), Code::Dead);
    refused(&w.train(1), Code::Dead);
}
