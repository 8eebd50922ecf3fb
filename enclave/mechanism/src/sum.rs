//! Sums of clipped gradients, and their release: onto the noise's grid, plus noise, divided by the public batch size.

/// Sums are kept within this many grid units: integers up to here, with noise added, are exact in float64. A plan's sums
/// stay far below; clamping moves no two sums apart.
const LIMIT_UNITS: f64 = (1u64 << 51) as f64;

/// Adding and subtracting 1.5 × 2^52 rounds to an integer, ties to even, for magnitudes up to 2^51.
const ROUNDING: f64 = 6_755_399_441_055_744.0;

/// A sum that counts, and whether it is finite, 0 or 1: one that is not counts as 0. `hide` is the identity: where it is a
/// barrier, the compiler makes no branch of the mask, and no vectors.
#[inline(always)]
pub(crate) fn finite(sum: f64, hide: impl Fn(u64) -> u64) -> (f64, u64) {
    // By arithmetic on the exponent, whose bits are all ones where it is not: of a comparison the compiler makes a branch.
    let bits = sum.to_bits();
    let not_finite = ((bits >> 52) & 0x7ff).wrapping_add(1) >> 11;
    (
        f64::from_bits(bits & hide(not_finite.wrapping_sub(1))),
        1_u64.wrapping_sub(not_finite),
    )
}

/// The integer nearest to so many units, ties to even.
#[inline(always)]
#[allow(clippy::manual_clamp)] // `clamp` compares its bounds, and panics: a branch.
pub(crate) fn on_grid(units: f64) -> f64 {
    // Not `clamp`, which compiles to branches.
    (units.max(-LIMIT_UNITS).min(LIMIT_UNITS) + ROUNDING) - ROUNDING
}

/// The accumulator of a first physical batch: its clipped sum, in float64.
///
/// The slices are equally long; of a longer one the rest is left alone.
pub fn begin(acc: &mut [f64], part: &[f32]) {
    debug_assert_eq!(acc.len(), part.len());
    for (total, &value) in acc.iter_mut().zip(part) {
        *total = f64::from(value);
    }
}

/// Adds one physical batch's clipped sum to the accumulator, coordinate by coordinate, in float64.
///
/// The slices are equally long; of a longer one the rest is left alone.
pub fn accumulate(acc: &mut [f64], part: &[f32]) {
    debug_assert_eq!(acc.len(), part.len());
    for (total, &value) in acc.iter_mut().zip(part) {
        *total += f64::from(value);
    }
}

/// Writes `(round_ties_even(acc × (1 / grid)) + z) × (grid / divisor)` as float32 for every coordinate; all arithmetic
/// before the last rounding is float64.
///
/// `grid`: width of a unit, positive and far from what float64 cannot hold. `divisor`: the public expected batch size.
/// `z`: noise in units ([`crate::noise::fill`]). All slices are equally long.
///
/// Returns how many sums were not finite. Clipping makes that impossible, so any is a defect: they count as 0, get their
/// noise like all others, and the caller stops.
#[must_use]
pub fn noisy(acc: &[f64], grid: f64, divisor: u64, z: &[i32], out: &mut [f32]) -> u64 {
    debug_assert!(acc.len() == z.len() && acc.len() == out.len());
    // Two divisions a coordinate would take as long as a quarter of its noise.
    let (units, scale) = (1.0 / grid, grid / divisor as f64);
    let mut nonfinite = 0u64;
    for ((&sum, &noise), out) in acc.iter().zip(z).zip(out) {
        let (kept, finite) = finite(sum, |mask| mask);
        nonfinite = nonfinite.wrapping_add(1 - finite);
        let rounded = on_grid(kept * units);
        *out = ((rounded + f64::from(noise)) * scale) as f32;
    }
    nonfinite
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One coordinate released with grid 0.5 and divisor 4: half units and quarters show rounding and order.
    fn release(sum: f64, z: i32) -> (f32, u64) {
        let mut out = [f32::NAN];
        let nonfinite = noisy(&[sum], 0.5, 4, &[z], &mut out);
        (out[0], nonfinite)
    }

    #[test]
    fn rounds_ties_to_even_then_adds_then_scales() {
        for (sum, units) in [
            (0.0, 0),
            (0.25, 0),
            (0.75, 2),
            (1.25, 2),
            (-0.25, 0),
            (-0.75, -2),
            (0.26, 1),
            (1e6, 2_000_000),
        ] {
            assert_eq!(release(sum, 0), (units as f32 * 0.125, 0), "{sum}");
            assert_eq!(release(sum, 7), ((units + 7) as f32 * 0.125, 0), "{sum}");
            assert_eq!(release(sum, -7), ((units - 7) as f32 * 0.125, 0), "{sum}");
        }
    }

    #[test]
    fn equals_the_library_rounding() {
        let mut state = 1u64;
        for _ in 0..10_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let sum = (state as i64) as f64 / (1u64 << (state % 64)) as f64;
            let expected = (sum * (1.0 / 3.0))
                .clamp(-LIMIT_UNITS, LIMIT_UNITS)
                .round_ties_even();
            let mut out = [0.0];
            assert_eq!(noisy(&[sum], 3.0, 1, &[5], &mut out), 0);
            assert_eq!(out[0], ((expected + 5.0) * 3.0) as f32);
        }
    }

    #[test]
    fn what_is_not_finite_counts_as_zero_and_is_reported() {
        let acc = [f64::NAN, 1.0, f64::INFINITY, f64::NEG_INFINITY];
        let mut out = [0.0; 4];
        assert_eq!(noisy(&acc, 0.5, 1, &[1, 1, 1, 1], &mut out), 3);
        assert_eq!(out, [0.5, 1.5, 0.5, 0.5]);
        assert!(release(f64::MAX, 0).0.is_finite());
    }

    #[test]
    fn accumulates_in_float64() {
        let mut acc = [f64::NAN; 2];
        begin(&mut acc, &[1e9, -1.0]);
        for _ in 0..1000 {
            accumulate(&mut acc, &[1e-3, 0.5]);
        }
        assert!((acc[0] - (1e9 + 1000.0 * f64::from(1e-3f32))).abs() < 1e-4);
        assert_eq!(acc[1], 499.0);
    }
}
