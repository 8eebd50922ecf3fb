//! The pseudorandom function behind sampler and noise: AES-256 in counter mode (SP 800-38A).
//!
//! A stream's words are those of its blocks, one after another, little-endian. They are made 256 at a time: a *group*, 64
//! blocks.

use myelin_boundary::{AES_BLOCKS, Aes256Ctr, AesBlock};

/// Words of one row of a group: what loops over lanes work on.
pub(crate) const LANES: usize = 16;

/// Sixteen words that follow each other.
pub(crate) type Row = [u32; LANES];

/// A group: 256 words that follow each other.
pub(crate) type Rows = [Row; 16];

/// Blocks of one group.
const GROUP_BLOCKS: u32 = 64;

/// One keyed stream: a 32-byte key, and counter blocks `step (u64 LE) ‖ stream (u32 LE) ‖ block (u32 BE)`.
///
/// Holds the key; it is overwritten when dropped.
pub(crate) struct Keystream {
    cipher: Aes256Ctr,
    nonce: [u32; 3],
}

impl Keystream {
    /// The stream `stream` of step `step` under `key`.
    pub(crate) fn new(key: &[u8; 32], step: u64, stream: u32) -> Self {
        Self {
            cipher: Aes256Ctr::new(key),
            nonce: [step as u32, (step >> 32) as u32, stream],
        }
    }

    /// Goes on with another stream of the same key and step.
    pub(crate) fn turn(&mut self, stream: u32) {
        self.nonce[2] = stream;
    }

    /// The sixteen blocks with the given counters.
    #[inline]
    pub(crate) fn blocks(&self, counters: &[u32; AES_BLOCKS], out: &mut [AesBlock; AES_BLOCKS]) {
        self.cipher.blocks(self.nonce, counters, out);
    }

    /// Group `number`: blocks `64 × number` and on (a counter past 2^32 wraps, and callers keep below it).
    #[inline]
    pub(crate) fn group(&self, number: u32, rows: &mut Rows) {
        let first = number.wrapping_mul(GROUP_BLOCKS);
        let (parts, _) = rows.as_flattened_mut().as_chunks_mut::<4>();
        let (parts, _) = parts.as_chunks_mut::<AES_BLOCKS>();
        for (part, out) in (0u32..).zip(parts) {
            let start = first.wrapping_add(part.wrapping_mul(AES_BLOCKS as u32));
            self.blocks(&core::array::from_fn(|i| start.wrapping_add(i as u32)), out);
        }
    }
}

#[cfg(test)]
#[path = "keystream_tests.rs"]
mod tests;
