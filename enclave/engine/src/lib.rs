//! Runs a plan: takes records in, gathers drawn ones, calls kernels, sums, adds noise, updates.
//!
//! ```text
//! once a logical step   draw ── for each physical batch, always all of them: gather → views → masks → `step` kernels → accumulate
//!                       ── round, noise, divide → `update` kernels
//! ```
//!
//! *Guarantee:* what leaves a step is the `update` kernels' function of sums that went through
//! [`myelin_mechanism::sum::noisy`] with noise of [`myelin_mechanism::noise::fill`]; the event that the certificate names is
//! made of the same plan's numbers. Work is shared among lent threads in pieces whose results do not depend on who does them.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

extern crate alloc;

mod dataset;
mod engine;
mod gather;
#[cfg(feature = "native")]
mod plain;
mod step;
#[cfg(test)]
mod tests;
mod turns;
mod views;

pub use engine::TrainingEngine;
