//! COSE_Sign1 against a fixed vector, and every way in which one may not verify.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use myelin_wire::cose::{CERTIFICATE_TYPE, CONTRACT_TYPE, Signer, Verifier};
use myelin_wire::{Code, Entropy, Error, Writer};

/// Answers the same bytes each time.
struct Fixed([u8; 32]);

impl Entropy for Fixed {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        out.copy_from_slice(&self.0);
        Ok(())
    }
}

fn signer() -> Signer {
    Signer::generate(&mut Fixed([7; 32])).unwrap()
}

fn verifier() -> Verifier {
    Verifier::new(&signer().public_key()).unwrap()
}

#[test]
fn signs_deterministically_and_verifies() {
    let sign1 = signer().sign(CONTRACT_TYPE, b"payload");
    assert_eq!(sign1, signer().sign(CONTRACT_TYPE, b"payload"));
    assert_eq!(verifier().open(CONTRACT_TYPE, &sign1).unwrap(), b"payload");
    let detached = signer().sign_detached(CONTRACT_TYPE, b"payload");
    verifier()
        .verify_detached(CONTRACT_TYPE, &detached, b"payload")
        .unwrap();
    assert_eq!(sign1[sign1.len() - 64..], detached[detached.len() - 64..]);
}

#[test]
fn anything_else_does_not_verify() {
    let (v, sign1) = (verifier(), signer().sign(CONTRACT_TYPE, b"payload"));
    let detached = signer().sign_detached(CONTRACT_TYPE, b"payload");
    let invalid =
        |result: Result<(), Error>| assert_eq!(result.unwrap_err().code, Code::SignatureInvalid);
    invalid(v.open(CERTIFICATE_TYPE, &sign1).map(drop));
    invalid(v.open(CONTRACT_TYPE, &detached).map(drop));
    invalid(v.verify_detached(CONTRACT_TYPE, &sign1, b"payload"));
    invalid(v.verify_detached(CONTRACT_TYPE, &detached, b"paylaod"));
    for bit in 0..sign1.len() * 8 {
        let mut flipped = sign1.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        invalid(v.open(CONTRACT_TYPE, &flipped).map(drop));
    }
    for length in 0..sign1.len() {
        invalid(v.open(CONTRACT_TYPE, &sign1[..length]).map(drop));
    }
    invalid(
        v.open(CONTRACT_TYPE, &[sign1.clone(), vec![0]].concat())
            .map(drop),
    );
    invalid(
        v.open(CONTRACT_TYPE, &[vec![0xd2], sign1].concat())
            .map(drop),
    );
}

#[test]
fn zero_and_overlarge_scalars_are_refused() {
    let header = [
        vec![0xa2, 0x01, 0x26, 0x03],
        Writer::new().text(CONTRACT_TYPE).finish(),
    ]
    .concat();
    for fill in [0x00, 0xff] {
        let sign1 = Writer::new()
            .array(4)
            .bytes(&header)
            .map(0)
            .bytes(b"payload")
            .bytes(&[fill; 64])
            .finish();
        assert_eq!(
            verifier().open(CONTRACT_TYPE, &sign1).unwrap_err().code,
            Code::SignatureInvalid
        );
    }
}

#[test]
fn keys_are_uncompressed_points_on_the_curve() {
    let right = signer().public_key();
    let mut off = right;
    off[64] ^= 1;
    let mut hybrid = right;
    hybrid[0] = 6 | (right[64] & 1);
    for bytes in [off, hybrid, [0; 65], [4; 65]] {
        assert_eq!(
            Verifier::new(&bytes).unwrap_err().code,
            Code::MalformedMessage
        );
    }
}

#[test]
fn a_signer_refuses_broken_entropy_and_says_nothing() {
    assert_eq!(
        Signer::generate(&mut Fixed([0; 32])).unwrap_err().code,
        Code::EntropyFailed
    );
    assert_eq!(
        Signer::generate(&mut Fixed([0xff; 32])).unwrap_err().code,
        Code::EntropyFailed
    );
    assert_eq!(format!("{:?}", signer()), "Signer(redacted)");
}
