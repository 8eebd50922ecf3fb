//! One virtual processor: the state it starts in, and going in.

use kvm_bindings::{CpuId, kvm_regs, kvm_segment, kvm_xcr, kvm_xcrs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::errno::Errno;

use super::{EXIT, TABLES, failed};
use crate::ending::Ending;
use crate::gate::Slot;
use crate::refusal::{Reason, Refusal};

/// Protected mode with paging, write protection, and the processor's own floating-point errors.
const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// The clock is ring 0's, and there is no ring 0; wide page tables; SSE with its exceptions; XSAVE.
const CR4: u64 = 1 << 2 | 1 << 5 | 1 << 9 | 1 << 10 | 1 << 18;
/// Long mode, with pages that cannot be executed.
const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11;
/// No port is ring 3's, nothing is set but what always is.
const RFLAGS: u64 = 1 << 1;
/// Registers of x87, SSE and AVX.
const VECTORS: u64 = 0b111;
/// Registers of AVX-512.
const WIDE_VECTORS: u64 = 0b111 << 5;

/// A virtual processor that goes in on one slot.
pub struct Processor {
    fd: VcpuFd,
    /// The registers of every entry: nothing that was left in one is there in the next.
    start: kvm_regs,
}

/// Where one processor begins.
pub struct Start {
    /// Address of the few instructions that call the entry point and leave.
    pub trampoline: u64,
    /// First address above the stack.
    pub stack_end: u64,
    /// The image's entry point.
    pub entry: u64,
    /// The shared region, as the machine has it.
    pub shared: u64,
    /// The slot.
    pub slot: u64,
}

/// A flat segment of ring 3.
fn segment(kind: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        // The third and second descriptor of a table that is not there, asked for by ring 3.
        selector: if code { 0x1b } else { 0x13 },
        type_: kind,
        present: 1,
        dpl: 3,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..kvm_segment::default()
    }
}

/// Which vector registers the machine can have, for an image that was built for `target`.
///
/// # Errors
/// [`Reason::CpuFeaturesMissing`] where KVM does not give those that the target needs.
pub fn vectors(cpuid: &CpuId, target: &str) -> Result<u64, Refusal> {
    let leaf = cpuid.as_slice().iter().find(|entry| entry.function == 0xd && entry.index == 0);
    let there = u64::from(leaf.map_or(0, |entry| entry.eax));
    let wide = if there & WIDE_VECTORS == WIDE_VECTORS { WIDE_VECTORS } else { 0 };
    let needed = if target == "x86-64-v4" { VECTORS | WIDE_VECTORS } else { VECTORS };
    let given = there & VECTORS | wide;
    if given & needed == needed {
        return Ok(given);
    }
    let message = format!(
        "the image was built for {target}; KVM gives a virtual machine the vector registers {given:#x} and it needs \
         {needed:#x}. Run it with --backend process, or build for a lower target"
    );
    Err(Refusal::new(Reason::CpuFeaturesMissing, message))
}

impl Processor {
    /// Puts a fresh virtual processor into ring 3, with no table for interrupts or faults.
    ///
    /// # Errors
    /// [`Reason::BackendMissing`] where KVM refuses.
    pub fn new(fd: VcpuFd, cpuid: &CpuId, vectors: u64, start: &Start) -> Result<Self, Refusal> {
        fd.set_cpuid2(cpuid).map_err(|error| failed("KVM_SET_CPUID2", error))?;
        let mut system = fd.get_sregs().map_err(|error| failed("KVM_GET_SREGS", error))?;
        (system.cr0, system.cr3, system.cr4, system.efer) = (CR0, TABLES, CR4, EFER);
        system.cs = segment(0b1011, true);
        let data = segment(0b0011, false);
        (system.ds, system.es, system.fs, system.gs, system.ss) = (data, data, data, data, data);
        for table in [&mut system.gdt, &mut system.idt] {
            (table.base, table.limit) = (0, 0);
        }
        fd.set_sregs(&system).map_err(|error| failed("KVM_SET_SREGS", error))?;
        let mut controls = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
        if let Some(first) = controls.xcrs.first_mut() {
            *first = kvm_xcr { xcr: 0, reserved: 0, value: vectors };
        }
        fd.set_xcrs(&controls).map_err(|error| failed("KVM_SET_XCRS", error))?;
        let start = kvm_regs {
            rax: start.entry,
            rbx: EXIT,
            rdi: start.slot,
            rsi: start.shared,
            rsp: start.stack_end,
            rip: start.trampoline,
            rflags: RFLAGS,
            ..kvm_regs::default()
        };
        Ok(Self { fd, start })
    }
}

impl Slot for Processor {
    fn enter(&mut self) -> Result<u64, Ending> {
        self.fd.set_regs(&self.start).map_err(|_| Ending::MachineFailed)?;
        loop {
            match self.fd.run() {
                Ok(VcpuExit::MmioWrite(EXIT, answer)) => {
                    let answer = <[u8; 8]>::try_from(answer).map_err(|_| Ending::ImageMisbehaved)?;
                    return Ok(u64::from_le_bytes(answer));
                }
                Ok(VcpuExit::Intr) => {}
                Ok(VcpuExit::Shutdown) => return Err(Ending::Faulted),
                // The page behind the way out, used otherwise.
                Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..)) => return Err(Ending::ImageMisbehaved),
                Err(error) if [Errno::EINTR, Errno::EAGAIN].contains(&Errno::from_raw(error.errno())) => {}
                Ok(_) | Err(_) => return Err(Ending::MachineFailed),
            }
        }
    }
}
