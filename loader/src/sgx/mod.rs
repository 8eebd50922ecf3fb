//! The image as an SGX enclave, by the interface of Linux's driver.
//!
//! The enclave has the image's pages where it is linked, one page more by which every entry and exit goes
//! (`enclave/sgx/trampoline.s`), and for each slot what the processor wants of a thread. All of it is measured, zeros too:
//! what is not measured holds what the host likes. Nothing is added later, no right of a page ever changes, and nothing
//! handles exceptions: any fault ends the enclave. What loads it has no say in any of that: another page, right or order
//! is another MRENCLAVE, which nobody trusts.

mod device;
mod layout;
#[cfg(any(test, feature = "sgx-stand-in"))]
mod stand_in;
pub mod structures;
mod thread;
mod vdso;

use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::fd::FromRawFd;
use std::ptr::NonNull;

use myelin_abi::Shared;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous};

use crate::elf::Image;
use crate::refusal::{Reason, Refusal};
use crate::report::Layer;
use device::Device;
use layout::Pages;
use structures::{ADD_PAGES, AddPages, CREATE, Create, INIT, Init, MEASURE, SIGSTRUCT_BYTES, SecInfo, Secs, page};

pub use thread::Thread;

#[cfg(not(feature = "sgx-stand-in"))]
use device::Driver as Chosen;
#[cfg(feature = "sgx-stand-in")]
use stand_in::StandIn as Chosen;

/// Bytes that are added at a time.
const WINDOW_BYTES: usize = 2 << 20;

/// SIGSTRUCT, as the host gave it: the processor reads it, the loader does not.
pub type Signature = Box<[u8; SIGSTRUCT_BYTES]>;

/// Opens the driver.
///
/// # Errors
/// [`Reason::BackendMissing`] with what is missing.
pub fn open_device() -> Result<File, Refusal> {
    Chosen::open()
}

/// Reads the signature, while there is more to read than the image: 1,808 bytes that nothing here looks into.
///
/// # Errors
/// [`Reason::SignatureUnreadable`] where there are fewer bytes, or more.
pub fn read_signature(descriptor: i32) -> Result<Signature, Refusal> {
    // SAFETY: the descriptor was given to this process for this purpose, and nothing else in it owns it.
    let file = unsafe { File::from_raw_fd(descriptor) };
    let mut bytes = Vec::new();
    let read = file.take(SIGSTRUCT_BYTES as u64 + 1).read_to_end(&mut bytes);
    let unreadable = |why: String| Refusal::new(Reason::SignatureUnreadable, why);
    read.map_err(|error| unreadable(format!("descriptor {descriptor}: {error}")))?;
    let count = bytes.len();
    Box::try_from(bytes.into_boxed_slice())
        .map_err(|_| unreadable(format!("descriptor {descriptor}: {count} bytes or more, expected {SIGSTRUCT_BYTES}")))
}

fn failed(what: &str, error: Errno) -> Refusal {
    let advice = match error {
        Errno::EPERM | Errno::EACCES if what == "SGX_IOC_ENCLAVE_INIT" => {
            "the signature is not this image's, or not in order: sign the image again"
        }
        Errno::EPERM | Errno::EACCES => "the file system of /dev must not be mounted noexec",
        Errno::ENOMEM => "there is not enough enclave memory: give the machine more, in its firmware",
        Errno::EIO => "the processor has refused: it may lack registers that the image uses, or have lost its memory",
        _ => "see the kernel's log",
    };
    let reason = if error == Errno::ENOMEM { Reason::MemoryMissing } else { Reason::EnclaveRefused };
    Refusal::new(reason, format!("{what}: {error}; {advice}"))
}

/// Makes a request with its structure.
fn request<T>(device: &dyn Device, number: u32, what: &str, argument: &mut T) -> Result<(), Refusal> {
    loop {
        // SAFETY: the callers below pass the request's own structure, with addresses of values that outlive the call.
        match unsafe { device.request(number, NonNull::from(&mut *argument).cast()) } {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(failed(what, error)),
        }
    }
}

/// A page-aligned buffer that pages are added from.
struct Window {
    place: NonNull<u8>,
    /// Bytes at its beginning that may be other than zero.
    used: usize,
}

impl Window {
    fn new() -> Result<Self, Refusal> {
        let length = NonZeroUsize::new(WINDOW_BYTES).unwrap_or(NonZeroUsize::MIN);
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses a place that is free; the mapping is private and anonymous.
        let place = unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE) }
            .map_err(|error| failed("memory to add pages from", error))?;
        Ok(Self { place: place.cast(), used: 0 })
    }

    /// Fills the window with `bytes` and zeros behind them. Returns its address.
    fn fill(&mut self, bytes: &[u8]) -> u64 {
        let bytes = bytes.get(..WINDOW_BYTES).unwrap_or(bytes);
        // SAFETY: both parts lie within the mapping, which nothing else refers to while this runs.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.place.as_ptr(), bytes.len());
            if self.used > bytes.len() {
                self.place.add(bytes.len()).write_bytes(0, self.used - bytes.len());
            }
        }
        self.used = bytes.len();
        self.place.addr().get() as u64
    }
}

/// Adds pages, and has them measured.
fn add(device: &dyn Device, window: &mut Window, pages: &Pages<'_>) -> Result<(), Refusal> {
    let section = SecInfo::new(pages.flags);
    let content = pages.content.bytes();
    let mut done = 0;
    while done < pages.bytes {
        let from = usize::try_from(done).unwrap_or(usize::MAX);
        let source = window.fill(content.get(from..).unwrap_or_default());
        let mut argument = AddPages {
            source,
            offset: pages.address + done,
            length: (pages.bytes - done).min(WINDOW_BYTES as u64),
            section: (&raw const section).addr() as u64,
            flags: MEASURE,
            count: 0,
        };
        request(device, ADD_PAGES, "SGX_IOC_ENCLAVE_ADD_PAGES", &mut argument)?;
        if argument.count == 0 || argument.count > argument.length {
            return Err(failed("SGX_IOC_ENCLAVE_ADD_PAGES", Errno::EIO));
        }
        // A signal may have ended it early.
        done += argument.count;
    }
    Ok(())
}

/// Maps pages of the enclave at `base`, with their own rights.
fn map(device: &dyn Device, base: u64, pages: &Pages<'_>) -> Result<(), Refusal> {
    let write = pages.flags & (page::WRITE | page::THREAD) != 0;
    let access = match (write, pages.flags & page::EXECUTE != 0) {
        (true, _) => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        (false, true) => ProtFlags::PROT_READ | ProtFlags::PROT_EXEC,
        (false, false) => ProtFlags::PROT_READ,
    };
    let what = "mapping the enclave";
    let size =
        |value| usize::try_from(value).ok().and_then(NonZeroUsize::new).ok_or_else(|| failed(what, Errno::EINVAL));
    let place = base + pages.address;
    let (address, length) = (size(place)?, size(pages.bytes)?);
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE;
    let offset = device.offset(place, pages.bytes, access).map_err(|error| failed(what, error))?;
    // SAFETY: MAP_FIXED_NOREPLACE takes no memory that is in use.
    let place = unsafe { mmap(Some(address), length, access, flags, device.descriptor(), offset) }
        .map_err(|error| failed(what, error))?;
    if place.addr() == address { Ok(()) } else { Err(failed(what, Errno::EEXIST)) }
}

/// Which registers an image of `target` uses: the second word of ATTRIBUTES.
fn registers(target: &str) -> u64 {
    if target == "x86-64-v4" { 0xe7 } else { 0x7 }
}

/// Makes an enclave at `base` and adds its pages.
fn fill(device: &dyn Device, base: u64, pages: &[Pages<'_>], xfrm: u64) -> Result<(), Refusal> {
    let secs = Box::new(Secs::new(base, layout::BYTES, layout::FRAME_PAGES, xfrm));
    let mut create = Create { source: (&raw const *secs).addr() as u64 };
    request(device, CREATE, "SGX_IOC_ENCLAVE_CREATE", &mut create)?;
    let mut window = Window::new()?;
    pages.iter().try_for_each(|pages| add(device, &mut window, pages))
}

/// Starts the enclave.
fn start(device: &dyn Device, signature: &[u8; SIGSTRUCT_BYTES]) -> Result<(), Refusal> {
    let mut init = Init { structure: signature.as_ptr().addr() as u64 };
    request(device, INIT, "SGX_IOC_ENCLAVE_INIT", &mut init)
}

/// Makes an enclave of the image. Returns its slots and the layer `enclave`.
///
/// # Errors
/// [`Reason::EnclaveRefused`] where the driver or the processor does not take it, [`Reason::MemoryMissing`] where there is
/// not enough enclave memory, [`Reason::BackendMissing`] where the kernel has no way in.
pub fn make(
    file: File,
    image: &Image<'_>,
    bytes: &[u8],
    signature: &[u8; SIGSTRUCT_BYTES],
    shared: NonNull<Shared>,
    threads: usize,
    target: &str,
) -> Result<(Vec<Thread>, Layer), Refusal> {
    let device = Chosen::new(file);
    let function = device.enter_function()?;
    let pages = layout::pages(image, bytes)?;
    fill(&device, layout::BASE, &pages, registers(target))?;
    start(&device, signature)?;
    pages.iter().try_for_each(|pages| map(&device, layout::BASE, pages))?;
    // SAFETY: the enclave has been started and mapped; the shared region stays mapped.
    let slots = (0..threads as u64).map(|slot| unsafe { Thread::new(function, layout::thread(slot), shared) });
    let slots = slots.collect();
    let layer = Layer::applied("enclave", device.nature());
    // Its memory lives as long as its mappings do; only closing the descriptor is left out, which the last list forbids.
    std::mem::forget(device);
    Ok((slots, layer))
}
