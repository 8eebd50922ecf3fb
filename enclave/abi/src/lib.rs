//! What an image and its loader agree on: addresses, sizes, the shared region and exit codes.
//!
//! `docs/abi.md` says the same in words. Both sides of the boundary compile this crate, so they cannot drift apart. It has
//! no dependencies, no code that touches memory and no `unsafe`.
#![no_std]

/// Version of everything in this crate; the answer to the loader's `launch` message carries it.
pub const ABI_VERSION: u64 = 1;

/// Lowest address of an image (256 MiB). Nothing of the image lies below it.
pub const IMAGE_BASE: u64 = 0x1000_0000;

/// First address above an image (2 GiB): kernels address the image with signed 32-bit displacements.
pub const IMAGE_END_LIMIT: u64 = 0x8000_0000;

/// Size and alignment of a page in bytes; segments and the shared region start on one.
pub const PAGE_BYTES: u64 = 4096;

/// Number of thread slots. Slot 0 takes messages, the others are for lent threads.
pub const SLOT_COUNT: usize = 16;

/// Most bytes of a request or a reply.
pub const MESSAGE_BYTES: usize = 1 << 20;

/// First address that user code cannot have (47-bit address space); a shared region ends below it.
pub const ADDRESS_LIMIT: u64 = 1 << 47;

/// Section that holds the plan, CBOR, loaded read-only.
pub const PLAN_SECTION: &str = ".myelin.plan";

/// Section that holds the initial parameters, raw little-endian, loaded read-only.
pub const PARAMS_SECTION: &str = ".myelin.params";

/// Section that holds the manifest, CBOR, measured but not loaded.
pub const MANIFEST_SECTION: &str = ".myelin.manifest";

/// Answers of the entry point.
pub mod exit {
    /// Slot 0: the message was handled and the reply is in the shared region.
    pub const REPLY: u64 = 0;
    /// Slots above 0: there was no work for a while; send the thread in again while slot 0 is in.
    pub const IDLE: u64 = 1;
    /// Another thread is in on this slot.
    pub const SLOT_BUSY: u64 = 2;
    /// No such slot, or the shared region is not where it may be.
    pub const REFUSED: u64 = 3;
    /// The enclave has stopped itself. Every later entry answers this; slot 0's reply holds the error.
    pub const DEAD: u64 = 4;
}

/// The one region that host and enclave both see.
///
/// The loader allocates it, zeroed, wholly outside the image. The enclave reads `request_len` once per message and copies
/// `request` before it looks at a byte of it.
#[repr(C, align(4096))]
pub struct Shared {
    /// Bytes in `request`, set by the loader before it enters slot 0.
    pub request_len: u64,
    /// Bytes in `reply`, set by the enclave before it leaves with [`exit::REPLY`] or [`exit::DEAD`].
    pub reply_len: u64,
    /// Zero.
    pub reserved: [u64; 510],
    /// One message from the host.
    pub request: [u8; MESSAGE_BYTES],
    /// The answer to it.
    pub reply: [u8; MESSAGE_BYTES],
}

/// Size of [`Shared`] in bytes.
pub const SHARED_BYTES: usize = core::mem::size_of::<Shared>();

const _: () = assert!(SHARED_BYTES == 4096 + 2 * MESSAGE_BYTES);
const _: () = assert!(core::mem::align_of::<Shared>() == PAGE_BYTES as usize);
const _: () = assert!(core::mem::offset_of!(Shared, request) == 4096);

/// Type of an image's entry point.
///
/// Arguments: slot (below [`SLOT_COUNT`]), pointer to the [`Shared`] region. Result: one of [`exit`].
pub type Entry = extern "sysv64" fn(slot: u64, shared: *mut Shared) -> u64;
