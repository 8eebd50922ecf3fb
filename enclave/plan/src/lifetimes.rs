//! Proves that no tensor is overwritten between its write and its last read.

use alloc::vec;
use alloc::vec::Vec;

use crate::check::{Result, get, lasting};
use crate::masks::masks;
use crate::{Call, Plan, PlanError};

/// Follows a list of calls and remembers which tensors hold what was last written to them.
///
/// Writing a tensor makes every other one that overlaps it invalid; reading an invalid one is refused. That is: nothing
/// overlaps a tensor between its write and its last read, and nothing is read before it was written.
struct Walk<'a> {
    plan: &'a Plan,
    field: &'static str,
    valid: Vec<bool>,
}

impl<'a> Walk<'a> {
    fn new(plan: &'a Plan, field: &'static str, given: &[usize]) -> Result<Self> {
        let mut walk = Self {
            plan,
            field,
            valid: vec![false; plan.tensors.len()],
        };
        for &index in given {
            walk.write(index)?;
        }
        // What is given must hold together: one written over another would be invalid by now.
        for &index in given {
            walk.read(index, "what the runtime gives overlaps")?;
        }
        Ok(walk)
    }

    fn write(&mut self, index: usize) -> Result<()> {
        let written = get(self.plan, self.field, index)?;
        for (tensor, valid) in self.plan.tensors.iter().zip(&mut self.valid) {
            if tensor.overlaps(written) {
                *valid = tensor.same_bytes(written);
            }
        }
        Ok(())
    }

    fn read(&self, index: usize, reason: &'static str) -> Result<()> {
        if self.valid.get(index) == Some(&true) {
            Ok(())
        } else {
            Err(PlanError::at(self.field, index, reason))
        }
    }

    fn run(&mut self, calls: &[Call], unwritable: &[usize]) -> Result<()> {
        for (position, call) in calls.iter().enumerate() {
            for &index in &call.inputs {
                self.read(
                    index,
                    "this tensor is read but does not hold what was written",
                )?;
            }
            for &index in &call.outputs {
                let written = get(self.plan, self.field, index)?;
                for &kept in unwritable {
                    if get(self.plan, self.field, kept)?.overlaps(written) {
                        return Err(PlanError::at(
                            self.field,
                            position,
                            "writes what it may only read",
                        ));
                    }
                }
                self.write(index)?;
            }
        }
        Ok(())
    }
}

pub(crate) fn check_lifetimes(plan: &Plan) -> Result<()> {
    let roles = &plan.roles;
    let inputs = [roles.features, roles.labels, roles.mask];
    let values = || roles.parameters.iter().map(|role| role.value);

    let given: Vec<usize> = inputs
        .into_iter()
        .chain(masks(plan))
        .chain(values())
        .chain(plan.frozen())
        .collect();
    let mut step = Walk::new(plan, "prepare", &given)?;
    step.run(&plan.prepare, &lasting(plan))?;
    step.field = "step";
    step.run(&plan.step, &lasting(plan))?;
    for role in &roles.parameters {
        step.read(role.clipped_sum, "a clipped sum is not there at the end")?;
    }
    if let Some(index) = roles.contributing {
        step.read(index, "contributing is not there at the end")?;
    }

    let gradients = roles.parameters.iter().map(|role| role.noisy_gradient);
    let given: Vec<usize> = values()
        .chain(roles.zeroed.iter().copied())
        .chain(gradients)
        .chain(roles.step_number)
        .collect();
    let mut kept = inputs.to_vec();
    kept.extend(masks(plan));
    kept.extend(roles.step_number);
    kept.extend(plan.frozen());
    let mut update = Walk::new(plan, "update", &given)?;
    update.run(&plan.update, &kept)?;
    for index in values().chain(roles.zeroed.iter().copied()) {
        update.read(
            index,
            "a parameter or state does not hold a value at the end",
        )?;
    }
    Ok(())
}
