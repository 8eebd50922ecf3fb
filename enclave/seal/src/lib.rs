//! Everything that is sealed: HPKE, grants and deposits, the job key's shares, sealed datasets, derived keys.
//!
//! Primitives are those of `hpke`, `chacha20poly1305` and `hkdf`; randomness comes from [`myelin_wire::Entropy`] only.
//! Secrets live in types that are wiped when dropped and that print nothing.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod dataset;
mod derive;
mod grant;
mod sealing;
mod secret;
mod share;

pub use dataset::{DatasetOpener, Expected, MAGIC};
pub use derive::{RunKeys, job_key_check, transcript};
pub use grant::{Grant, GrantPlace, Resume, seal_deposit, seal_model};
pub use sealing::{OpeningKey, SealingKey, Unsealable};
pub use secret::Secret;
pub use share::{join, split};
