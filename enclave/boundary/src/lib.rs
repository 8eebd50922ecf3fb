//! The edge of the enclave, and the only crate with `unsafe`.
//!
//! ```text
//! entry   one way in and out: slot, stack, processor state      random  rdseed, rdrand, ChaCha20
//! shared  the region that host and enclave both see             pool    lent threads share out tasks
//! heap    allocator, zeroes what is freed                       kernel  calls into generated code
//! memory  memcpy and its kin                                    arena   the kernels' memory, as checked slices
//! stop    panics and fatal errors: wipe, leave, stay dead       machine all of an image's resources, taken once
//! aes     AES-256 in counter mode                           report  what evidence is wanted for
//! secrecy what may be seen of what is secret
//! ```
//!
//! Code for the image alone (entry, allocator, panic handler, linker symbols) is compiled under `--cfg myelin_image`,
//! which only the image's builder sets. Without it the crate is an ordinary library, so that the crates above it are tested
//! with `cargo test`.
#![no_std]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

#[cfg(any(test, not(myelin_image)))]
extern crate std;

extern crate alloc;

mod aes;
mod arena;
#[cfg(any(myelin_image, test, feature = "native"))]
mod callbacks;
#[cfg(any(myelin_image, test))]
mod entry;
#[cfg(any(myelin_image, test, feature = "native"))]
mod heap;
mod kernel;
mod machine;
#[cfg(any(myelin_image, test))]
mod memory;
#[cfg(feature = "native")]
pub mod native;
mod owned;
mod pool;
mod raised;
mod random;
mod reply;
mod report;
mod secrecy;
#[cfg(any(myelin_image, test))]
mod shared;
mod stop;
mod tensor;

pub use aes::{AES_BLOCKS, Aes256Ctr, AesBlock};
pub use arena::{Arena, Element, LaneViews, Lanes, Memory};
pub use kernel::{KERNEL_ARGUMENTS_LIMIT, KernelError, Kernels};
#[cfg(not(myelin_image))]
pub use kernel::{ModelArgument, ModelKernel};
pub use machine::Machine;
pub use owned::Owned;
pub use pool::{Pool, pool};
pub use random::{NoEntropy, fill_random};
pub use reply::{Reply, STACK_BYTES};
pub use report::{ReportData, myelin_report_data};
#[cfg(feature = "memcheck")]
pub use secrecy::secret;
pub use secrecy::{Public, public, public_all};
pub use stop::{is_stopped, stop};
pub use tensor::{Dtype, RANK_LIMIT, TensorRef};
