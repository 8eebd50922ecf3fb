//! Dropout's masks, in constant time.
//!
//! An element is kept, and multiplied by the inverse of the probability of that, where its 32-bit word is below the
//! threshold; else it is zero. The words of an example are a stream of the dropout key's, by the record's index: so a mask is
//! a function of key, step, record, layer and element, wherever in whichever batch the example is computed.
//! `myelin.privacy.dropout` is the reference to which this module is equal bit for bit.
//!
//! Every element takes the same instructions on the same addresses, whatever the key, the record and the word.

use core::hint::black_box;

use crate::keystream::{Keystream, LANES, Rows};

/// Words, and so elements, of one group.
const GROUP: usize = 16 * LANES;

/// Groups of one example at most: as many as a stream has. All layers' together.
pub const MAX_GROUPS: u64 = 1 << 26;

/// Groups that an example's mask of so many elements takes.
#[must_use]
pub const fn groups(elements: usize) -> u64 {
    elements.div_ceil(GROUP) as u64
}

/// What a kept element is multiplied by: `2^32 / threshold`, the inverse of the probability with which it is kept.
#[must_use]
pub fn scale(threshold: u32) -> f32 {
    (4_294_967_296.0 / f64::from(threshold)) as f32
}

/// The masks of one step. Holds the key; it is overwritten when dropped.
pub struct Dropout(Keystream);

impl Dropout {
    /// `key`: 32 secret bytes.
    #[must_use]
    pub fn new(key: &[u8; 32], step: u64) -> Self {
        Self(Keystream::new(key, step, 0))
    }

    /// Fills `out` with one record's mask of one layer.
    ///
    /// `first_group`: how many groups the layers before take ([`groups`]); the plan is checked for [`MAX_GROUPS`] in all.
    /// `threshold`: an element is kept with probability `threshold / 2^32`. `scale`: what it then is.
    pub fn fill(
        &mut self,
        record: u32,
        first_group: u32,
        threshold: u32,
        scale: f32,
        out: &mut [f32],
    ) {
        self.0.turn(record);
        let mut rows: Rows = [[0; LANES]; 16];
        for (number, out) in (0u32..).zip(out.chunks_mut(GROUP)) {
            self.0.group(first_group.wrapping_add(number), &mut rows);
            for (out, &word) in out.iter_mut().zip(rows.as_flattened()) {
                *out = f32::from_bits(ones_if_below(word, threshold) & scale.to_bits());
            }
        }
        // Who has these knows the mask.
        for word in rows.as_flattened_mut() {
            *black_box(word) = 0;
        }
    }
}

/// All ones where `a` is below `b`, else zero: the borrow of their difference.
#[inline(always)]
fn ones_if_below(a: u32, b: u32) -> u32 {
    let below = (!a & b) | ((!a | b) & a.wrapping_sub(b));
    ((below as i32) >> 31) as u32
}

#[cfg(test)]
#[path = "dropout_tests.rs"]
mod tests;
