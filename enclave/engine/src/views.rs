//! What the model sees of a record: the record itself, or views of it.

use alloc::vec::Vec;

use myelin_boundary::Memory;
use myelin_mechanism::augment::Size;
use myelin_mechanism::{Augment, Augmentation};
use myelin_plan::{Plan, Rule};
use myelin_wire::Error;

use crate::engine::{outside, tensor};
use crate::gather::write;

/// A plan's augmentations, and the images that they are of.
pub(crate) struct Views {
    augmentations: Vec<Augmentation>,
    size: Size,
}

impl Views {
    /// Of a checked plan.
    ///
    /// # Errors
    /// `plan_invalid` for what checking rules out.
    pub(crate) fn new(plan: &Plan) -> Result<Self, Error> {
        let augmentations = plan.dp.augment.iter().map(known);
        let augmentations = augmentations.collect::<Option<Vec<_>>>();
        let shape = &tensor(plan, plan.roles.features)?.shape;
        let size = match shape.iter().map(|&size| size as usize).collect::<Vec<_>>()[..] {
            [_, planes, height, width] => Size {
                planes,
                height,
                width,
            },
            _ => Size {
                planes: 0,
                height: 0,
                width: 0,
            },
        };
        Ok(Self {
            augmentations: augmentations.ok_or_else(outside)?,
            size,
        })
    }

    /// Numbers that [`Self::make`] needs room for besides.
    pub(crate) fn plane(&self) -> usize {
        if self.augmentations.is_empty() {
            0
        } else {
            self.size.height * self.size.width
        }
    }

    /// Makes the features of one physical batch, of which every view is its record, what the model sees at this step. Empty
    /// slots have the views of a record that there is not, and take as long.
    pub(crate) fn make(
        &self,
        plan: &Plan,
        key: &[u8; 32],
        step: u64,
        drawn: &[u32],
        plane: &mut [f32],
        memory: &mut Memory<'_>,
    ) -> Result<(), Error> {
        if self.augmentations.is_empty() {
            return Ok(());
        }
        let width = plan.data.features;
        let features = write::<f32>(memory, plan, plan.roles.features)?;
        let mut augment = Augment::new(key, step);
        for (of_record, &record) in features.chunks_mut(width * plan.dp.views).zip(drawn) {
            for (view, image) in (0u32..).zip(of_record.chunks_mut(width)) {
                augment.apply(record, view, &self.augmentations, self.size, image, plane);
            }
        }
        Ok(())
    }
}

/// The augmentation that a plan names.
fn known(rule: &Rule) -> Option<Augmentation> {
    match (rule.name.as_str(), rule.numbers.as_slice()) {
        ("flip", []) => Some(Augmentation::Flip),
        (name @ ("crop" | "reflected-crop"), &[padding]) => Some(Augmentation::Crop {
            padding: padding as usize,
            reflected: name == "reflected-crop",
        }),
        _ => None,
    }
}
