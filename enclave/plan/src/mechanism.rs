//! What the numbers of a plan's mechanism must fulfil.

use crate::Dp;
use crate::check::{Result, require};

pub(crate) fn check_dp(dp: &Dp) -> Result<()> {
    require(dp.grid > 0.0, "grid", "not positive")?;
    require(dp.steps > 0, "steps", "zero")?;
    require(dp.microbatch > 0, "microbatch", "zero")?;
    require(dp.capacity > 0, "capacity", "zero")?;
    check_correlation(dp)?;
    require(dp.expected_batch_size > 0, "expected_batch_size", "zero")?;
    require(dp.clipping_norm_e9 > 0, "clipping_norm_e9", "zero")?;
    require(
        dp.noise_multiplier_e9 > 0,
        "noise_multiplier_e9",
        "zero: that is not private",
    )?;
    check_clipping(dp)?;
    require(
        dp.sensitivity_e9 >= dp.clipping_norm_e9,
        "sensitivity_e9",
        "below the clipping norm",
    )
}

/// Records are drawn, or take turns with noise that is correlated: coefficients that begin with one and never grow.
fn check_correlation(dp: &Dp) -> Result<()> {
    if dp.correlation.is_empty() {
        return require(dp.sampling_threshold > 0, "sampling_threshold", "zero");
    }
    require(
        dp.sampling_threshold == 0,
        "sampling_threshold",
        "not zero, and records take turns",
    )?;
    require(
        dp.correlation.first() == Some(&1_000_000_000)
            && dp.correlation.last() != Some(&0)
            && dp.correlation.is_sorted_by(|a, b| a >= b),
        "correlation",
        "not one, and then ever less",
    )
}

/// The event says how gradients were clipped in words that its readers know.
fn check_clipping(dp: &Dp) -> Result<()> {
    let numbers = &dp.clipping.numbers;
    let square = |number: u64| u128::from(number) * u128::from(number);
    let known = match dp.clipping.name.as_str() {
        "flat" => numbers.is_empty(),
        "automatic" => numbers.len() == 1,
        "per-layer" => {
            let squares = numbers.iter().map(|&number| square(number));
            let total = squares.fold(0_u128, u128::saturating_add);
            !numbers.is_empty() && total <= square(dp.clipping_norm_e9)
        }
        "adaptive" => match *numbers.as_slice() {
            [_, _, _, weight] => {
                square(1_000_000_000) + square(weight) <= square(dp.clipping_norm_e9)
            }
            _ => false,
        },
        _ => return require(false, "clipping", "no rule that is known"),
    };
    require(
        known && numbers.iter().all(|&number| number > 0),
        "clipping",
        "not the numbers of its rule",
    )
}
