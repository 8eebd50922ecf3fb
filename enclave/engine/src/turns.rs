//! Steps whose noise is correlated: records take turns in batches that stay, and sums and gradients of a few steps are kept.
//!
//! *Guarantee:* a record is in one batch, so it takes part once in as many steps as there are batches, which
//! [`Turns::order`] sees to be no fewer than the bands. What a step releases is [`myelin_mechanism::banded::release`] of its
//! sums, with noise of [`myelin_mechanism::noise::fill`] as in any other step.

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use myelin_boundary::{Public, pool, public_all};
use myelin_mechanism::{banded, noise};
use myelin_plan::Dp;
use myelin_wire::{Code, Error};
use zeroize::Zeroize;

use crate::TrainingEngine;
use crate::engine::{lanes, outside};
use crate::gather::write;
use crate::step::{BLOCK, CHUNK, Lines, Totals, all_finite, task};

/// Whose turn it is, and what steps leave for those after. Empty where records are drawn.
pub(crate) struct Turns {
    /// All records, in the order in which they take turns.
    order: Vec<u32>,
    coefficients: Vec<f64>,
    /// [`banded::kept`] numbers of every coordinate.
    history: Vec<f64>,
}

impl Turns {
    pub(crate) fn new(dp: &Dp, parameters: usize) -> Self {
        let coefficients: Vec<f64> = dp.correlation.iter().map(|&c| c as f64 / 1e9).collect();
        Self {
            order: Vec::new(),
            history: alloc::vec![0.0; parameters * banded::kept(coefficients.len())],
            coefficients,
        }
    }

    /// Fixes the order of the records.
    ///
    /// A record whose turn came again within as many steps as there are bands would be protected less than the event says:
    /// such datasets are refused.
    pub(crate) fn order(
        &mut self,
        key: &[u8; 32],
        dataset_size: u32,
        dp: &Dp,
    ) -> Result<(), Error> {
        let (bands, records) = (self.coefficients.len(), dataset_size as usize);
        if bands == 0 {
            return Ok(());
        }
        let batches = records.div_ceil(dp.capacity);
        if batches < bands {
            let detail =
                format!("{records} records make {batches} batches, fewer than {bands} bands");
            return Err(Error::new(Code::DataHeaderInvalid, detail).fatal());
        }
        let mut words = alloc::vec![0_u64; records];
        banded::turns(key, &mut words);
        public_all(&mut words, Public::Turns);
        self.order = (0..dataset_size).collect();
        self.order
            .sort_unstable_by_key(|&index| (words.get(index as usize).copied(), index));
        Ok(())
    }

    /// Puts the records whose turn it is in step `number`, 1 at the first, into the first of `drawn`.
    pub(crate) fn fill(&self, number: u32, capacity: usize, drawn: &mut [u32]) {
        let batches = self.order.len().div_ceil(capacity).max(1);
        let turn = (number as usize).wrapping_sub(1) % batches;
        let batch = self.order.chunks(capacity).nth(turn).unwrap_or_default();
        for (slot, &index) in drawn.iter_mut().zip(batch) {
            *slot = index;
        }
    }

    pub(crate) fn wipe(&mut self) {
        self.order.zeroize();
        self.history.zeroize();
    }
}

impl TrainingEngine {
    /// As `release_gradients`, with noise that is correlated with that of earlier steps.
    pub(crate) fn release_correlated(&mut self, step: u32) -> Result<(), Error> {
        let (plan, key) = (&self.plan, &self.keys.noise);
        let (mut shared, views) = self.arena.split(lanes(plan)).ok_or_else(outside)?;
        let totals = Totals::new(plan, &self.lanes, views);
        let coefficients = &self.turns.coefficients;
        let (bands, turn) = (coefficients.len(), step as usize);
        let width = banded::kept(bands);
        let mut rest = self.turns.history.as_mut_slice();
        let mut first_coordinate = 0;
        for (index, role) in plan.roles.parameters.iter().enumerate() {
            let out = write::<f32>(&mut shared, plan, role.noisy_gradient)?;
            let count = out.len();
            let (history, after) = rest
                .split_at_mut_checked(count * width)
                .ok_or_else(outside)?;
            rest = after;
            let not_finite = AtomicU64::new(0);
            pool().run_chunks(history, task(count) * width, &|first, history| {
                let (mut lines, mut sums) = (Lines([0; CHUNK]), [0.0_f64; BLOCK]);
                let mut bad = 0;
                for (number, history) in history.chunks_mut(CHUNK * width).enumerate() {
                    let first = first / width + number * CHUNK;
                    let units = lines.0.get_mut(..history.len() / width).unwrap_or_default();
                    noise::fill(
                        key,
                        u64::from(step),
                        (first_coordinate + first) as u64,
                        units,
                    );
                    let blocks = units.chunks(BLOCK).zip(history.chunks_mut(BLOCK * width));
                    for (block, (units, history)) in blocks.enumerate() {
                        let sums = sums.get_mut(..units.len()).unwrap_or_default();
                        totals.fill(index, first + block * BLOCK, sums);
                        let more =
                            banded::release(sums, units, coefficients, plan.dp.grid, turn, history);
                        bad = u64::wrapping_add(bad, more);
                    }
                }
                not_finite.fetch_add(bad, Ordering::Relaxed);
                lines.0.zeroize();
                sums.zeroize();
            });
            all_finite(not_finite)?;
            let history = &*history;
            pool().run_chunks(out, task(count), &|first, out| {
                let history = history.get(first * width..).unwrap_or_default();
                let divisor = plan.dp.expected_batch_size;
                banded::divide(history, bands, plan.dp.grid, divisor, turn, out);
            });
            first_coordinate += count.next_multiple_of(CHUNK);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use myelin_plan::Rule;

    const KEY: [u8; 32] = [5; 32];

    fn dp(bands: usize) -> Dp {
        Dp {
            sampling_threshold: 0,
            capacity: 4,
            microbatch: 2,
            steps: 9,
            noise_multiplier_e9: 1,
            clipping: Rule {
                name: "flat".into(),
                numbers: Vec::new(),
            },
            correlation: alloc::vec![1_000_000_000; bands],
            augment: Vec::new(),
            views: 1,
            clipping_norm_e9: 1,
            sensitivity_e9: 1,
            expected_batch_size: 4,
            grid: 1.0,
        }
    }

    #[test]
    fn everyone_has_one_turn_in_as_many_steps_as_there_are_batches() {
        let mut turns = Turns::new(&dp(3), 1);
        turns.order(&KEY, 10, &dp(3)).unwrap();
        let batch = |number| {
            let mut drawn = [u32::MAX; 4];
            turns.fill(number, 4, &mut drawn);
            drawn
        };
        let mut seen: Vec<u32> = (1..=3).flat_map(batch).collect();
        assert_ne!(seen.get(..4).unwrap(), [0, 1, 2, 3]);
        assert_eq!(seen.get(10..).unwrap(), [u32::MAX; 2]);
        seen.sort_unstable();
        assert!(seen.iter().copied().eq((0..10).chain([u32::MAX; 2])));
        assert_eq!(batch(4), batch(1));
        assert_eq!(batch(9), batch(3));
    }

    #[test]
    fn a_turn_that_would_come_again_too_soon_is_refused() {
        let refused = |records| Turns::new(&dp(3), 1).order(&KEY, records, &dp(3));
        assert!(refused(9).is_ok());
        let error = refused(8).unwrap_err();
        assert_eq!(error.code, Code::DataHeaderInvalid);
        assert!(error.fatal);
    }

    #[test]
    fn where_records_are_drawn_nothing_is_kept() {
        let mut turns = Turns::new(&dp(0), 7);
        turns.order(&KEY, 1, &dp(0)).unwrap();
        assert!(turns.history.is_empty() && turns.order.is_empty());
    }
}
