//! What makes training private, once gradients are clipped: who is drawn, how sums are kept, what noise they get.
//!
//! - [`Sampler`]: secret Poisson sampling into a fixed number of slots.
//! - [`Gather`]: the drawn records, brought to their slots.
//! - [`noise`]: integer Gaussian noise.
//! - [`banded`]: noise that is correlated over steps, for records that take turns.
//! - [`dropout`]: masks of a model's dropout layers.
//! - [`augment`]: the views of a record that a model sees.
//! - [`sum`]: float64 accumulation, and the noisy release on a grid.
//!
//! They do not know of each other; `myelin.privacy.epsilon` states what they guarantee together. All randomness is
//! AES-256 in counter mode under a 32-byte key, its blocks numbered by step, stream and place: stream 0 of the sampling
//! key, stream `coordinate / 4096` of the noise key, and stream `record` of the dropout and augmentation keys. The keys differ (docs/protocol.md, section 8). Nothing here keeps
//! state, so a step repeated is the same step, whatever ran before it and however the work was shared.
//!
//! No branch and no address depends on a key, a word, a sum or a draw, but for what [`Sampler`] documents. Arithmetic wraps
//! where bounds make overflow impossible: a check would be a branch and would keep loops from becoming vector code.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod augment;
pub mod banded;
mod compaction;
pub mod dropout;
mod gather;
mod keystream;
pub mod noise;
mod sampler;
pub mod sum;
mod table;

pub use augment::{Augment, Augmentation};
pub use dropout::Dropout;
pub use gather::Gather;
pub use sampler::Sampler;
