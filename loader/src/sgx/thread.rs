//! Going in by one TCS.

use std::arch::global_asm;
use std::ptr::NonNull;

use myelin_abi::Shared;

use super::structures::{EENTER, EEXIT, ERESUME, Run};
use crate::ending::Ending;
use crate::gate::Slot;

/// What the trampoline is asked for: the image, or a report.
const ENTER: u64 = 0;
const REPORT: u64 = 1;

// The kernel's function takes its last argument from the stack and gives the registers of an exit back in registers; after
// an exception all but the stack and frame pointers are the processor's filling. So nothing is kept but on the stack.
global_asm!(
    ".globl myelin_sgx_enter",
    "myelin_sgx_enter:",
    "push rbp",
    "mov rbp, rsp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 24",
    "mov [rsp], rcx",
    "stmxcsr [rsp + 8]",
    "fnstcw [rsp + 12]",
    "mov [rsp + 16], r8",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "xor edx, edx",
    "mov ecx, {eenter}",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "call rax",
    "cld",
    "mov rcx, [rsp + 16]",
    "mov [rcx], rdi",
    "ldmxcsr [rsp + 8]",
    "fninit",
    "fldcw [rsp + 12]",
    "add rsp, 24",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    eenter = const EENTER,
);

unsafe extern "sysv64" {
    fn myelin_sgx_enter(function: usize, what: u64, shared: *mut Shared, run: *mut Run, answer: *mut u64) -> i32;
}

/// One of the image's slots, by its TCS.
pub struct Thread {
    function: usize,
    run: Box<Run>,
    shared: NonNull<Shared>,
}

// SAFETY: the addresses are only passed on to the enclave, which is what may be entered by several TCSs at once.
unsafe impl Send for Thread {}

impl Thread {
    /// For entries by the TCS at `thread`.
    ///
    /// # Safety
    /// `function` must be the kernel's function for going in, the enclave started, its memory mapped, and `shared` mapped,
    /// all for the life of the process.
    pub unsafe fn new(function: usize, thread: u64, shared: NonNull<Shared>) -> Self {
        Self { function, run: Box::new(Run::new(thread)), shared }
    }

    pub(super) fn go(&mut self, what: u64) -> Result<u64, Ending> {
        let mut answer = 0;
        (self.run.function, self.run.vector) = (EENTER, 0);
        // SAFETY: per the contract of `new`. The function keeps the registers that a call has to keep; the structure and the
        // place for the answer outlive the call.
        let status =
            unsafe { myelin_sgx_enter(self.function, what, self.shared.as_ptr(), &raw mut *self.run, &raw mut answer) };
        match (status, self.run.function) {
            (0, EEXIT) => Ok(answer),
            // Not 0 but negative in some kernels' words: an exception, inside.
            (_, ERESUME) => Err(Ending::Faulted),
            // Or of the way in itself: the memory was lost, as when the machine sleeps.
            _ => Err(Ending::MachineFailed),
        }
    }
}

impl Slot for Thread {
    fn enter(&mut self) -> Result<u64, Ending> {
        self.go(ENTER)
    }

    fn makes_reports(&self) -> bool {
        true
    }

    fn report(&mut self) -> Result<u64, Ending> {
        self.go(REPORT)
    }
}
