//! One logical step.

use core::sync::atomic::{AtomicU64, Ordering};

use myelin_boundary::{Element, Memory, pool};
use myelin_mechanism::{Sampler, noise, sum};
use myelin_plan::Plan;
use myelin_wire::{Code, Error};
use zeroize::Zeroize;

use crate::TrainingEngine;
use crate::dataset::Dataset;
use crate::engine::{lanes, outside, run_calls, tensor};

/// Coordinates that one task sums or noises: those of one stream of the noise.
const CHUNK: usize = noise::CHUNK_COORDINATES as usize;

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
        self.sum_batches()?;
        self.release_gradients(u64::from(number))?;
        self.update(number)
    }

    /// Runs every physical batch of the records in `self.drawn`; the sum is in the first lane then.
    pub(crate) fn sum_batches(&mut self) -> Result<(), Error> {
        let mut memory = self.arena.whole(lanes(&self.plan)).ok_or_else(outside)?;
        run_calls(&self.plan, &self.kernels, &mut memory, &self.plan.prepare)?;
        self.physical_batches()?;
        self.merge_lanes()
    }

    /// Ends step `number`: the optimizer takes the gradients.
    pub(crate) fn update(&mut self, number: u32) -> Result<(), Error> {
        let mut memory = self.arena.whole(lanes(&self.plan)).ok_or_else(outside)?;
        if let Some(index) = self.plan.roles.step_number {
            write::<i32>(&mut memory, &self.plan, index)?.fill(number as i32);
        }
        run_calls(&self.plan, &self.kernels, &mut memory, &self.plan.update)?;
        self.steps_done = number;
        Ok(())
    }

    /// Computes the physical batches, batch `b` in lane `b % lanes`: which sums are added in which order depends on the plan
    /// and not on the threads that are there.
    fn physical_batches(&mut self) -> Result<(), Error> {
        let (plan, kernels, dataset, drawn) =
            (&self.plan, &self.kernels, &self.dataset, &self.drawn);
        let microbatch = plan.dp.microbatch;
        let ran = self
            .arena
            .run_lanes(lanes(plan), &mut self.lanes, &|index, lane, memory| {
                lane.sums.fill(0.0);
                lane.nonfinite = 0;
                let batches = drawn.chunks(microbatch);
                let mine = batches.skip(index).step_by(plan.layout.lanes);
                lane.failed = mine
                    .map(|drawn| {
                        gather(plan, dataset, drawn, memory)?;
                        run_calls(plan, kernels, memory, &plan.step)?;
                        lane.nonfinite += nonfinite(plan, drawn, memory)?;
                        accumulate(plan, memory, &mut lane.sums)
                    })
                    .find_map(Result::err);
            });
        if !ran {
            return Err(outside());
        }
        for lane in &mut self.lanes {
            if let Some(error) = lane.failed.take() {
                return Err(error);
            }
            self.nonfinite = self.nonfinite.saturating_add(lane.nonfinite);
        }
        Ok(())
    }

    /// Adds the other lanes' sums to the first one's, in the lanes' order.
    fn merge_lanes(&mut self) -> Result<(), Error> {
        let (first, others) = self.lanes.split_first_mut().ok_or_else(outside)?;
        pool().run_chunks(&mut first.sums, CHUNK, &|start, sums| {
            for lane in &*others {
                let part = lane.sums.get(start..start + sums.len()).unwrap_or(&[]);
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum += part;
                }
            }
        });
        Ok(())
    }

    /// Rounds the sums to the grid, adds noise, divides; writes what the optimizer takes.
    ///
    /// A sum that is not finite is no sum of clipped gradients, and the noise is not enough for what it hides: the end,
    /// with nothing released. No record can bring it about unless a kernel has a defect.
    fn release_gradients(&mut self, step: u64) -> Result<(), Error> {
        let (plan, key) = (&self.plan, &self.keys.noise);
        let mut memory = self.arena.whole(lanes(plan)).ok_or_else(outside)?;
        let sums = &self.lanes.first().ok_or_else(outside)?.sums;
        let mut rest = sums.as_slice();
        // Every parameter's noise starts with a stream of its own, and a task is a stream.
        let mut first_coordinate = 0;
        for role in &plan.roles.parameters {
            let place = tensor(plan, role.noisy_gradient)?;
            let (sums, after) = rest.split_at_checked(place.count).ok_or_else(outside)?;
            rest = after;
            let out = memory.view_mut::<f32>(place.offset, place.count);
            let not_finite = AtomicU64::new(0);
            pool().run_chunks(out.ok_or_else(outside)?, CHUNK, &|first, out| {
                let mut buffer = [0_i32; CHUNK];
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
            first_coordinate += place.count.next_multiple_of(CHUNK);
        }
        Ok(())
    }
}

fn write<'a, T: Element>(
    memory: &'a mut Memory<'_>,
    plan: &Plan,
    index: usize,
) -> Result<&'a mut [T], Error> {
    let place = tensor(plan, index)?;
    memory
        .view_mut(place.offset, place.count)
        .ok_or_else(outside)
}

/// Fills features, labels and mask of one physical batch, whose records are `drawn`.
fn gather(
    plan: &Plan,
    dataset: &Dataset,
    drawn: &[u32],
    memory: &mut Memory<'_>,
) -> Result<(), Error> {
    let features = write::<f32>(memory, plan, plan.roles.features)?;
    for (out, &index) in features.chunks_mut(plan.data.features).zip(drawn) {
        dataset.gather(&plan.data, index, out);
    }
    let labels = write::<i32>(memory, plan, plan.roles.labels)?;
    for (label, &index) in labels.iter_mut().zip(drawn) {
        *label = dataset
            .record(&plan.data, index as usize)
            .map_or(0, |(_, label)| label);
    }
    let mask = write::<f32>(memory, plan, plan.roles.mask)?;
    for (mask, &index) in mask.iter_mut().zip(drawn) {
        *mask = if index == u32::MAX { 0.0 } else { 1.0 };
    }
    Ok(())
}

/// How many real examples had a gradient that was not finite and so was not counted in the sum.
fn nonfinite(plan: &Plan, drawn: &[u32], memory: &Memory<'_>) -> Result<u64, Error> {
    let Some(index) = plan.roles.contributing else {
        return Ok(0);
    };
    let place = tensor(plan, index)?;
    let contributing = memory.view::<i32>(place.offset, place.count);
    let missing = drawn
        .iter()
        .zip(contributing.ok_or_else(outside)?)
        .filter(|&(&index, &counted)| index != u32::MAX && counted == 0)
        .count();
    Ok(missing as u64)
}

/// Adds a physical batch's clipped sums to a lane's.
fn accumulate(plan: &Plan, memory: &Memory<'_>, sums: &mut [f64]) -> Result<(), Error> {
    let mut rest = sums;
    for role in &plan.roles.parameters {
        let place = tensor(plan, role.clipped_sum)?;
        let part = memory.view::<f32>(place.offset, place.count);
        let part = part.ok_or_else(outside)?;
        let (sums, after) = rest.split_at_mut_checked(part.len()).ok_or_else(outside)?;
        rest = after;
        sum::accumulate(sums, part);
    }
    Ok(())
}
