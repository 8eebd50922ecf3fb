//! A step without a mechanism: what a private one is compared with. It gives no privacy at all, and no image has it.

use myelin_boundary::pool;
use myelin_wire::Error;

use crate::TrainingEngine;
use crate::engine::{lanes, outside, tensor};
use crate::step::{BLOCK, Totals, task};

impl TrainingEngine {
    /// One plain step over the records `drawn`, at most as many as the plan's capacity: the mean of their gradients, and the
    /// update. The plan must be of a plain graph, whose sums are not clipped, for the result to be plain training.
    ///
    /// # Errors
    /// As [`myelin_wire::Engine::run`], without the protocol's order.
    pub fn plain_step(&mut self, drawn: &[u32]) -> Result<(), Error> {
        self.drawn.fill(u32::MAX);
        self.sample = None;
        for (slot, &index) in self.drawn.iter_mut().zip(drawn) {
            *slot = index;
        }
        self.sum_batches()?;
        let scale = 1.0 / drawn.len().max(1) as f64;
        let plan = &self.plan;
        let (mut shared, views) = self.arena.split(lanes(plan)).ok_or_else(outside)?;
        let totals = Totals::new(plan, &self.lanes, views);
        for (index, role) in plan.roles.parameters.iter().enumerate() {
            let place = tensor(plan, role.noisy_gradient)?;
            let out = shared.view_mut::<f32>(place.offset, place.count);
            pool().run_chunks(
                out.ok_or_else(outside)?,
                task(place.count),
                &|first, out| {
                    let mut sums = [0.0_f64; BLOCK];
                    totals.blocks(index, first, &mut sums, out, |_, sums, out| {
                        for (out, sum) in out.iter_mut().zip(sums) {
                            *out = (*sum * scale) as f32;
                        }
                    });
                },
            );
        }
        let number = self.steps_done.saturating_add(1);
        self.update(number)
    }
}
