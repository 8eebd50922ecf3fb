//! Augmented views of records, in constant time.
//!
//! A view is a function of the record, the augmentation key, step, the record's index and the view's number: view `v` has the
//! words of group `v` of the record's stream, each augmentation two of them in turn. `myelin.privacy.augment` is the reference
//! to which this module is equal bit for bit.
//!
//! Every view takes the same instructions on the same addresses, whatever the key, the record, the words and the pixels: an
//! image is moved by looking at it from every distance that there could be, and keeping one.

use core::hint::black_box;

use crate::keystream::{Keystream, LANES, Rows};

/// What makes another image of an image, by two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Augmentation {
    /// Mirrored left to right where the first word is below `2^31`.
    Flip,
    /// Moved by up to `padding` pixels, down by the first word and across by the second.
    Crop {
        /// Less than height and width.
        padding: usize,
        /// Beyond the border is the image mirrored about its outermost pixels, else zero.
        reflected: bool,
    },
}

/// Size of an image: `planes × height × width` numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Channels.
    pub planes: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// The augmentations of one step. Holds the key; it is overwritten when dropped.
pub struct Augment(Keystream);

impl Augment {
    /// `key`: 32 secret bytes.
    #[must_use]
    pub fn new(key: &[u8; 32], step: u64) -> Self {
        Self(Keystream::new(key, step, 0))
    }

    /// Makes of `image`, one record's as the model sees it, its view number `view`.
    ///
    /// `plane`: room for `height × width` numbers, which are overwritten before and after. Numbers of the image beyond those of
    /// its size stay as they are.
    pub fn apply(
        &mut self,
        record: u32,
        view: u32,
        augmentations: &[Augmentation],
        size: Size,
        image: &mut [f32],
        plane: &mut [f32],
    ) {
        self.0.turn(record);
        let mut rows: Rows = [[0; LANES]; 16];
        self.0.group(view, &mut rows);
        let area = size.height * size.width;
        let (pairs, _) = rows.as_flattened().as_chunks::<2>();
        for (augmentation, &words) in augmentations.iter().zip(pairs) {
            for image in image.chunks_exact_mut(area.max(1)).take(size.planes) {
                let plane = plane.get_mut(..area).unwrap_or_default();
                one(*augmentation, words, size, image, plane);
            }
        }
        plane.fill(0.0);
        // Who has these knows the view.
        for word in rows.as_flattened_mut() {
            *black_box(word) = 0;
        }
    }
}

/// One augmentation of one plane.
fn one(
    augmentation: Augmentation,
    words: [u32; 2],
    size: Size,
    image: &mut [f32],
    old: &mut [f32],
) {
    match augmentation {
        Augmentation::Flip => {
            let flipped = black_box(((!words[0] as i32) >> 31) as u32);
            for row in image.chunks_exact_mut(size.width) {
                flip(row, flipped);
            }
        }
        Augmentation::Crop { padding, reflected } => {
            let [down, across] = words.map(|word| {
                let distances = 2 * padding as u64 + 1;
                ((u64::from(word) * distances) >> 32) as u32
            });
            old.copy_from_slice(image);
            image.fill(0.0);
            for distance in 0..2 * padding + 1 {
                let kept = ones_if_equal(distance as u32, down);
                for (y, row) in image.chunks_exact_mut(size.width).enumerate() {
                    let Some(from) = source(y + distance, padding, size.height, reflected) else {
                        continue;
                    };
                    let from = old.get(from * size.width..).unwrap_or_default();
                    keep(row, from, kept);
                }
            }
            old.copy_from_slice(image);
            image.fill(0.0);
            for distance in 0..2 * padding + 1 {
                let kept = ones_if_equal(distance as u32, across);
                let rows = image.chunks_exact_mut(size.width);
                for (row, old) in rows.zip(old.chunks_exact(size.width)) {
                    move_row(row, old, distance, padding, reflected, kept);
                }
            }
        }
    }
}

/// Exchanges a row's halves where `flipped` is all ones; leaves it where it is zero.
#[inline(always)]
fn flip(row: &mut [f32], flipped: u32) {
    let half = row.len() / 2;
    let (left, right) = row.split_at_mut(half);
    for (a, b) in left.iter_mut().zip(right.iter_mut().rev()) {
        let changed = (a.to_bits() ^ b.to_bits()) & flipped;
        (*a, *b) = (
            f32::from_bits(a.to_bits() ^ changed),
            f32::from_bits(b.to_bits() ^ changed),
        );
    }
}

/// Where a pixel comes from that is at `moved − padding`: there, or, beyond the border, mirrored or nowhere.
#[inline(always)]
fn source(moved: usize, padding: usize, size: usize, reflected: bool) -> Option<usize> {
    match moved.checked_sub(padding) {
        Some(place) if place < size => Some(place),
        Some(place) if reflected => Some(2 * (size - 1) - place),
        None if reflected => Some(padding - moved),
        _ => None,
    }
}

/// Adds to a row, bit by bit, what another row has at `distance − padding` further on, if it is kept.
#[inline(always)]
fn move_row(
    row: &mut [f32],
    old: &[f32],
    distance: usize,
    padding: usize,
    reflected: bool,
    kept: u32,
) {
    let size = row.len();
    let (first, last) = (
        padding.saturating_sub(distance),
        (size + padding - distance).min(size),
    );
    let from = old.get(first + distance - padding..).unwrap_or_default();
    keep(row.get_mut(first..last).unwrap_or_default(), from, kept);
    for x in (0..first).chain(last..size) {
        if let Some(place) = source(x + distance, padding, size, reflected) {
            let (Some(out), Some(from)) = (row.get_mut(x), old.get(place)) else {
                continue;
            };
            *out = f32::from_bits(out.to_bits() | (from.to_bits() & kept));
        }
    }
}

/// Adds one row to another, bit by bit, where `kept` is all ones; nothing where it is zero.
#[inline(always)]
fn keep(row: &mut [f32], from: &[f32], kept: u32) {
    for (out, from) in row.iter_mut().zip(from) {
        *out = f32::from_bits(out.to_bits() | (from.to_bits() & kept));
    }
}

/// All ones where both are equal, else zero. The compiler is not to know that these are the only two: it would branch on it.
#[inline(always)]
fn ones_if_equal(a: u32, b: u32) -> u32 {
    let different = a ^ b;
    black_box((((different | different.wrapping_neg()) as i32) >> 31) as u32 ^ u32::MAX)
}

#[cfg(test)]
#[path = "augment_tests.rs"]
mod tests;
