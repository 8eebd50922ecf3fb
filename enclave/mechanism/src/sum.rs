//! The sum of clipped gradients, and its release: onto the grid, plus noise, divided by the public batch size.

/// Adds one physical batch's clipped sum to the accumulator, coordinate by coordinate, in float64.
///
/// Both slices must be equally long; what is longer is left alone.
pub fn accumulate(acc: &mut [f64], part: &[f32]) {
    debug_assert_eq!(acc.len(), part.len());
    for (total, &value) in acc.iter_mut().zip(part) {
        *total += f64::from(value);
    }
}

/// Largest magnitude of a sum in grid units: integers up to here are exact in float64, with the noise added.
const LIMIT_UNITS: f64 = (1u64 << 51) as f64;

/// Writes `(round_ties_even(acc / grid) + z) × grid / divisor` for every coordinate; returns how many sums were not finite.
pub fn noisy(acc: &[f64], grid: f64, divisor: u64, z: &[i64], out: &mut [f32]) -> u64 {
    debug_assert!(acc.len() == z.len() && acc.len() == out.len());
    let divisor = divisor as f64;
    let mut bad = 0u64;
    for ((&sum, &noise), out) in acc.iter().zip(z).zip(out) {
        let finite = sum.is_finite();
        bad += u64::from(!finite);
        let units = if finite { sum / grid } else { 0.0 };
        // Adding and subtracting 1.5 × 2^52 rounds to the nearest integer, ties to even, below 2^51.
        let magic = 6_755_399_441_055_744.0;
        let rounded = (units.clamp(-LIMIT_UNITS, LIMIT_UNITS) + magic) - magic;
        *out = ((rounded + noise as f64) * grid / divisor) as f32;
    }
    bad
}
