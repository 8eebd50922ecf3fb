//! The kernel's driver, as little of it as a loader touches: three requests, mappings, and the way in.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::ProtFlags;

use super::vdso;
use crate::refusal::{Reason, Refusal};

/// What the loader needs of a driver. There are two: Linux's, and one for tests that stands in for it and for the processor
/// behind it; both get the same bytes.
pub trait Device {
    /// The descriptor that enclave memory is mapped from.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Makes a request of `structures::REQUESTS`.
    ///
    /// # Safety
    /// `argument` is the structure that the request takes, and every address in it is what the request takes.
    ///
    /// # Errors
    /// The kernel's.
    unsafe fn request(&self, number: u32, argument: NonNull<libc::c_void>) -> nix::Result<()>;

    /// Where in the descriptor the memory of an address is, for a mapping of `bytes` with this access.
    ///
    /// # Errors
    /// The kernel's, where it would not allow the mapping; it may leave that to the mapping itself.
    fn offset(&self, address: u64, bytes: u64, access: ProtFlags) -> nix::Result<i64>;

    /// Address of the function that goes in, of the kernel's `vdso_sgx_enter_enclave_t`.
    ///
    /// # Errors
    /// [`Reason::BackendMissing`] where there is none.
    fn enter_function(&self) -> Result<usize, Refusal>;

    /// What the enclave is, for the report.
    fn nature(&self) -> &'static str;
}

/// Linux's driver.
#[cfg_attr(feature = "sgx-stand-in", allow(dead_code, reason = "its place is taken"))]
pub struct Driver(File);

#[cfg_attr(feature = "sgx-stand-in", allow(dead_code, reason = "its place is taken"))]
impl Driver {
    /// Opens the driver.
    ///
    /// # Errors
    /// [`Reason::BackendMissing`] with what is missing.
    pub fn open() -> Result<File, Refusal> {
        File::options().read(true).write(true).open("/dev/sgx_enclave").map_err(|error| {
            Refusal::new(
                Reason::BackendMissing,
                format!(
                    "/dev/sgx_enclave cannot be opened: {error}. It needs a processor with SGX and flexible launch \
                     control, enabled in firmware, and Linux 5.11 or newer; or join the group that may use it"
                ),
            )
        })
    }

    /// Takes the opened driver.
    pub fn new(file: File) -> Self {
        Self(file)
    }
}

impl Device for Driver {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    unsafe fn request(&self, number: u32, argument: NonNull<libc::c_void>) -> nix::Result<()> {
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&self.0);
        // SAFETY: the driver's requests read and write what the caller vouches for, and nothing else.
        Errno::result(unsafe { libc::ioctl(descriptor, u64::from(number), argument.as_ptr()) }).map(drop)
    }

    fn offset(&self, _: u64, _: u64, _: ProtFlags) -> nix::Result<i64> {
        Ok(0)
    }

    fn enter_function(&self) -> Result<usize, Refusal> {
        vdso::enter_function()
    }

    fn nature(&self) -> &'static str {
        "memory that the processor encrypts and lets nobody else into; any fault ends it"
    }
}
