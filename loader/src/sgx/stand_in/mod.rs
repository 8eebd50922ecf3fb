//! Stands in for Linux's driver and for a processor with SGX, in tests: no program that is installed has it.
//!
//! It gets what the driver would get, byte for byte, refuses what driver and processor would refuse, and then runs the
//! enclave's pages in this process, where they protect nothing. Its reports are of the right form and prove nothing.
#![allow(clippy::indexing_slicing, reason = "structures of fixed size, in tests alone")]

mod accounting;
mod running;
mod signature;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::unistd::ftruncate;

use super::device::Device;
use super::structures::{ADD_PAGES, AddPages, CREATE, Create, INIT, Init, MEASURE};
use crate::refusal::{Reason, Refusal};
use accounting::{Enclave, Identity};
use running::{Running, ThreadState};

/// Bytes of memory that an enclave can have.
const BYTES: usize = 1 << 31;

/// The driver and the processor.
pub struct StandIn {
    file: File,
    enclave: RefCell<Option<Enclave>>,
    /// All of the enclave's memory, where this process has it to fill.
    memory: NonNull<u8>,
}

fn missing(error: Errno) -> Refusal {
    Refusal::new(Reason::BackendMissing, format!("memory for the stand-in's enclave: {error}"))
}

/// Bytes at an address that the loader has named.
///
/// # Safety
/// As many are readable there.
unsafe fn at<const N: usize>(address: u64) -> [u8; N] {
    let pointer = core::ptr::with_exposed_provenance::<[u8; N]>(address as usize);
    // SAFETY: per the contract.
    unsafe { pointer.read_unaligned() }
}

impl StandIn {
    /// Makes the memory, while that is allowed.
    ///
    /// # Errors
    /// [`Reason::BackendMissing`] where the system gives none.
    pub fn open() -> Result<File, Refusal> {
        let descriptor = memfd_create(c"enclave", MFdFlags::MFD_CLOEXEC).map_err(missing)?;
        ftruncate(&descriptor, BYTES as i64).map_err(missing)?;
        Ok(File::from(descriptor))
    }

    /// Takes the memory.
    ///
    /// # Panics
    /// Where it cannot be mapped: this is a test.
    #[allow(clippy::expect_used, reason = "in tests alone")]
    pub fn new(file: File) -> Self {
        running::take_signals();
        let length = NonZeroUsize::new(BYTES).unwrap_or(NonZeroUsize::MIN);
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses a place that is free.
        let memory = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &file, 0) };
        let memory = memory.expect("address space for a test").cast();
        Self { file, enclave: RefCell::new(None), memory }
    }

    /// Adds pages until one is refused.
    ///
    /// # Safety
    /// The source and the section are readable.
    unsafe fn add(&self, argument: &mut AddPages) -> nix::Result<()> {
        let mut enclave = self.enclave.borrow_mut();
        let enclave = enclave.as_mut().ok_or(Errno::EINVAL)?;
        let whole = |value: u64| value.is_multiple_of(4096);
        if !whole(argument.source) || !whole(argument.length) || argument.length == 0 || argument.flags & !MEASURE != 0
        {
            return Err(Errno::EINVAL);
        }
        argument.count = 0;
        while argument.count < argument.length {
            let offset = argument.offset + argument.count;
            // SAFETY: per the contract.
            let (section, content) = unsafe { (at(argument.section), at::<4096>(argument.source + argument.count)) };
            enclave.add(offset, &section, &content, argument.flags == MEASURE)?;
            // A page of zeros is one already, and takes no memory.
            if content != [0; 4096] {
                let place = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
                // SAFETY: the accounting has checked that the page is within the enclave's range.
                unsafe { self.memory.add(place).cast().write(content) };
            }
            argument.count += 4096;
        }
        Ok(())
    }

    /// Starts the enclave.
    ///
    /// # Safety
    /// The structure is readable.
    unsafe fn init(&self, argument: &Init) -> nix::Result<()> {
        let mut enclave = self.enclave.borrow_mut();
        let enclave = enclave.as_mut().ok_or(Errno::EINVAL)?;
        // SAFETY: per the contract.
        let identity = enclave.start(&unsafe { at(argument.structure) })?.clone();
        self.run(enclave, identity);
        Ok(())
    }

    /// Lets the enclave be entered.
    fn run(&self, enclave: &Enclave, identity: Identity) {
        let (base, size) = (enclave.base, enclave.size);
        let threads = enclave.threads().map(|offset| {
            let address = self.memory.addr().get() as u64 + offset;
            // SAFETY: within the enclave's memory.
            let words: [u64; 5] = [0, 8, 16, 24, 32].map(|place| u64::from_le_bytes(unsafe { at(address + place) }));
            ThreadState {
                address: base + offset,
                entry: base + words[4],
                frames: words[3] >> 32,
                frame: AtomicU64::new(0),
                busy: AtomicBool::new(false),
            }
        });
        running::start(Running { base, size, identity, threads: threads.collect() });
    }
}

impl Device for StandIn {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    unsafe fn request(&self, number: u32, argument: NonNull<libc::c_void>) -> nix::Result<()> {
        // SAFETY: the caller passes the request's own structure.
        unsafe {
            match number {
                CREATE => {
                    let mut enclave = self.enclave.borrow_mut();
                    if enclave.is_some() {
                        return Err(Errno::EINVAL);
                    }
                    *enclave = Some(Enclave::create(&at(argument.cast::<Create>().as_ref().source))?);
                    Ok(())
                }
                ADD_PAGES => self.add(argument.cast().as_mut()),
                INIT => self.init(argument.cast().as_ref()),
                _ => Err(Errno::ENOTTY),
            }
        }
    }

    fn offset(&self, address: u64, bytes: u64, access: ProtFlags) -> nix::Result<i64> {
        let enclave = self.enclave.borrow();
        let enclave = enclave.as_ref().ok_or(Errno::EINVAL)?;
        // PROT_READ, PROT_WRITE and PROT_EXEC are SECINFO's bits.
        enclave.may_map(address, bytes, access.bits() as u64)?;
        Ok((address - enclave.base) as i64)
    }

    fn enter_function(&self) -> Result<usize, Refusal> {
        Ok(running::enter_function())
    }

    fn nature(&self) -> &'static str {
        "a stand-in of the tests, run by this process: nothing is protected, and its reports prove nothing"
    }
}
