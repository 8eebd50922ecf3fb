//! Noise that is correlated over steps, by a banded matrix (arXiv:2306.08153), and the order in which records take part.
//!
//! With coefficients `c_0 = 1, c_1, …` a step releases `y_t = round(Σ c_j x_{t-j}) + z_t`, where `x_t` is the step's sum in
//! units of the grid and `z_t` fresh noise: the Gaussian mechanism on what the matrix makes of the sums. The gradient is
//! `y_t − Σ_{j ≥ 1} c_j o_{t-j}`, of what was released before: post-processing, in which most of the noise of earlier steps is
//! taken off again. `myelin.privacy.banded` is the reference, bit for bit.

use core::hint::black_box;

use crate::keystream::{Keystream, LANES, Rows};
use crate::sum::{finite, on_grid};

/// Numbers that a coordinate keeps: for each band a sum and a released gradient, both in units.
#[must_use]
pub const fn kept(bands: usize) -> usize {
    2 * bands
}

/// Releases the coordinates with these sums and this noise in step `turn`: their gradients, in units, are in the second half
/// of what each keeps, at `turn` modulo the bands.
///
/// `history`: [`kept`] numbers for each coordinate, zero before the first step. Slices are equally long but for that.
///
/// Returns how many sums were not finite, as [`crate::sum::noisy`] does.
#[must_use]
pub fn release(
    sums: &[f64],
    z: &[i32],
    coefficients: &[f64],
    grid: f64,
    turn: usize,
    history: &mut [f64],
) -> u64 {
    let (bands, units) = (coefficients.len().max(1), 1.0 / grid);
    let now = turn % bands;
    let mut nonfinite = 0_u64;
    let kept = history.chunks_exact_mut(kept(bands));
    for ((&sum, &noise), kept) in sums.iter().zip(z).zip(kept) {
        let (sum, finite) = finite(sum, black_box);
        nonfinite = nonfinite.wrapping_add(1 - finite);
        let (before, released) = kept.split_at_mut(bands);
        let (mut encoded, mut taken) = (sum * units, 0.0);
        for (place, &coefficient) in coefficients.iter().enumerate().skip(1) {
            let at = (now + bands - place) % bands;
            encoded += coefficient * before.get(at).copied().unwrap_or_default();
            taken += coefficient * released.get(at).copied().unwrap_or_default();
        }
        let rounded = on_grid(encoded);
        if let (Some(before), Some(released)) = (before.get_mut(now), released.get_mut(now)) {
            *before = sum * units;
            *released = (rounded + f64::from(noise)) - taken;
        }
    }
    nonfinite
}

/// Writes `released × (grid / divisor)` of step `turn` for every coordinate of `history`, as float32.
pub fn divide(
    history: &[f64],
    bands: usize,
    grid: f64,
    divisor: u64,
    turn: usize,
    out: &mut [f32],
) {
    let scale = grid / divisor as f64;
    for (kept, out) in history.chunks_exact(kept(bands)).zip(out) {
        let units = kept.get(bands + turn % bands).copied().unwrap_or_default();
        *out = (units * scale) as f32;
    }
}

/// The records' 64-bit words of step 0, in whose order they take turns. No privacy rests on it: who is in which batch changes
/// no bound, and the order of memory accesses may tell it.
pub fn turns(key: &[u8; 32], out: &mut [u64]) {
    let stream = Keystream::new(key, 0, 0);
    let mut rows: Rows = [[0; LANES]; 16];
    for (number, out) in (0_u32..).zip(out.chunks_mut(8 * LANES)) {
        stream.group(number, &mut rows);
        let (pairs, _) = rows.as_flattened().as_chunks::<2>();
        for (word, &[low, high]) in out.iter_mut().zip(pairs) {
            *word = (u64::from(high) << 32) | u64::from(low);
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    reason = "the arrays' lengths are written next to them"
)]
mod tests {
    use super::*;

    const GRID: f64 = 0.5;

    /// Coefficients 1, 1/2, 1/4; the encoded sums and the gradients, computed from the definition.
    #[test]
    fn encodes_adds_noise_and_takes_off_what_was_released() {
        let c = [1.0, 0.5, 0.25];
        let (sums, noise) = ([3.0, -1.25, 8.5, 0.25, 2.0], [5, -7, 11, 0, 3]);
        let mut history = [0.0; 6];
        let mut released: [f64; 5] = [0.0; 5];
        for (turn, (&sum, &z)) in sums.iter().zip(&noise).enumerate() {
            assert_eq!(release(&[sum], &[z], &c, GRID, turn, &mut history), 0);
            let earlier = |values: &[f64]| {
                let pairs = (1..c.len()).filter(|j| *j <= turn);
                pairs.map(|j| c[j] * values[turn - j]).sum::<f64>()
            };
            let encoded = (sum + earlier(&sums)) / GRID;
            released[turn] = encoded.round_ties_even() + f64::from(z) - earlier(&released);
            let mut out = [f32::NAN];
            divide(&history, 3, GRID, 4, turn, &mut out);
            assert_eq!(out[0], (released[turn] * GRID / 4.0) as f32, "{turn}");
        }
    }

    #[test]
    fn one_band_is_plain_noise() {
        let mut out = [0.0; 2];
        let mut history = [0.0; 4];
        for turn in 0..3 {
            assert_eq!(
                release(&[0.75, -3.0], &[1, 2], &[1.0], GRID, turn, &mut history),
                0
            );
            divide(&history, 1, GRID, 1, turn, &mut out);
            assert_eq!(out, [1.5, -2.0]);
        }
    }

    #[test]
    fn what_is_not_finite_counts_as_zero_and_is_reported() {
        let mut history = [0.0; 4];
        let sums = [f64::NAN, f64::INFINITY];
        assert_eq!(release(&sums, &[4, 4], &[1.0], GRID, 0, &mut history), 2);
        assert_eq!(history, [0.0, 4.0, 0.0, 4.0]);
    }
}
