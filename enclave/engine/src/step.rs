//! One logical step.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use myelin_boundary::{LaneViews, Memory, Public, pool, public, public_all};
use myelin_mechanism::{Dropout, Sampler, dropout, noise, sum};
use myelin_plan::Plan;
use myelin_wire::{Code, Error};
use zeroize::Zeroize;

use crate::TrainingEngine;
use crate::engine::{Lane, lanes, outside, run_calls, tensor};
use crate::gather::{Source, kept, write};

/// Coordinates that are noised together: those of one stream.
pub(crate) const CHUNK: usize = noise::CHUNK_COORDINATES as usize;

/// A chunk's noise, where no vector of it is in two cache lines.
#[repr(align(64))]
pub(crate) struct Lines(pub(crate) [i32; CHUNK]);

/// Sums that are in the processor's nearest memory at a time.
pub(crate) const BLOCK: usize = 512;

/// Tasks that a parameter is cut into, if it is large: enough for all threads to end at about the same time, and few, because
/// each clears its memory before and after.
const TASKS: usize = 64;

/// Coordinates of one task, whole chunks.
pub(crate) fn task(count: usize) -> usize {
    count.div_ceil(TASKS).next_multiple_of(CHUNK)
}

impl TrainingEngine {
    /// Draws, runs every physical batch, noises, updates.
    ///
    /// The number of a step, 1 at the first, is the `step` of sampler and noise too.
    pub(crate) fn logical_step(&mut self) -> Result<(), Error> {
        let number = self.steps_done + 1;
        self.drawn.fill(u32::MAX);
        if self.plan.dp.correlation.is_empty() {
            Sampler::draw(
                &self.keys.sampling,
                u64::from(number),
                self.dataset_size,
                self.plan.dp.sampling_threshold,
                self.plan.dp.capacity as u32,
                &mut self.drawn,
                self.sample.as_mut().map_or(&mut [], |s| &mut s.chosen),
            );
            match &mut self.sample {
                Some(sample) => sample.take(&self.dataset),
                None => public_all(&mut self.drawn, Public::Drawn),
            }
            self.sum_batches()?;
            self.release_gradients(u64::from(number))?;
        } else {
            self.turns
                .fill(number, self.plan.dp.capacity, &mut self.drawn);
            self.sum_batches()?;
            self.release_correlated(number)?;
        }
        self.update(number)
    }

    /// Runs every physical batch of the records in `self.drawn`; [`total`] adds up what they give.
    pub(crate) fn sum_batches(&mut self) -> Result<(), Error> {
        let mut memory = self.arena.whole(lanes(&self.plan)).ok_or_else(outside)?;
        run_calls(&self.plan, &self.kernels, &mut memory, &self.plan.prepare)?;
        self.physical_batches()
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
        let (plan, kernels, drawn) = (&self.plan, &self.kernels, &self.drawn);
        let source = Source {
            plan,
            dataset: &self.dataset,
            sample: self.sample.as_ref(),
        };
        let (keys, views) = (&self.keys, &self.views);
        let step = u64::from(self.steps_done) + 1;
        let microbatch = plan.dp.microbatch;
        let ran = self
            .arena
            .run_lanes(lanes(plan), &mut self.lanes, &|index, lane, memory| {
                lane.nonfinite = 0;
                let batches = drawn.chunks(microbatch).skip(index);
                let mine = batches.step_by(plan.layout.lanes).enumerate();
                lane.failed = mine
                    .map(|(number, drawn)| {
                        fold(plan, memory, &mut lane.sums, number)?;
                        let batch = index + number * plan.layout.lanes;
                        source.fill(batch * microbatch, drawn, memory)?;
                        views.make(plan, &keys.augment, step, drawn, &mut lane.plane, memory)?;
                        draw_masks(plan, &keys.dropout, step, drawn, memory)?;
                        run_calls(plan, kernels, memory, &plan.step)?;
                        // No more than there are records; a check for overflow would be a branch on it.
                        let more = nonfinite(plan, drawn, memory)?;
                        lane.nonfinite = lane.nonfinite.wrapping_add(more);
                        Ok(())
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
            self.nonfinite = self.nonfinite.wrapping_add(lane.nonfinite);
        }
        Ok(())
    }

    /// Rounds the sums to the grid, adds noise, divides; writes what the optimizer takes.
    fn release_gradients(&mut self, step: u64) -> Result<(), Error> {
        let (plan, key) = (&self.plan, &self.keys.noise);
        let (mut shared, views) = self.arena.split(lanes(plan)).ok_or_else(outside)?;
        let totals = Totals::new(plan, &self.lanes, views);
        // Every parameter's noise starts with a stream of its own.
        let mut first_coordinate = 0;
        for (index, role) in plan.roles.parameters.iter().enumerate() {
            let out = write::<f32>(&mut shared, plan, role.noisy_gradient)?;
            let count = out.len();
            let not_finite = AtomicU64::new(0);
            pool().run_chunks(out, task(count), &|first, out| {
                let (mut lines, mut sums) = (Lines([0; CHUNK]), [0.0_f64; BLOCK]);
                let mut bad = 0;
                for (number, out) in out.chunks_mut(CHUNK).enumerate() {
                    let first = first + number * CHUNK;
                    let units = lines.0.get_mut(..out.len()).unwrap_or_default();
                    noise::fill(key, step, (first_coordinate + first) as u64, units);
                    totals.blocks(index, first, &mut sums, out, |at, sums, out| {
                        let units = units.get(at..at + out.len()).unwrap_or_default();
                        let divisor = plan.dp.expected_batch_size;
                        let more = sum::noisy(sums, plan.dp.grid, divisor, units, out);
                        bad = u64::wrapping_add(bad, more);
                    });
                }
                not_finite.fetch_add(bad, Ordering::Relaxed);
                // Who knows the noise knows the sum.
                lines.0.zeroize();
                sums.zeroize();
            });
            all_finite(not_finite)?;
            first_coordinate += count.next_multiple_of(CHUNK);
        }
        Ok(())
    }
}

/// A sum that is not finite is no sum of clipped gradients, and the noise is not enough for what it hides: the end, with
/// nothing released. No record can bring it about unless a kernel has a defect.
pub(crate) fn all_finite(not_finite: AtomicU64) -> Result<(), Error> {
    if public(not_finite.into_inner(), Public::FiniteSums) > 0 {
        let detail = "a clipped sum is not finite";
        return Err(Error::new(Code::KernelFailed, detail).fatal());
    }
    Ok(())
}

/// The clipped sums of a logical step, as its lanes hold them.
pub(crate) struct Totals<'a> {
    plan: &'a Plan,
    lanes: &'a [Lane],
    views: LaneViews<'a>,
    /// Where each parameter begins in a lane's sums.
    starts: Vec<usize>,
}

impl<'a> Totals<'a> {
    pub(crate) fn new(plan: &'a Plan, lanes: &'a [Lane], views: LaneViews<'a>) -> Self {
        let mut end = 0;
        let starts = plan.roles.parameters.iter().map(|role| {
            let start = end;
            end += tensor(plan, role.clipped_sum).map_or(0, |place| place.count);
            start
        });
        Self {
            plan,
            lanes,
            views,
            starts: starts.collect(),
        }
    }

    /// Writes the sums of coordinates from `first` on of a parameter: each lane's batches in their order, then the lanes in
    /// theirs. A part that a lane does not have would be a defect; the sum is not finite then.
    pub(crate) fn fill(&self, parameter: usize, first: usize, out: &mut [f64]) {
        out.fill(0.0);
        for (index, lane) in self.lanes.iter().enumerate() {
            let Some((last, earlier)) = self.parts(index, lane, parameter, first, out.len()) else {
                out.fill(f64::NAN);
                return;
            };
            if earlier.is_empty() {
                sum::accumulate(out, last);
            } else {
                for ((out, &earlier), &last) in out.iter_mut().zip(earlier).zip(last) {
                    *out += earlier + f64::from(last);
                }
            }
        }
    }

    /// Calls `take(first within out, sums, their part of out)` for all of `out`, the coordinates from `first` on, in blocks.
    pub(crate) fn blocks(
        &self,
        parameter: usize,
        first: usize,
        sums: &mut [f64; BLOCK],
        out: &mut [f32],
        mut take: impl FnMut(usize, &[f64], &mut [f32]),
    ) {
        for (number, out) in out.chunks_mut(BLOCK).enumerate() {
            let at = number * BLOCK;
            let sums = sums.get_mut(..out.len()).unwrap_or_default();
            self.fill(parameter, first + at, sums);
            take(at, sums, out);
        }
    }

    /// A lane's last batch and the sum of its earlier ones, empty if there are none.
    fn parts(
        &self,
        index: usize,
        lane: &'a Lane,
        parameter: usize,
        first: usize,
        count: usize,
    ) -> Option<(&'a [f32], &'a [f64])> {
        let role = self.plan.roles.parameters.get(parameter)?;
        let place = tensor(self.plan, role.clipped_sum).ok()?;
        let last = self.views.view::<f32>(index, place.offset, place.count)?;
        let last = last.get(first..first + count)?;
        if lane.sums.is_empty() {
            return Some((last, &[]));
        }
        let start = self.starts.get(parameter)? + first;
        Some((last, lane.sums.get(start..start + count)?))
    }
}

/// Fills the dropout layers' masks of one physical batch, each record's as in any other batch of this step: its views' one
/// after the other, and of each view the layers'. Empty slots have
/// the mask of a record that there is not, and take as long.
fn draw_masks(
    plan: &Plan,
    key: &[u8; 32],
    step: u64,
    drawn: &[u32],
    memory: &mut Memory<'_>,
) -> Result<(), Error> {
    if plan.roles.masks.is_empty() {
        return Ok(());
    }
    let groups = |elements| dropout::groups(elements) as u32;
    let mut of_a_view = 0;
    for role in &plan.roles.masks {
        of_a_view += groups(tensor(plan, role.tensor)?.count / plan.examples());
    }
    let mut masks = Dropout::new(key, step);
    let mut first_group = 0;
    for role in &plan.roles.masks {
        let mask = write::<f32>(memory, plan, role.tensor)?;
        let elements = mask.len() / plan.examples();
        for (out, &record) in mask.chunks_mut(elements * plan.dp.views).zip(drawn) {
            let mut group = first_group;
            for out in out.chunks_mut(elements) {
                masks.fill(record, group, role.threshold, role.scale, out);
                group += of_a_view;
            }
        }
        first_group += groups(elements);
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
    // Neither who has a record nor whose counted is branched on.
    let missing = drawn
        .iter()
        .zip(contributing.ok_or_else(outside)?)
        .map(|(&index, &counted)| kept(index) & u32::from(counted == 0));
    Ok(missing.map(u64::from).fold(0, u64::wrapping_add))
}

/// Adds the clipped sums of the batch before batch `number` of a lane to those of the batches before that.
fn fold(plan: &Plan, memory: &Memory<'_>, sums: &mut [f64], number: usize) -> Result<(), Error> {
    if number == 0 {
        return Ok(());
    }
    let mut rest = sums;
    for role in &plan.roles.parameters {
        let place = tensor(plan, role.clipped_sum)?;
        let part = memory.view::<f32>(place.offset, place.count);
        let part = part.ok_or_else(outside)?;
        let (sums, after) = rest.split_at_mut_checked(part.len()).ok_or_else(outside)?;
        rest = after;
        if number == 1 {
            sum::begin(sums, part);
        } else {
            sum::accumulate(sums, part);
        }
    }
    Ok(())
}
