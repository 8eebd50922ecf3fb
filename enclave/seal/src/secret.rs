//! Secrets of 32 bytes, which are wiped when they are dropped and never printed.

use alloc::boxed::Box;

use myelin_wire::{Entropy, Error};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

/// 32 secret bytes. They live on the heap, so that moving the value leaves no copy behind; not `Clone` on purpose.
pub struct Secret(Box<[u8; 32]>);

impl Secret {
    /// Draws a secret.
    ///
    /// # Errors
    /// `entropy_failed`.
    pub fn generate(entropy: &mut impl Entropy) -> Result<Self, Error> {
        let mut secret = Self(Box::new([0; 32]));
        entropy.fill(secret.0.as_mut_slice())?;
        Ok(secret)
    }

    /// Copies a secret; the caller wipes what it was copied from.
    #[must_use]
    pub fn copied_from(bytes: &[u8; 32]) -> Self {
        Self(Box::new(*bytes))
    }

    /// The bytes, for the one call that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn expose_mut(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }

    /// Adds `other` bit by bit.
    pub(crate) fn xor(&mut self, other: &Self) {
        for (to, from) in self.0.iter_mut().zip(other.0.iter()) {
            *to ^= from;
        }
    }

    /// Compares in constant time.
    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret(redacted)")
    }
}
