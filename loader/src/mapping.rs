//! The image's memory and the shared region: mapped, filled, protected, locked.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use myelin_abi::{Entry, PAGE_BYTES, SHARED_BYTES, Shared};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect};

use crate::arguments::Backend;
use crate::elf::{Image, Segment};
use crate::refusal::{Reason, Refusal};
use crate::report::Layer;

/// From here on huge pages are asked for: an arena is walked end to end, and small pages would cost a fault each.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

fn no_room(what: &str, bytes: u64, error: Errno) -> Refusal {
    Refusal::new(
        Reason::MemoryMissing,
        format!(
            "{what}, {bytes} bytes, cannot be mapped: {error}. Raise the limit on address space or give the machine more memory"
        ),
    )
}

fn size(bytes: u64) -> Result<NonZeroUsize, Refusal> {
    let size = usize::try_from(bytes).ok().and_then(NonZeroUsize::new);
    size.ok_or_else(|| Refusal::malformed(format!("{bytes} bytes cannot be mapped")))
}

/// Maps one segment: zeroed memory, the file's bytes, then the segment's own protection.
///
/// In a virtual machine the image's code runs from the machine's page tables; this process then never executes it.
fn map_segment(segment: &Segment, file: &[u8], backend: Backend) -> Result<NonNull<libc::c_void>, Refusal> {
    let length = size(segment.memory_bytes)?;
    let address = usize::try_from(segment.address).ok().and_then(NonZeroUsize::new);
    let end = segment.file_offset.saturating_add(segment.file_bytes);
    let content = file.get(segment.file_offset..end).filter(|content| content.len() <= length.get());
    let content = content.ok_or_else(|| Refusal::malformed("a segment's bytes are outside the file"))?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE | MapFlags::MAP_NORESERVE;
    // SAFETY: MAP_FIXED_NOREPLACE takes no memory that is in use; the mapping is private and anonymous.
    let base = unsafe { mmap_anonymous(address, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }
        .map_err(|error| no_room(&format!("the segment at {:#x}", segment.address), segment.memory_bytes, error))?;
    if Some(base.addr()) != address {
        // Kernels before 4.17 take the address as a wish.
        return Err(no_room("a segment at its own address", segment.memory_bytes, Errno::EEXIST));
    }
    // SAFETY: `base` starts `length` writable bytes that nothing refers to yet, and `content` is at most as long.
    unsafe { std::ptr::copy_nonoverlapping(content.as_ptr(), base.as_ptr().cast(), content.len()) };
    let protection = match (segment.write, segment.execute && backend == Backend::Process) {
        (true, _) => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        (false, true) => ProtFlags::PROT_READ | ProtFlags::PROT_EXEC,
        (false, false) => ProtFlags::PROT_READ,
    };
    // SAFETY: the range was mapped above and holds no Rust object.
    unsafe { mprotect(base, length.get(), protection) }
        .map_err(|error| no_room("a segment's protection", segment.memory_bytes, error))?;
    Ok(base)
}

/// Keeps a segment out of dumps and forks, and asks for huge pages where it is large.
fn advise(base: NonNull<libc::c_void>, segment: &Segment) -> nix::Result<()> {
    let length = usize::try_from(segment.memory_bytes).unwrap_or(0);
    // SAFETY: advice on a range that was just mapped; neither kind changes its contents.
    unsafe {
        madvise(base, length, MmapAdvise::MADV_DONTDUMP)?;
        madvise(base, length, MmapAdvise::MADV_DONTFORK)?;
        if segment.write && segment.memory_bytes >= HUGE_PAGE_BYTES {
            // Only speed: a kernel without huge pages says no.
            let _ = madvise(base, length, MmapAdvise::MADV_HUGEPAGE);
        }
    }
    Ok(())
}

/// Locks a segment's pages as they are touched, so that secrets never reach swap and untouched arena costs nothing.
fn lock(base: NonNull<libc::c_void>, segment: &Segment) -> nix::Result<()> {
    // SAFETY: mlock2 takes an address range, mapped above, and a flag; it changes no contents.
    let result = unsafe { libc::syscall(libc::SYS_mlock2, base.as_ptr(), segment.memory_bytes, libc::MLOCK_ONFAULT) };
    Errno::result(result).map(drop)
}

/// Maps every segment of a parsed image.
///
/// Returns the layers `not_in_dumps` and `memory_locked`. Locked memory was preferred to `memfd_secret`: that takes only
/// shared mappings, of small pages, which an arena that is walked end to end pays for in every step; and the same limit
/// applies to both.
///
/// # Errors
/// [`Reason::MemoryMissing`] where there is no room.
pub fn map(image: &Image<'_>, file: &[u8], swap_bytes: Option<u64>, backend: Backend) -> Result<Vec<Layer>, Refusal> {
    let mut advised = Ok(());
    let mut writable = Vec::new();
    for segment in &image.segments {
        let base = map_segment(segment, file, backend)?;
        advised = advised.and(advise(base, segment));
        if segment.write {
            writable.push((base, segment));
        }
    }
    Ok(vec![Layer::of("not_in_dumps", "image memory is left out", advised), lock_all(writable, swap_bytes)])
}

/// Locks what can hold secrets, the small segments (stacks, data) first: they are what a limit leaves room for.
fn lock_all(mut writable: Vec<(NonNull<libc::c_void>, &Segment)>, swap_bytes: Option<u64>) -> Layer {
    writable.sort_by_key(|(_, segment)| segment.memory_bytes);
    let total: u64 = writable.iter().map(|(_, segment)| segment.memory_bytes).sum();
    let (mut locked, mut failure) = (0, None);
    for (base, segment) in writable {
        match lock(base, segment) {
            Ok(()) => locked += segment.memory_bytes,
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        None => Layer::applied("memory_locked", format!("{total} bytes stay out of swap")),
        Some(error) => {
            let swap = if swap_bytes == Some(0) { "this machine has no swap now" } else { "this machine may swap" };
            let text =
                format!("{locked} of {total} bytes ({error}); {swap}. Raise RLIMIT_MEMLOCK to {total} bytes or more");
            Layer::missing("memory_locked", text)
        }
    }
}

/// Maps the shared region with an inaccessible page on either side.
///
/// # Errors
/// [`Reason::MemoryMissing`] where there is no room.
pub fn map_shared() -> Result<NonNull<Shared>, Refusal> {
    let page = usize::try_from(PAGE_BYTES).unwrap_or(4096);
    let bytes = SHARED_BYTES + 2 * page;
    let failed = |error| no_room("the shared region", SHARED_BYTES as u64, error);
    // SAFETY: the kernel chooses a place that is free; the mapping is private and anonymous.
    let base = unsafe { mmap_anonymous(None, size(bytes as u64)?, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }
        .map_err(failed)?;
    // SAFETY: one page is within the mapping.
    let shared = unsafe { base.byte_add(page) };
    // SAFETY: the middle of the mapping, page-aligned, zeroed, with nothing in it yet.
    unsafe { mprotect(shared, SHARED_BYTES, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE) }.map_err(failed)?;
    Ok(shared.cast())
}

/// The entry point as something to call.
///
/// # Safety
/// `image` must have been mapped by [`map`] for [`Backend::Process`].
pub unsafe fn entry(image: &Image<'_>) -> Entry {
    // SAFETY: the parser made sure that the address is inside an executable segment, which the caller has mapped, and
    // `docs/abi.md` gives its type. What the code there does is what this process is locked down for.
    unsafe { std::mem::transmute::<u64, Entry>(image.entry) }
}
