//! The plan: what the runtime does, as a list, parsed and proven once before anything runs.
//!
//! [`Plan::parse`] reads the CBOR of the section `.myelin.plan` (`docs/abi.md`) and answers a plan only if every check of this
//! crate passed: sizes and alignments inside the arena, roles of the right type and shape, no tensor overwritten between its
//! write and its last read, nothing unknown in it. What holds a [`Plan`] need not check again.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

extern crate alloc;

mod check;
mod error;
mod lifetimes;
mod limits;
mod masks;
mod mechanism;
mod parse;
mod reader;
#[cfg(test)]
mod tests;
mod types;
mod views;

pub use error::PlanError;
pub use limits::*;
pub use types::{
    Call, Data, Dp, Initial, Label, Layout, MaskRole, ParameterRole, Plan, Roles, Rule, Tensor,
    TensorType,
};

impl Plan {
    /// Parses and checks a plan.
    ///
    /// `params_bytes` is the size of the section `.myelin.params`, `kernels` the number of linked kernels.
    ///
    /// # Errors
    /// [`PlanError`] with the field and what is wrong with it.
    pub fn parse(bytes: &[u8], params_bytes: usize, kernels: usize) -> Result<Self, PlanError> {
        let (plan, declared_kernels) = parse::parse(bytes)?;
        if declared_kernels != kernels as u64 {
            return Err(PlanError::new("kernels", "not as many as are linked"));
        }
        check::check(&plan, params_bytes, kernels)?;
        Ok(plan)
    }
}
