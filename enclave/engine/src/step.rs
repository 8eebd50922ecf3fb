//! One logical step.

use core::sync::atomic::{AtomicU64, Ordering};

use myelin_boundary::{Element, pool};
use myelin_mechanism::{Sampler, noise, sum};
use myelin_wire::{Code, Error};
use zeroize::Zeroize;

use crate::TrainingEngine;
use crate::engine::{outside, run_calls, tensor};

/// Coordinates that one task sums or noises.
const CHUNK: usize = 4096;

impl TrainingEngine {
    /// Draws, runs every physical batch, noises, updates.
    ///
    /// The number of a step, 1 at the first, is the `step` of sampler and noise too.
    pub(crate) fn logical_step(&mut self) -> Result<(), Error> {
        let number = self.steps_done + 1;
        self.drawn.fill(u32::MAX);
        Sampler::draw(
            &self.keys.sampling,
            u64::from(number),
            self.dataset_size,
            self.plan.dp.sampling_threshold,
            self.plan.dp.capacity as u32,
            &mut self.drawn,
        );
        self.sums.fill(0.0);
        for batch in 0..self.plan.physical_batches() {
            self.physical_batch(batch)?;
        }
        self.release_gradients(u64::from(number))?;
        if let Some(index) = self.plan.roles.step_number {
            let place = self.write::<i32>(index)?;
            place.fill(number as i32);
        }
        run_calls(
            &self.plan,
            &self.kernels,
            &mut self.arena,
            &self.plan.update,
        )?;
        self.steps_done = number;
        Ok(())
    }

    fn write<T: Element>(&mut self, index: usize) -> Result<&mut [T], Error> {
        let tensor = tensor(&self.plan, index)?;
        self.arena
            .view_mut(tensor.offset, tensor.count)
            .ok_or_else(outside)
    }

    /// Gathers one physical batch, runs its kernels, adds its clipped sums.
    fn physical_batch(&mut self, batch: usize) -> Result<(), Error> {
        let microbatch = self.plan.dp.microbatch;
        let slots = batch * microbatch..(batch + 1) * microbatch;
        self.gather(slots.clone())?;
        run_calls(&self.plan, &self.kernels, &mut self.arena, &self.plan.step)?;
        self.count_nonfinite(slots)?;
        let mut rest = self.sums.as_mut_slice();
        for role in &self.plan.roles.parameters {
            let place = tensor(&self.plan, role.clipped_sum)?;
            let part = self.arena.view::<f32>(place.offset, place.count);
            let part = part.ok_or_else(outside)?;
            let (sums, after) = rest.split_at_mut_checked(part.len()).ok_or_else(outside)?;
            rest = after;
            pool().run_chunks(sums, CHUNK, &|first, chunk| {
                if let Some(part) = part.get(first..first + chunk.len()) {
                    sum::accumulate(chunk, part);
                }
            });
        }
        Ok(())
    }

    /// Fills features, labels and mask for some slots of the logical batch.
    fn gather(&mut self, slots: core::ops::Range<usize>) -> Result<(), Error> {
        let (plan, dataset) = (&self.plan, &self.dataset);
        let drawn = self.drawn.get(slots).ok_or_else(outside)?;
        let place = tensor(plan, plan.roles.features)?;
        let features = self.arena.view_mut::<f32>(place.offset, place.count);
        let width = plan.data.features;
        pool().run_chunks(features.ok_or_else(outside)?, width, &|first, out| {
            if let Some(&index) = drawn.get(first / width) {
                dataset.gather(&plan.data, index, out);
            }
        });
        let place = tensor(plan, plan.roles.labels)?;
        let labels = self.arena.view_mut::<i32>(place.offset, place.count);
        for (label, &index) in labels.ok_or_else(outside)?.iter_mut().zip(drawn) {
            *label = dataset
                .record(&plan.data, index as usize)
                .map_or(0, |(_, label)| label);
        }
        let place = tensor(plan, plan.roles.mask)?;
        let mask = self.arena.view_mut::<f32>(place.offset, place.count);
        for (mask, &index) in mask.ok_or_else(outside)?.iter_mut().zip(drawn) {
            *mask = if index == u32::MAX { 0.0 } else { 1.0 };
        }
        Ok(())
    }

    /// Counts real examples whose gradient was not finite and so not counted in the sum.
    fn count_nonfinite(&mut self, slots: core::ops::Range<usize>) -> Result<(), Error> {
        let Some(index) = self.plan.roles.contributing else {
            return Ok(());
        };
        let place = tensor(&self.plan, index)?;
        let contributing = self.arena.view::<i32>(place.offset, place.count);
        let contributing = contributing.ok_or_else(outside)?;
        let drawn = self.drawn.get(slots).ok_or_else(outside)?;
        let missing = drawn
            .iter()
            .zip(contributing)
            .filter(|&(&index, &counted)| index != u32::MAX && counted == 0)
            .count();
        self.nonfinite = self.nonfinite.saturating_add(missing as u64);
        Ok(())
    }

    /// Rounds the sums to the grid, adds noise, divides; writes what the optimizer takes.
    ///
    /// A sum that is not finite is no sum of clipped gradients, and the noise is not enough for what it hides: the end,
    /// with nothing released. No record can bring it about unless a kernel has a defect.
    fn release_gradients(&mut self, step: u64) -> Result<(), Error> {
        let (plan, key) = (&self.plan, &self.keys.noise);
        let mut first_coordinate = 0;
        for role in &plan.roles.parameters {
            let place = tensor(plan, role.noisy_gradient)?;
            let sums = self
                .sums
                .get(first_coordinate..first_coordinate + place.count);
            let sums = sums.ok_or_else(outside)?;
            let out = self.arena.view_mut::<f32>(place.offset, place.count);
            let not_finite = AtomicU64::new(0);
            pool().run_chunks(out.ok_or_else(outside)?, CHUNK, &|first, out| {
                let mut buffer = [0_i64; CHUNK];
                let (Some(sums), Some(units)) = (
                    sums.get(first..first + out.len()),
                    buffer.get_mut(..out.len()),
                ) else {
                    return;
                };
                noise::fill(key, step, (first_coordinate + first) as u64, units);
                let bad = sum::noisy(sums, plan.dp.grid, plan.dp.expected_batch_size, units, out);
                not_finite.fetch_add(bad, Ordering::Relaxed);
                // Who knows the noise knows the sum.
                units.zeroize();
            });
            if not_finite.into_inner() > 0 {
                let detail = "a clipped sum is not finite";
                return Err(Error::new(Code::KernelFailed, detail).fatal());
            }
            first_coordinate += place.count;
        }
        Ok(())
    }
}
