//! What crosses the boundary: errors, messages, limits, signed documents, and the traits between the enclave's crates.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod error;
mod traits;

pub use error::{Code, Error};
pub use traits::{Attester, Engine, Entropy, PlanFacts};
