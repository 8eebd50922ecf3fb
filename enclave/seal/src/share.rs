//! The job key among the owners: n-of-n shares by exclusive or. All but one say nothing about the key.

use alloc::vec::Vec;

use myelin_wire::{Entropy, Error};

use crate::Secret;

/// Splits `key` into `count` shares, of which all are needed.
///
/// # Errors
/// `entropy_failed`.
pub fn split(key: &Secret, count: usize, entropy: &mut impl Entropy) -> Result<Vec<Secret>, Error> {
    let mut last = Secret::copied_from(key.expose());
    let mut shares = Vec::with_capacity(count);
    for _ in 1..count {
        let share = Secret::generate(entropy)?;
        last.xor(&share);
        shares.push(share);
    }
    shares.push(last);
    Ok(shares)
}

/// Joins all shares. Whether they were the right ones, [`crate::job_key_check`] tells.
#[must_use]
pub fn join<'a>(shares: impl Iterator<Item = &'a Secret>) -> Secret {
    let mut key = Secret::copied_from(&[0; 32]);
    shares.for_each(|share| key.xor(share));
    key
}
