//! What crosses the boundary: errors, messages, limits, signed documents, and the traits between the enclave's crates.
//!
//! `docs/protocol.md` is the contract that this crate implements, `docs/protocol.cddl` the same for machines.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod cose;
pub mod limits;
pub mod message;

mod certificate;
mod contract;
mod digest;
mod error;
mod event;
mod reader;
mod traits;
mod writer;

pub use certificate::{Certificate, SealedModel, bundle, cmw};
pub use contract::{Contract, Dataset, Party, Role};
pub use digest::{BootKeys, Digest, Purpose, Report, RunningDigest, sha256};
pub use error::{Code, Error};
pub use event::{DpEvent, Rule};
pub use message::Request;
pub use reader::Reader;
pub use traits::{Attester, Engine, Entropy, Evidence, PlanFacts, StepKeys};
pub use writer::Writer;
