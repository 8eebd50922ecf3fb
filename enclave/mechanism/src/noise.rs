//! Integer Gaussian noise, in constant time.
//!
//! A draw is `z = 2^18 y + fine - mean`: `y` from a table of cumulative probabilities, and a sum of 104 random bits with
//! weights from 1 to 2^17, more of the heavy ones than of the light. Its distribution is the rounded Gaussian
//! `round(N(0, SIGMA_UNITS²))` but for a divergence that `myelin.privacy.noise_law` states, derives and computes;
//! `myelin.privacy.noise` is the reference to which this module is equal bit for bit.
//!
//! Rounding commutes with adding an integer: a sum on the grid plus this noise is the rounded, so post-processed, output
//! of the continuous Gaussian mechanism. That is the whole privacy argument, and the accountant's.
//!
//! Most values of `y` need few random bits: 23 decide, unless they are among the last few of their 2^23 values. Then `y`
//! is taken from the lane's *reserve*, made with 63 bits from what the short table leaves over. A stream has four for
//! each of its sixteen lanes; that a lane's 256 draws need more is in the bound of `myelin.privacy.noise_law`.
//!
//! Every draw takes the same instructions on the same addresses: tables are compared with from end to end and never
//! indexed, and the reserve is blended in and moved up under masks. A draw is a function of key, step and coordinate;
//! ranges may be made in any order by any number of threads.

#![allow(
    clippy::indexing_slicing,
    reason = "loop counters into arrays of fixed length; bounds checks vanish, and lanes become vectors"
)]

use crate::keystream::{Keystream, LANES, Row, Rows};
use crate::table::{HEAD_END, RESERVE_ROWS, head_reached, reserve_reached};

/// Standard deviation of the noise, in units of the grid: 4 × 2^18.
pub const SIGMA_UNITS: u32 = 4 << FINE_BITS;

/// Coordinates that share one stream of the generator: coordinate `i` is in stream `i / 4096`. A range that starts within
/// a stream costs as much as one that starts where the stream does: keep tasks to whole streams.
pub const CHUNK_COORDINATES: u64 = 4096;

/// Coordinates of one step at most: 2^32 streams.
pub const MAX_COORDINATES: u64 = CHUNK_COORDINATES << 32;

/// The largest draw in magnitude.
pub const MAX_UNITS: i32 = ((RESERVE_ROWS as i32) << FINE_BITS) + FINE_MEAN;

/// Bits of the spacing of the coarse part.
const FINE_BITS: u32 = 18;

/// How many bits have weight `2^17`, `2^16`, … `1`.
const FINE_ORDERS: [i32; FINE_BITS as usize] =
    [16, 16, 9, 7, 6, 6, 5, 5, 4, 4, 4, 3, 3, 3, 3, 3, 3, 4];

/// Mean of the bits' sum: half of all weights, an integer.
const FINE_MEAN: i32 = {
    let (mut twice, mut place) = (0, 0);
    while place < FINE_BITS as usize {
        twice = 2 * twice + FINE_ORDERS[place];
        place += 1;
    }
    twice / 2
};

/// Draws that a group of words gives: four words each.
const GROUP_DRAWS: usize = 4 * LANES;

/// Values of `y` in reserve for each lane.
const RESERVE: usize = 4;

/// Lanes that one loop works on: as many as compare without masks on both targets.
const WIDTH: usize = 8;

/// Magnitudes of `y` for the draws whose 23 bits do not decide, the next one first.
type Reserve = [Row; RESERVE];

/// `a` where `mask` is all ones, `b` where it is zero.
#[inline(always)]
fn select(mask: u32, a: u32, b: u32) -> u32 {
    (mask & a) | (!mask & b)
}

/// The sum of the 104 bits of weights 1 to 2^17, but for its mean. `w0` has eight of them in its low byte; of the other
/// words all bits count. Fields are shifted so that their highest bit has weight 2^17.
#[inline(always)]
fn fine(w0: u32, w1: u32, w2: u32, w3: u32) -> u32 {
    // Three numbers of 18 bits.
    let wide = (w1 >> 14).wrapping_add(w2 >> 14).wrapping_add(w3 >> 14);
    // One of 11 bits, one of 8; one of 3, one of 6.
    let long = (w1 & 0x3ff8).wrapping_add(w2 & 0x3fc0) << 4;
    let short = ((w1 << 3) & 0x38).wrapping_add(w2 & 0x3f) << 12;
    // Seven of 2 bits, added in fields of four, eight and sixteen bits.
    let pairs = (w3 & 0x3333).wrapping_add((w3 >> 2) & 0x0333);
    let pairs = pairs.wrapping_add(pairs >> 4) & 0x0f0f;
    let pairs = (pairs.wrapping_add(pairs >> 8) & 0x1f) << 16;
    // One of 4 bits, one of 3, and one more of weight 1, which makes the mean an integer.
    let rest = ((w0 & 0xf0) << 10).wrapping_add((w0 & 0x0e) << 14);
    let rest = rest.wrapping_add(w0 & 1);
    wide.wrapping_add(long)
        .wrapping_add(short)
        .wrapping_add(pairs)
        .wrapping_add(rest)
}

/// Sixteen draws from four rows of words, a lane each. Bit 31 of the first word is the sign of `y`, bits 8 to 30 decide its
/// magnitude; the others are fine.
#[inline(always)]
fn draws(rows: &[Row; 4], reserve: &mut Reserve, out: &mut [i32; LANES]) {
    for part in 0..LANES / WIDTH {
        for place in 0..WIDTH {
            let l = part * WIDTH + place;
            let w0 = rows[0][l];
            let level = (w0 & 0x7fff_ffff) as i32;
            let sign = ((w0 as i32) >> 31) as u32;
            let undecided = 0u32.wrapping_sub(u32::from(level >= HEAD_END));
            let next = [reserve[0][l], reserve[1][l], reserve[2][l], reserve[3][l]];
            let magnitude = select(undecided, next[0], head_reached(level));
            reserve[0][l] = select(undecided, next[1], next[0]);
            reserve[1][l] = select(undecided, next[2], next[1]);
            reserve[2][l] = select(undecided, next[3], next[2]);
            let coarse = (magnitude ^ sign).wrapping_sub(sign) << FINE_BITS;
            let fine = fine(w0, rows[1][l], rows[2][l], rows[3][l]);
            out[l] = (coarse.wrapping_add(fine) as i32).wrapping_sub(FINE_MEAN);
        }
    }
}

/// The reserve of a stream, from the first eight rows of its first group: two rows, low first, for each value.
fn reserve(stream: &Keystream) -> Reserve {
    let mut rows: Rows = [[0; LANES]; 16];
    stream.group(0, &mut rows);
    let mut reserve: Reserve = [[0; LANES]; RESERVE];
    let (pairs, _) = rows.as_chunks::<2>();
    for (values, [low, high]) in reserve.iter_mut().zip(pairs) {
        for l in 0..LANES {
            let word = (u64::from(high[l]) << 32) | u64::from(low[l]);
            values[l] = reserve_reached((word >> 1) as i64);
        }
    }
    reserve
}

/// The 64 draws of group `number`, the reserve as the draws before have left it.
fn group(stream: &Keystream, number: u32, reserve: &mut Reserve, out: &mut [i32; GROUP_DRAWS]) {
    let mut rows: Rows = [[0; LANES]; 16];
    stream.group(number, &mut rows);
    let (quarters, _) = rows.as_chunks::<4>();
    let (outs, _) = out.as_chunks_mut::<LANES>();
    for (quarter, out) in quarters.iter().zip(outs) {
        draws(quarter, reserve, out);
    }
}

/// Fills `out` with the noise of the coordinates from `first_coordinate` on at `step`, in units of the grid.
///
/// `key`: 32 secret bytes. Coordinates are below [`MAX_COORDINATES`]; the plan is checked for that, and past it `out` is
/// left as it was.
pub fn fill(key: &[u8; 32], step: u64, first_coordinate: u64, out: &mut [i32]) {
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

/// Fills `out` with the draws from `within` on of one stream. The draws before are made too, for what they take from the
/// reserve.
fn fill_chunk(stream: &Keystream, within: usize, out: &mut [i32]) {
    let mut reserve = reserve(stream);
    let mut aside = [0; GROUP_DRAWS];
    // The first group is the reserve's.
    let mut number = 1;
    let mut skipped = 0;
    while within - skipped >= GROUP_DRAWS {
        group(stream, number, &mut reserve, &mut aside);
        number += 1;
        skipped += GROUP_DRAWS;
    }
    let skip = within - skipped;
    let head = if skip == 0 {
        0
    } else {
        out.len().min(GROUP_DRAWS - skip)
    };
    let (head, body) = out.split_at_mut(head);
    if !head.is_empty() {
        group(stream, number, &mut reserve, &mut aside);
        head.copy_from_slice(&aside[skip..skip + head.len()]);
        number += 1;
    }
    let (groups, tail) = body.as_chunks_mut::<GROUP_DRAWS>();
    for out in groups {
        group(stream, number, &mut reserve, out);
        number += 1;
    }
    if !tail.is_empty() {
        group(stream, number, &mut reserve, &mut aside);
        tail.copy_from_slice(&aside[..tail.len()]);
    }
}

#[cfg(test)]
#[path = "noise_tests.rs"]
mod tests;
