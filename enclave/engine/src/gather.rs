//! The drawn records of a step, as the model sees them.
//!
//! *What memory tells*: with [`Sample`] nothing of who was drawn. Without it each record is read where it lies, at an address
//! that its index makes; the plan says which.

use alloc::vec::Vec;
use core::hint::black_box;

use myelin_boundary::{Element, Memory};
use myelin_mechanism::Gather;
use myelin_plan::{Label, Plan};
use myelin_wire::Error;

use crate::dataset::{Dataset, features, split};
use crate::engine::{outside, tensor};

/// Records brought to their slots, and who they are.
pub(crate) struct Sample {
    pub(crate) chosen: Vec<u8>,
    gather: Gather,
}

impl Sample {
    /// Room for what a plan draws; `None` where records are read where they lie.
    pub(crate) fn new(plan: &Plan) -> Option<Self> {
        plan.data.oblivious.then(|| Self {
            chosen: alloc::vec![0; plan.data.max_records],
            gather: Gather::new(plan.data.record_bytes, plan.dp.capacity),
        })
    }

    /// Brings the chosen records to their slots.
    pub(crate) fn take(&mut self, dataset: &Dataset) {
        self.gather.take(dataset.bytes(), &self.chosen);
    }
}

/// What a step's records are read from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) dataset: &'a Dataset,
    pub(crate) sample: Option<&'a Sample>,
}

impl<'a> Source<'a> {
    /// Features and label of a slot. Of an empty slot those of some record, which the caller leaves out.
    fn record(&self, slot: usize, index: u32) -> (&'a [u8], [u8; 4]) {
        let data = &self.plan.data;
        let Some(sample) = self.sample else {
            return self.dataset.drawn(data, index);
        };
        // Slots past the capacity are always empty.
        let bytes = sample.gather.slot(slot).or_else(|| sample.gather.slot(0));
        split(data, bytes.unwrap_or_default()).unwrap_or((&[], [0; 4]))
    }

    /// Fills features, labels and mask of one physical batch, whose records are `drawn`, the first of them in slot `first`:
    /// every view of a record is the record, to begin with.
    ///
    /// Empty slots cost the same work as others.
    pub(crate) fn fill(
        &self,
        first: usize,
        drawn: &[u32],
        memory: &mut Memory<'_>,
    ) -> Result<(), Error> {
        let (plan, data) = (self.plan, &self.plan.data);
        let (width, views) = (data.features, plan.dp.views);
        let out = write::<f32>(memory, plan, plan.roles.features)?;
        for ((out, &index), slot) in out.chunks_mut(width * views).zip(drawn).zip(first..) {
            let (view, others) = out.split_at_mut_checked(width).ok_or_else(outside)?;
            features(data, self.record(slot, index).0, kept(index), view);
            for other in others.chunks_mut(width) {
                other.copy_from_slice(view);
            }
        }
        let slots = drawn.iter().zip(first..);
        let labels = slots.map(|(&index, slot)| (self.record(slot, index).1, kept(index)));
        match data.label {
            Label::Class(_) => {
                let out = write::<i32>(memory, plan, plan.roles.labels)?;
                for (out, (label, kept)) in out.chunks_mut(views).zip(labels) {
                    out.fill((u32::from_le_bytes(label) & kept) as i32);
                }
            }
            Label::Number { scale, offset, .. } => {
                let out = write::<f32>(memory, plan, plan.roles.labels)?;
                for (out, (label, kept)) in out.chunks_mut(views).zip(labels) {
                    let seen = f32::from_le_bytes(label) * (scale as f32) + (offset as f32);
                    out.fill(f32::from_bits(seen.to_bits() & kept));
                }
            }
        }
        let out = write::<f32>(memory, plan, plan.roles.mask)?;
        for (out, &index) in out.iter_mut().zip(drawn) {
            *out = f32::from_bits(1.0_f32.to_bits() & kept(index));
        }
        Ok(())
    }
}

/// All ones where a slot has a record, else zero. The barrier keeps the compiler from making a branch of it.
#[inline(always)]
pub(crate) fn kept(index: u32) -> u32 {
    black_box(0_u32.wrapping_sub(u32::from(index != u32::MAX)))
}

/// A tensor's elements, to write.
pub(crate) fn write<'a, T: Element>(
    memory: &'a mut Memory<'_>,
    plan: &Plan,
    index: usize,
) -> Result<&'a mut [T], Error> {
    let place = tensor(plan, index)?;
    memory
        .view_mut(place.offset, place.count)
        .ok_or_else(outside)
}
