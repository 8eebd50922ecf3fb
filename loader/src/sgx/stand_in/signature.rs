//! SIGSTRUCT as the processor checks it: the signature is cubed with two quotients that come with it, without dividing.

use sha2::{Digest, Sha256};

const HEADER: [u8; 16] = [6, 0, 0, 0, 0xe1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
const HEADER2: [u8; 16] = [1, 1, 0, 0, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 1, 0, 0, 0];
const RESERVED: [std::ops::Range<usize>; 4] = [44..128, 908..912, 992..1008, 1028..1040];
/// Of SHA-256, in a signature of PKCS #1.
const ALGORITHM: [u8; 19] =
    [0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20];

/// A number in 32-bit parts, the lowest first.
type Number = Vec<u32>;

fn number(bytes: &[u8]) -> Number {
    bytes.chunks(4).map(|part| u32::from_le_bytes([part[0], part[1], part[2], part[3]])).collect()
}

fn times(a: &[u32], b: &[u32]) -> Number {
    let mut product = vec![0_u32; a.len() + b.len()];
    for (i, &x) in a.iter().enumerate() {
        let mut carry = 0_u64;
        for (j, &y) in b.iter().enumerate() {
            let sum = u64::from(x) * u64::from(y) + u64::from(product[i + j]) + carry;
            (product[i + j], carry) = (sum as u32, sum >> 32);
        }
        product[i + b.len()] = carry as u32;
    }
    product
}

/// `a - b`, where that is neither negative nor `limit` or more.
fn minus(a: &[u32], b: &[u32], limit: &[u32]) -> Option<Number> {
    let (mut difference, mut borrow) = (Vec::with_capacity(a.len()), 0_i64);
    for (&x, &y) in a.iter().zip(b) {
        let step = i64::from(x) - i64::from(y) + borrow;
        difference.push(step as u32);
        borrow = step >> 32;
    }
    let (low, high) = difference.split_at(limit.len());
    let fits = borrow == 0 && high.iter().all(|&part| part == 0) && low.iter().rev().lt(limit.iter().rev());
    fits.then(|| low.to_vec())
}

/// Checks all that the processor does of the structure alone. Answers MRSIGNER.
pub fn check(structure: &[u8; 1808]) -> Option<[u8; 32]> {
    let form = structure[..16] == HEADER
        && structure[24..40] == HEADER2
        && structure[512..516] == [3, 0, 0, 0]
        && RESERVED.iter().all(|range| structure[range.clone()].iter().all(|&byte| byte == 0));
    let modulus = number(&structure[128..512]);
    if !form || modulus.last()? >> 31 == 0 {
        return None;
    }
    let [signature, first, second] = [516, 1040, 1424].map(|at| number(&structure[at..at + 384]));
    let square = minus(&times(&signature, &signature), &times(&first, &modulus), &modulus)?;
    let cube = minus(&times(&square, &signature), &times(&second, &modulus), &modulus)?;
    let digest = Sha256::new().chain_update(&structure[..128]).chain_update(&structure[900..1028]).finalize();
    let mut padded = [0xff_u8; 384];
    (padded[0], padded[1], padded[384 - 52]) = (0, 1, 0);
    padded[384 - 51..384 - 32].copy_from_slice(&ALGORITHM);
    padded[384 - 32..].copy_from_slice(&digest);
    padded.reverse();
    (cube == number(&padded)).then(|| Sha256::digest(&structure[128..512]).into())
}
