//! What makes training private: sampler, sums, noise.
#![cfg_attr(not(test), no_std)]
mod compaction;
mod keystream;
pub mod noise;
mod sampler;
pub mod sum;
mod table;
pub use sampler::Sampler;
