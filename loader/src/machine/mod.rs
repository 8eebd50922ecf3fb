//! The image in a virtual machine of its own: ring 3 and nothing else.
//!
//! There is no kernel in it, no interrupt, no device and no table for faults: whatever the image does but computing in its own
//! memory and leaving by one address shuts the machine down, and ends the enclave. Its page tables allow no address that is
//! writable and executable at once, and are in none of its addresses. It has as many virtual processors as threads are
//! lent. The process around it is locked down as for an image that it runs itself, so that a way out of the machine leads
//! into that.

mod processor;
pub mod requests;
mod tables;

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::ptr::NonNull;

use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use myelin_abi::{PAGE_BYTES, SHARED_BYTES, Shared};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use crate::elf::{Image, Segment};
use crate::refusal::{Reason, Refusal};
use crate::report::Layer;
use processor::{Start, vectors};
use tables::{Access, Tables};

pub use processor::Processor;

/// The few instructions around a call of the entry point; below the image.
const TRAMPOLINE: u64 = 0x10_0000;
/// `call *%rax; mov %rax, (%rbx); ud2`: the host has set the arguments, and `rbx`, which a call preserves, to [`EXIT`].
const TRAMPOLINE_CODE: [u8; 7] = [0xff, 0xd0, 0x48, 0x89, 0x03, 0x0f, 0x0b];
/// The way out: an address where the machine has no memory, so that a write of the answer to it goes to the host.
///
/// It needs no privilege. A port would need one, and not every KVM keeps it for ring 3.
const EXIT: u64 = 0x10_1000;
/// First stack: what calls the entry point needs one; the image has stacks of its own.
const STACKS: u64 = 0x20_0000;
/// Bytes of a stack.
const STACK_BYTES: u64 = 128 << 10;
/// From one stack to the next, with a page between that is not there.
const STACK_STEP: u64 = STACK_BYTES + PAGE_BYTES;
/// The shared region, above any image.
const SHARED: u64 = 1 << 32;
/// Where the machine's memory has the page tables. None of its addresses lead there.
const TABLES: u64 = 1 << 33;

/// Opens KVM.
///
/// # Errors
/// [`Reason::BackendMissing`] with what is missing.
pub fn open_device() -> Result<File, Refusal> {
    File::options().read(true).write(true).open("/dev/kvm").map_err(|error| {
        Refusal::new(
            Reason::BackendMissing,
            format!(
                "/dev/kvm cannot be opened: {error}. Load the kernel's kvm module, or join the group that may use it; \
                 --backend process needs neither"
            ),
        )
    })
}

fn failed(request: &str, error: kvm_ioctls::Error) -> Refusal {
    let message = format!("KVM does not take {request}: {error}; --backend process does without");
    Refusal::new(Reason::BackendMissing, message)
}

/// Memory of the machine: where it has it, and where this process does.
struct Piece {
    address: u64,
    host: u64,
    bytes: u64,
    write: bool,
}

/// Zeroed memory of this process for the machine.
fn memory(bytes: u64, what: &str) -> Result<NonNull<libc::c_void>, Refusal> {
    let missing = |why: String| Refusal::new(Reason::MemoryMissing, format!("{what}, {bytes} bytes: {why}"));
    let length = usize::try_from(bytes).ok().and_then(NonZeroUsize::new);
    let length = length.ok_or_else(|| missing("not a size".to_owned()))?;
    // SAFETY: the kernel chooses a place that is free; the mapping is private and anonymous.
    unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) }
        .map_err(|error| missing(error.to_string()))
}

/// Gives the machine one piece of memory.
fn insert(machine: &VmFd, slot: usize, piece: &Piece) -> Result<(), Refusal> {
    let region = kvm_userspace_memory_region {
        slot: u32::try_from(slot).unwrap_or(u32::MAX),
        flags: if piece.write { 0 } else { KVM_MEM_READONLY },
        guest_phys_addr: piece.address,
        memory_size: piece.bytes,
        userspace_addr: piece.host,
    };
    // SAFETY: the range is mapped in this process for its life, page-aligned, and no Rust object lives in it while the
    // machine runs: image memory, stacks, tables, and the shared region, which is looked at through pointers while slot 0
    // is out. Pieces do not overlap in the machine: the image's lie between the stacks and the shared region.
    unsafe { machine.set_user_memory_region(region) }.map_err(|error| failed("KVM_SET_USER_MEMORY_REGION", error))
}

/// An address of this process, as the kernel takes it.
fn place<T>(memory: NonNull<T>) -> u64 {
    memory.as_ptr().addr() as u64
}

fn access(segment: &Segment) -> Access {
    match (segment.write, segment.execute) {
        (true, _) => Access::Write,
        (false, true) => Access::Execute,
        (false, false) => Access::Read,
    }
}

/// Address of the lowest byte of a slot's stack.
fn stack(slot: u64) -> u64 {
    STACKS + slot * STACK_STEP + PAGE_BYTES
}

/// What the machine's addresses are for: start, end, access.
fn ranges(image: &Image<'_>, threads: u64) -> Vec<(u64, u64, Access)> {
    let mut ranges = vec![
        (TRAMPOLINE, TRAMPOLINE + PAGE_BYTES, Access::Execute),
        (EXIT, EXIT + PAGE_BYTES, Access::Write),
        (SHARED, SHARED + SHARED_BYTES as u64, Access::Write),
    ];
    ranges.extend((0..threads).map(|slot| (stack(slot), stack(slot) + STACK_BYTES, Access::Write)));
    ranges.extend(image.segments.iter().map(|segment| (segment.address, segment.end(), access(segment))));
    ranges
}

/// The machine's memory, filled: trampoline, stacks, page tables, shared region, and the image, where this process has it.
fn pieces(image: &Image<'_>, shared: NonNull<Shared>, threads: u64) -> Result<Vec<Piece>, Refusal> {
    let trampoline = memory(PAGE_BYTES, "the entry's page")?;
    // SAFETY: a page of zeros that nothing refers to yet, longer than the code.
    unsafe {
        std::ptr::copy_nonoverlapping(TRAMPOLINE_CODE.as_ptr(), trampoline.as_ptr().cast(), TRAMPOLINE_CODE.len());
    }
    let ranges = ranges(image, threads);
    let mapped = ranges.iter().map(|(start, end, _)| end - start).sum();
    let table_bytes = Tables::bytes_for(mapped, ranges.len() as u64);
    let table_memory = memory(table_bytes, "the virtual machine's page tables")?;
    let count = usize::try_from(table_bytes / 8).unwrap_or(0);
    // SAFETY: as many zeroed, aligned, mapped bytes, which nothing else refers to; the borrow ends with this function,
    // before the machine has the memory.
    let entries = unsafe { std::slice::from_raw_parts_mut(table_memory.as_ptr().cast::<u64>(), count) };
    let mut tables = Tables::new(entries, TABLES);
    for (start, end, access) in ranges {
        tables.map(start, end, access)?;
    }
    let stacks = memory(threads * STACK_STEP, "stacks")?;
    let piece = |address, host, bytes, write| Piece { address, host, bytes, write };
    let mut pieces = vec![
        piece(TRAMPOLINE, place(trampoline), PAGE_BYTES, false),
        piece(STACKS, place(stacks), threads * STACK_STEP, true),
        piece(SHARED, place(shared), SHARED_BYTES as u64, true),
        piece(TABLES, place(table_memory), table_bytes, true),
    ];
    // This process has a segment where the image has it.
    let segments = image.segments.iter();
    pieces.extend(segments.map(|part| piece(part.address, part.address, part.memory_bytes, part.write)));
    Ok(pieces)
}

/// Makes a machine of the mapped `image`, with a processor for each of `threads` slots. Returns them and the layer
/// `virtual_machine`.
///
/// # Errors
/// [`Reason::BackendMissing`] where KVM refuses, [`Reason::CpuFeaturesMissing`] where it lacks registers that the target
/// needs, [`Reason::MemoryMissing`].
pub fn make(
    device: File,
    image: &Image<'_>,
    shared: NonNull<Shared>,
    threads: usize,
    target: &str,
) -> Result<(Vec<Processor>, Layer), Refusal> {
    // SAFETY: the descriptor is KVM's, open, and handed over by its only owner.
    let kvm = unsafe { Kvm::from_raw_fd(device.into_raw_fd()) };
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION as i32 {
        let message = format!("KVM answers with interface version {version}, expected {KVM_API_VERSION}");
        return Err(Refusal::new(Reason::BackendMissing, message));
    }
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let cpuid = cpuid.map_err(|error| failed("KVM_GET_SUPPORTED_CPUID", error))?;
    let vectors = vectors(&cpuid, target)?;
    let machine = kvm.create_vm().map_err(|error| failed("KVM_CREATE_VM", error))?;
    for (slot, piece) in pieces(image, shared, threads as u64)?.iter().enumerate() {
        insert(&machine, slot, piece)?;
    }
    let mut processors = Vec::with_capacity(threads);
    for slot in 0..threads as u64 {
        let fd = machine.create_vcpu(slot).map_err(|error| failed("KVM_CREATE_VCPU", error))?;
        let stack_end = stack(slot) + STACK_BYTES;
        let start = Start { trampoline: TRAMPOLINE, stack_end, entry: image.entry, shared: SHARED, slot };
        processors.push(Processor::new(fd, &cpuid, vectors, &start)?);
    }
    let layer = Layer::applied(
        "virtual_machine",
        "ring 3 without a kernel, a device or a clock; page tables out of reach, no memory writable and executable; \
         any fault ends it",
    );
    Ok((processors, layer))
}
