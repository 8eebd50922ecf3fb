//! Integer Gaussian noise, in constant time.
//!
//! A draw is `z = 2^16 y + u_1 + … + u_12 − 6 (2^16 − 1)`: `y` from a table of cumulative probabilities, and twelve
//! uniform 16-bit integers. Its distribution is the rounded Gaussian `round(N(0, SIGMA_UNITS²))` within a total variation
//! distance that `myelin.privacy.noise` states, derives and computes; that module is also the reference to which this one
//! is equal bit for bit.
//!
//! Rounding commutes with adding an integer: a sum on the grid plus this noise is the rounded, so post-processed, output
//! of the continuous Gaussian mechanism. That is the whole privacy argument, and the accountant's.
//!
//! Every draw takes the same instructions on the same addresses: the table is compared with from end to end, and never
//! indexed. A draw is a function of key, step and coordinate; ranges may be made in any order by any number of threads.

#![allow(
    clippy::indexing_slicing,
    reason = "loop counters into arrays of fixed length; bounds checks vanish, and lanes become vectors"
)]

use crate::keystream::{Keystream, LANES, Row, Rows};
use crate::table::{ROWS, reached};

/// Standard deviation of the noise, in units of the grid: 12 × 2^16.
pub const SIGMA_UNITS: u32 = 12 << 16;

/// Coordinates that share one stream of the generator: coordinate `i` is in stream `i / 4096`.
pub const CHUNK_COORDINATES: u64 = 4096;

/// Coordinates of one step at most: 2^32 streams.
pub const MAX_COORDINATES: u64 = CHUNK_COORDINATES << 32;

/// The largest draw in magnitude.
pub const MAX_UNITS: i64 = ((ROWS as i64) << FINE_BITS) + UNIFORM_MEAN;

/// Bits of one uniform, and of the spacing of the coarse part.
const FINE_BITS: u32 = 16;

/// Mean of the twelve uniforms' sum.
const UNIFORM_MEAN: i64 = 6 * ((1 << FINE_BITS) - 1);

/// Draws that sixteen blocks give: two a block.
const GROUP_DRAWS: usize = 2 * LANES;

/// Sixteen draws from eight words of sixteen blocks: the first two words are the table's 64 bits (the lowest is the sign),
/// the halves of the other six are the uniforms.
#[inline]
fn draws(rows: &[Row; 8], out: &mut [i64; LANES]) {
    for l in 0..LANES {
        let word = (u64::from(rows[1][l]) << 32) | u64::from(rows[0][l]);
        let magnitude = reached((word >> 1) as i64);
        let sign = -((word & 1) as i64);
        let coarse = (magnitude ^ sign).wrapping_sub(sign) << FINE_BITS;
        // Twelve halves of six words, below 2^20 together.
        let halves = |word: u32| (word & 0xffff).wrapping_add(word >> FINE_BITS);
        let fine = halves(rows[2][l])
            .wrapping_add(halves(rows[3][l]))
            .wrapping_add(halves(rows[4][l]))
            .wrapping_add(halves(rows[5][l]))
            .wrapping_add(halves(rows[6][l]))
            .wrapping_add(halves(rows[7][l]));
        out[l] = coarse
            .wrapping_add(i64::from(fine))
            .wrapping_sub(UNIFORM_MEAN);
    }
}

/// The 32 draws of the sixteen blocks from `first_block` on.
fn group(stream: &Keystream, first_block: u32, out: &mut [i64; GROUP_DRAWS]) {
    let mut rows: Rows = [[0; LANES]; 16];
    stream.group(first_block, &mut rows);
    let (halves, _) = rows.as_chunks::<8>();
    let (outs, _) = out.as_chunks_mut::<LANES>();
    for (half, out) in halves.iter().zip(outs) {
        draws(half, out);
    }
}

/// Fills `out` with the noise of the coordinates from `first_coordinate` on at `step`, in units of the grid.
///
/// `key`: 32 secret bytes. Coordinates are below [`MAX_COORDINATES`]; the plan is checked for that, and past it `out` is
/// left as it was.
pub fn fill(key: &[u8; 32], step: u64, first_coordinate: u64, out: &mut [i64]) {
    let mut coordinate = first_coordinate;
    let mut rest = out;
    while !rest.is_empty() {
        let Ok(number) = u32::try_from(coordinate / CHUNK_COORDINATES) else {
            return;
        };
        let within = coordinate % CHUNK_COORDINATES;
        let length = rest.len().min((CHUNK_COORDINATES - within) as usize);
        let (chunk, after) = rest.split_at_mut(length);
        fill_chunk(&Keystream::new(key, step, number), within as usize, chunk);
        coordinate += length as u64;
        rest = after;
    }
}

/// Fills `out` with the draws from `within` on of one stream: whole groups, and parts of one at either end.
fn fill_chunk(stream: &Keystream, within: usize, out: &mut [i64]) {
    let skip = within % GROUP_DRAWS;
    let mut block = (within / GROUP_DRAWS * LANES) as u32;
    let head = if skip == 0 {
        0
    } else {
        out.len().min(GROUP_DRAWS - skip)
    };
    let (head, body) = out.split_at_mut(head);
    let mut partial = [0; GROUP_DRAWS];
    if !head.is_empty() {
        group(stream, block, &mut partial);
        head.copy_from_slice(&partial[skip..skip + head.len()]);
        block += LANES as u32;
    }
    let (groups, tail) = body.as_chunks_mut::<GROUP_DRAWS>();
    for out in groups {
        group(stream, block, out);
        block += LANES as u32;
    }
    if !tail.is_empty() {
        group(stream, block, &mut partial);
        tail.copy_from_slice(&partial[..tail.len()]);
    }
}
