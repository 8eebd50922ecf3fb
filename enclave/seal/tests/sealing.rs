//! Sealing, shares, derived keys: round trips, known answers, and secrets that do not print.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use myelin_seal::{
    DatasetOpener, Expected, Grant, OpeningKey, RunKeys, SealingKey, Secret, Unsealable,
    job_key_check, join, split, transcript,
};
use myelin_wire::{Code, Entropy, Error, sha256};

struct Counter(u64);

impl Entropy for Counter {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        for chunk in out.chunks_mut(32) {
            self.0 += 1;
            chunk.copy_from_slice(&sha256(&self.0.to_le_bytes())[..chunk.len()]);
        }
        Ok(())
    }
}

struct Broken;

impl Entropy for Broken {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), Error> {
        Err(Error::new(Code::EntropyFailed, "broken"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// draft-connolly-cfrg-xwing-kem, appendix C, first vector: seed to public key.
#[test]
fn x_wing_key_from_a_seed() {
    struct Seed;
    impl Entropy for Seed {
        fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
            let seed = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26";
            for (i, byte) in out.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&seed[2 * i..2 * i + 2], 16).unwrap();
            }
            Ok(())
        }
    }
    let key = OpeningKey::generate(&mut Seed).unwrap();
    assert_eq!(
        hex(&key.public_key()[..16]),
        "e2236b35a8c24b39b10aa1323a96a919"
    );
    assert_eq!(
        hex(&key.public_key()[1200..]),
        "23593d4ba32d9abac8cd049040ef6534"
    );
}

#[test]
fn sealed_messages_open_once_for_the_right_key_and_info() {
    let mut entropy = Counter(0);
    let (key, other) = (
        OpeningKey::generate(&mut entropy).unwrap(),
        OpeningKey::generate(&mut entropy).unwrap(),
    );
    let to = SealingKey::new(key.public_key()).unwrap();
    for length in [0, 1, 100, 70_000] {
        let plain = vec![0x5a; length];
        let sealed = to.seal(b"info", &plain, &mut entropy).unwrap();
        assert_eq!(sealed.len(), length + 1136);
        assert_eq!(*key.open(b"info", &sealed).unwrap(), plain);
        assert_eq!(key.open(b"infO", &sealed), Err(Unsealable));
        assert_eq!(other.open(b"info", &sealed), Err(Unsealable));
        for bit in (0..sealed.len() * 8).step_by(sealed.len() / 8) {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(b"info", &flipped), Err(Unsealable));
        }
    }
    let once = to.seal(b"info", b"same", &mut entropy).unwrap();
    assert_ne!(once, to.seal(b"info", b"same", &mut entropy).unwrap());
    assert_eq!(
        to.seal(b"info", b"same", &mut Broken).unwrap_err().code,
        Code::EntropyFailed
    );
}

#[test]
fn all_shares_are_needed() {
    for count in [1, 2, 3, 31] {
        let mut entropy = Counter(5);
        let key = Secret::generate(&mut entropy).unwrap();
        let shares = split(&key, count, &mut entropy).unwrap();
        assert_eq!(shares.len(), count);
        assert!(join(shares.iter()).equals(&key));
        for left_out in 0..count {
            let others = shares
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != left_out)
                .map(|(_, s)| s);
            assert!(!join(others).equals(&key));
        }
        assert_eq!(
            split(&key, 2, &mut Broken).unwrap_err().code,
            Code::EntropyFailed
        );
    }
}

#[test]
fn run_keys_depend_on_everything() {
    let key = |byte| Secret::copied_from(&[byte; 32]);
    let base = ([1; 32], [2; 32], vec![[3; 32], [4; 32]]);
    let make = |job: u8, (m, c, d): &([u8; 32], [u8; 32], Vec<[u8; 32]>)| {
        let keys = RunKeys::derive(&key(job), &transcript(m, c, d.iter())).unwrap();
        [keys.sampling, keys.noise, keys.dropout, keys.augment].map(|key| *key.expose())
    };
    let first = make(9, &base);
    assert_eq!(first, make(9, &base));
    let mut apart = first.to_vec();
    apart.sort_unstable();
    apart.dedup();
    assert_eq!(apart.len(), 4);
    let mut swapped = base.clone();
    swapped.2.swap(0, 1);
    let others = [
        make(8, &base),
        make(9, &([0; 32], base.1, base.2.clone())),
        make(9, &(base.0, [0; 32], base.2.clone())),
        make(9, &(base.0, base.1, vec![[3; 32]])),
        make(9, &swapped),
    ];
    for other in others {
        assert!((0..3).all(|place| other[place] != first[place]));
    }
    let check = job_key_check(&key(9), &base.1).unwrap();
    assert!(!check.equals(&job_key_check(&key(9), &base.0).unwrap()));
    assert!(!check.equals(&job_key_check(&key(8), &base.1).unwrap()));
}

#[test]
fn nothing_secret_prints() {
    let secret = Secret::copied_from(&[0xab; 32]);
    let grant = Grant {
        data_key: Secret::copied_from(&[0xab; 32]),
        resume: None,
    };
    let key = OpeningKey::generate(&mut Counter(1)).unwrap();
    let shown = format!("{secret:?} {grant:?} {key:?}");
    assert!(
        !shown.contains("ab, ab") && !shown.contains("171") && !shown.contains("abab"),
        "{shown}"
    );
    assert_eq!(format!("{secret:?}"), "Secret(redacted)");
}

#[test]
fn more_chunks_than_nonces_are_refused() {
    let expected = Expected {
        digest: &[0; 32],
        schema: &[0; 32],
        records: 1 << 31,
        record_bytes: u64::MAX,
    };
    let key = Secret::copied_from(&[1; 32]);
    assert_eq!(
        DatasetOpener::begin(&key, b"MYELDS01", &expected)
            .unwrap_err()
            .code,
        Code::DataHeaderInvalid
    );
}
