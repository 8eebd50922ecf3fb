//! Parts of the enclave that touch secrets, one by one, for valgrind to watch:
//!
//! ```text
//! valgrind --error-exitcode=1 secrets sampler noise …
//! ```
//!
//! Every secret is marked as undefined, so that memcheck reports each branch and address that depends on one (docs/side-channels.md).
//! The last three are leaks, by which a check shows that it would find one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a program of tests, and three leaks by index"
)]

use core::hint::black_box;

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hkdf::Hkdf;
use myelin_boundary::{fill_random, secret};
use myelin_mechanism::{Dropout, Gather, Sampler, banded, dropout, noise, sum};
use myelin_seal::{
    DatasetOpener, Expected, MAGIC, OpeningKey, RunKeys, SealingKey, Secret, job_key_check, join,
    split,
};
use myelin_wire::cose::Signer;
use myelin_wire::{Entropy, Error, Writer, sha256};
use sha2::Sha256;

const UNITS: [(&str, fn()); 14] = [
    ("sampler", sampler),
    ("gather", gather),
    ("noise", noise_and_release),
    ("banded", correlated_noise),
    ("turns", turns),
    ("dropout", masks),
    ("random", random),
    ("keys", keys),
    ("dataset", dataset),
    ("hpke", hpke),
    ("signer", signer),
    ("leak-branch", leak_by_branch),
    ("leak-index", leak_by_index),
    ("leak-exit", leak_by_early_exit),
];

fn main() {
    for name in std::env::args().skip(1) {
        match UNITS.iter().find(|(unit, _)| *unit == name) {
            Some((_, unit)) => unit(),
            None => std::process::exit(2),
        }
        println!("{name}");
    }
}

/// Secret bytes.
fn secret_bytes<const N: usize>(seed: u8) -> [u8; N] {
    let mut bytes = core::array::from_fn(|i| seed.wrapping_mul(i as u8 + 1));
    secret(&mut bytes);
    bytes
}

/// Secret numbers around zero.
fn secret_sums<const N: usize>() -> [f64; N] {
    let mut sums = core::array::from_fn(|i| i as f64 * 1e-3 - 1.0);
    secret(&mut sums);
    sums
}

/// Randomness whose every byte is secret.
struct Drawn(u64);

impl Entropy for Drawn {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        for chunk in out.chunks_mut(32) {
            self.0 += 1;
            chunk.copy_from_slice(&sha256(&self.0.to_le_bytes())[..chunk.len()]);
        }
        secret(out);
        Ok(())
    }
}

/// Draws that never overflow, sometimes do, and always do.
fn sampler() {
    let key = secret_bytes::<32>(7);
    let (mut slots, mut chosen) = ([0_u32; 200], [0_u8; 455]);
    for (records, threshold, capacity) in [
        (455, u64::MAX / 7, 128),
        (455, u64::MAX / 7, 64),
        (455, u64::MAX / 2, 150),
    ] {
        black_box(Sampler::draw(
            &key,
            3,
            records,
            threshold,
            capacity,
            &mut slots,
            &mut chosen,
        ));
        black_box((&slots, &chosen));
    }
}

fn gather() {
    let mut records: Vec<u8> = (0..300 * 37).map(|i| i as u8).collect();
    let mut chosen: Vec<u8> = (0..300).map(|i| u8::from(i % 5 == 0)).collect();
    secret(&mut records);
    secret(&mut chosen);
    let mut gather = Gather::new(37, 64);
    gather.take(&records, &chosen);
    black_box(gather.slot(63));
}

fn noise_and_release() {
    let (key, sums) = (secret_bytes::<32>(5), secret_sums::<300>());
    let (mut units, mut out) = ([0_i32; 300], [0_f32; 300]);
    noise::fill(&key, 3, 4000, &mut units);
    black_box(sum::noisy(&sums, 1e-3, 64, &units, &mut out));
    let mut totals = [0.0; 300];
    sum::begin(&mut totals, &out);
    sum::accumulate(&mut totals, &out);
    black_box(&totals);
}

fn correlated_noise() {
    let (key, sums) = (secret_bytes::<32>(3), secret_sums::<300>());
    let coefficients = [1.0, 0.5, 0.375];
    let mut history = [0.0; 300 * banded::kept(3)];
    let (mut units, mut out) = ([0_i32; 300], [0_f32; 300]);
    for turn in 1..5 {
        noise::fill(&key, turn, 0, &mut units);
        let turn = turn as usize;
        black_box(banded::release(
            &sums,
            &units,
            &coefficients,
            1e-3,
            turn,
            &mut history,
        ));
        banded::divide(&history, 3, 1e-3, 64, turn, &mut out);
        black_box(&out);
    }
}

fn turns() {
    let mut words = [0; 300];
    banded::turns(&secret_bytes::<32>(9), &mut words);
    black_box(&words);
}

/// Whose mask it is is as secret as the key.
fn masks() {
    let mut out = [0_f32; 300];
    let mut record = [77_u32];
    secret(&mut record);
    let mut masks = Dropout::new(&secret_bytes::<32>(11), 3);
    masks.fill(record[0], 5, 3 << 30, dropout::scale(3 << 30), &mut out);
    black_box(&out);
}

/// What the processor draws is defined for valgrind; the stream that is made of it is the same code for any seed.
fn random() {
    let mut out = [0; 100];
    fill_random(&mut out).unwrap();
    black_box(&out);
}

/// The job key: split among owners, joined, compared, and the keys that are made of it.
fn keys() {
    let mut entropy = Drawn(0);
    let key = Secret::generate(&mut entropy).unwrap();
    let shares = split(&key, 3, &mut entropy).unwrap();
    let joined = join(shares.iter());
    let check = job_key_check(&joined, &[4; 32]).unwrap();
    black_box(check.equals(&job_key_check(&key, &[4; 32]).unwrap()));
    black_box(RunKeys::derive(&key, &[1; 32]).unwrap());
}

/// A sealed dataset of two chunks under a secret key: header, commitment and plaintext.
fn dataset() {
    let (plain, salt, schema) = (vec![3_u8; 70_000], [2; 32], [5; 32]);
    let key = [6; 32];
    let derived = |info: &[u8]| {
        let mut out = [0; 32];
        let hkdf = Hkdf::<Sha256>::new(Some(&salt), &key);
        hkdf.expand(info, &mut out).unwrap();
        out
    };
    let commitment = derived(&Writer::info("myelin/dataset-key/v1", 0).finish());
    let header = Writer::with_capacity(256)
        .map(7)
        .text("salt")
        .bytes(&salt)
        .text("schema")
        .bytes(&schema)
        .text("records")
        .uint(7_000)
        .text("version")
        .uint(1)
        .text("commitment")
        .bytes(&commitment)
        .text("chunk_bytes")
        .uint(65_536)
        .text("record_bytes")
        .uint(10)
        .finish();
    let info = Writer::info("myelin/dataset/v1", 1).bytes(&sha256(&header));
    let cipher = ChaCha20Poly1305::new(&Key::from(derived(&info.finish())));
    let chunks: Vec<Vec<u8>> = plain
        .chunks(65_536)
        .zip(0_u8..)
        .map(|(chunk, index)| {
            let nonce = Nonce::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, index, index]);
            let mut sealed = chunk.to_vec();
            let tag = cipher.encrypt_inout_detached(&nonce, &[], sealed.as_mut_slice().into());
            sealed.extend_from_slice(&tag.unwrap());
            sealed
        })
        .collect();
    let prefix = [&MAGIC[..], &(header.len() as u32).to_le_bytes(), &header].concat();
    let expected = Expected {
        digest: &sha256(&[prefix.clone(), chunks.concat()].concat()),
        schema: &schema,
        records: 7_000,
        record_bytes: 10,
    };
    let mut given = key;
    secret(&mut given);
    let mut opener =
        DatasetOpener::begin(&Secret::copied_from(&given), &prefix, &expected).unwrap();
    for (index, chunk) in (0..).zip(&chunks) {
        black_box(opener.open(index, chunk).unwrap());
    }
}

/// A boot's private key, what is sealed to it, and what it seals with secret randomness.
fn hpke() {
    let mut entropy = Drawn(9);
    let key = OpeningKey::generate(&mut entropy).unwrap();
    let mut public = *key.public_key();
    myelin_boundary::public_all(&mut public, myelin_boundary::Public::Sent);
    let to = SealingKey::new(&public).unwrap();
    let mut sealed = to
        .seal(b"info", &secret_bytes::<100>(1), &mut entropy)
        .unwrap();
    myelin_boundary::public_all(&mut sealed, myelin_boundary::Public::Sent);
    black_box(key.open(b"info", &sealed).unwrap());
}

fn signer() {
    let signer = Signer::generate(&mut Drawn(20)).unwrap();
    black_box(signer.sign("application/x", b"payload"));
}

/// As a kernel might: a branch on a value.
#[inline(never)]
fn leak_by_branch() {
    let values = secret_sums::<64>();
    let mut count = 0;
    for value in &values {
        if *value > 0.5 {
            count = black_box(count) + 1;
        }
    }
    black_box(count);
}

/// As an embedding does: an address of a value.
#[inline(never)]
fn leak_by_index() {
    let table: [u32; 256] = core::array::from_fn(|i| i as u32);
    let rows = secret_bytes::<8>(3).map(|place| black_box(&table)[usize::from(place)]);
    black_box(&rows);
}

/// As a sampler might that stops when its slots are full.
#[inline(never)]
fn leak_by_early_exit() {
    let words = secret_bytes::<64>(13);
    let mut slots = [0_usize; 8];
    let mut filled = 0;
    for (index, &word) in words.iter().enumerate() {
        slots[filled & 7] = index;
        filled += usize::from(word < 100);
        if filled == slots.len() {
            break;
        }
    }
    black_box((&slots, filled));
}
