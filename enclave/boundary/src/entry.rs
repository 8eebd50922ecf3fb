//! The one way in and out.
//!
//! The caller chooses nothing but the slot and the shared region's address: not the stack, not the rounding mode, not the
//! direction flag. On the way out every register that may hold a value of the enclave is scrubbed.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, Ordering};

use myelin_abi::{PAGE_BYTES, SLOT_COUNT, Shared, exit};

use crate::STACK_BYTES;
use crate::shared::Region;

/// From one stack's bottom to the next: a guard page and the stack.
const STRIDE: usize = STACK_BYTES + PAGE_BYTES as usize;

/// Looks for work before a lent thread goes back, about a millisecond of pauses.
const PATIENCE: u32 = 1 << 14;

/// How the enclave computes with floats: exceptions masked, to the nearest, and subnormal numbers read and written as zero.
/// Many processors take a hundred times longer over a subnormal number, which would let a model that is made for it tell the
/// host, by the time of a step, what is in a record.
const MXCSR: u32 = 0x1f80 | 1 << 15 | 1 << 6;

/// One bit per slot that a thread is in on. The entry claims and gives back; nothing else writes it.
#[cfg_attr(myelin_image, unsafe(link_section = ".data.myelin_control"))]
static CLAIMED: AtomicU32 = AtomicU32::new(0);

/// Threads between `enter` and `finish`: the last one out of a stopped enclave wipes it.
#[cfg_attr(myelin_image, unsafe(link_section = ".data.myelin_control"))]
static INSIDE: AtomicU32 = AtomicU32::new(0);

#[cfg_attr(myelin_image, unsafe(link_section = ".data.myelin_control"))]
static SHARED: Region = Region::new();

#[cfg(myelin_image)]
unsafe extern "C" {
    /// Guard pages and stacks, laid out by the linker script: `SLOT_COUNT` times `STRIDE` bytes.
    static mut myelin_stacks: u8;
}

#[cfg(test)]
#[repr(C, align(4096))]
struct Stacks(core::cell::UnsafeCell<[u8; SLOT_COUNT * STRIDE]>);
#[cfg(test)]
// SAFETY: each slot's part is used only by the thread that claimed the slot.
unsafe impl Sync for Stacks {}
#[cfg(test)]
#[allow(non_upper_case_globals, reason = "stands for the linker's symbol")]
static myelin_stacks: Stacks = Stacks(core::cell::UnsafeCell::new([0; SLOT_COUNT * STRIDE]));

// On a slot's stack, from its top: the caller's stack pointer, the slot. Below them, the enclave's frames.
//
// popfq clears the direction, trap and alignment-check flags.
global_asm!(
    ".globl myelin_entry",
    ".type myelin_entry, @function",
    "myelin_entry:",
    "endbr64",
    "push rbp", "push rbx", "push r12", "push r13", "push r14", "push r15",
    "sub rsp, 8",
    "stmxcsr [rsp]",
    "fnstcw [rsp + 4]",
    "cmp rdi, {slots}",
    "mov eax, {refused}",
    "jae 4f",
    "mov eax, {busy}",
    "lock bts dword ptr [rip + {claimed}], edi",
    "jc 4f",
    "lea rcx, [rdi + 1]",
    "imul rcx, rcx, {stride}",
    "lea rax, [rip + {stacks}]",
    "add rax, rcx",
    "mov [rax - 8], rsp",
    "mov [rax - 16], rdi",
    "lea rsp, [rax - 16]",
    "push 0x202",
    "popfq",
    "fninit",
    "push {mxcsr}",
    "ldmxcsr [rsp]",
    "add rsp, 8",
    "xor ebp, ebp",
    "call {enter}",
    "3:",
    "call myelin_scrub",
    "mov r8, [rsp]",
    "mov rsp, [rsp + 8]",
    "lock btr dword ptr [rip + {claimed}], r8d",
    "4:",
    "ldmxcsr [rsp]",
    "fldcw [rsp + 4]",
    "add rsp, 8",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp",
    "xor ecx, ecx", "xor edx, edx", "xor esi, esi", "xor edi, edi",
    "xor r8d, r8d", "xor r9d, r9d", "xor r10d, r10d", "xor r11d, r11d",
    "ret",
    ".size myelin_entry, . - myelin_entry",
    // Leaves a stopped enclave from any depth: rdi = bottom of this slot's stack. Wipes the stack up to the two words
    // that the exit needs.
    ".globl myelin_leave",
    ".type myelin_leave, @function",
    "myelin_leave:",
    "lea rsp, [rdi + {stack_bytes} - 16]",
    "mov rcx, {stack_bytes} - 16",
    "xor eax, eax",
    "cld",
    "rep stosb",
    "mov eax, {dead}",
    "jmp 3b",
    ".size myelin_leave, . - myelin_leave",
    mxcsr = const MXCSR,
    slots = const SLOT_COUNT,
    refused = const exit::REFUSED,
    busy = const exit::SLOT_BUSY,
    dead = const exit::DEAD,
    stride = const STRIDE,
    stack_bytes = const STACK_BYTES,
    claimed = sym CLAIMED,
    stacks = sym myelin_stacks,
    enter = sym enter,
);

// Zeroes every vector and mask register that the image's target has, and the x87 and MMX registers: the eight loads
// overwrite what they held, fninit resets control and tags. Keeps rax.
#[cfg(target_feature = "avx512bw")]
global_asm!(
    "myelin_scrub:",
    "vzeroall",
    ".irp n, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "vpxord zmm\\n, zmm\\n, zmm\\n",
    ".endr",
    ".irp n, 0,1,2,3,4,5,6,7",
    "kxorq k\\n, k\\n, k\\n",
    ".endr",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fninit",
    "ret",
);
#[cfg(all(target_feature = "avx", not(target_feature = "avx512bw")))]
global_asm!(
    "myelin_scrub:",
    "vzeroall",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fninit",
    "ret",
);
#[cfg(not(target_feature = "avx"))]
global_asm!(
    "myelin_scrub:",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "pxor xmm\\n, xmm\\n",
    ".endr",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fldz",
    "fninit",
    "ret",
);

/// The reply of a stopped enclave: `[1, 901, text]`.
const STOPPED_REPLY: &[u8] = b"\x83\x01\x19\x03\x85\x78\x1ethe enclave has stopped itself";

/// The reply to a request that is too long to copy: `[1, 101, text]`.
const OVERSIZED_REPLY: &[u8] = b"\x83\x01\x18\x65\x78\x19request longer than 1 MiB";

unsafe extern "Rust" {
    /// The image's handler, which [`crate::entry!`] defines.
    fn myelin_message(request: &[u8]) -> crate::Reply;
}

/// What runs on the slot's own stack. Called by the entry's assembly only.
extern "sysv64" fn enter(slot: u64, shared: *mut Shared) -> u64 {
    INSIDE.fetch_add(1, Ordering::AcqRel);
    let code = if crate::is_stopped() {
        SHARED.reply(STOPPED_REPLY);
        exit::DEAD
    } else if !SHARED.fix(shared, &image()) {
        exit::REFUSED
    } else if slot == 0 {
        serve()
    } else {
        crate::pool().lend(PATIENCE);
        exit::IDLE
    };
    if crate::is_stopped() {
        leave(slot as usize);
    }
    INSIDE.fetch_sub(1, Ordering::AcqRel);
    code
}

/// Handles one message.
fn serve() -> u64 {
    let Ok(request) = SHARED.request() else {
        SHARED.reply(OVERSIZED_REPLY);
        return exit::REPLY;
    };
    // SAFETY: `entry!` gives the symbol this very type.
    let reply = unsafe { myelin_message(&request) };
    if !SHARED.reply(&reply.bytes) {
        // No reply is longer than a message may be: the handler is broken.
        SHARED.reply(STOPPED_REPLY);
        crate::stop::mark_stopped();
    }
    if reply.stop {
        crate::stop::mark_stopped();
    }
    exit::REPLY
}

/// Leaves from wherever this thread is, after a panic or a fatal error.
#[cfg(myelin_image)]
pub(crate) fn leave_stopped() -> ! {
    let stack: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) };
    let slot = stack.wrapping_sub(stacks()) / STRIDE;
    if slot == 0 {
        SHARED.reply(STOPPED_REPLY);
    }
    leave(slot)
}

/// Wipes what this thread leaves behind, all of it where it is the last one, and returns [`exit::DEAD`] to the caller.
fn leave(slot: usize) -> ! {
    unsafe extern "sysv64" {
        fn myelin_leave(stack_bottom: usize) -> !;
    }
    if INSIDE.fetch_sub(1, Ordering::AcqRel) == 1 {
        wipe();
    }
    // SAFETY: this thread runs on that slot's stack, whose top holds what the exit needs; nothing returns here.
    unsafe { myelin_leave(stack_bottom(slot)) }
}

/// Zeroes `.bss` and the stacks of slots that nobody is in on. The enclave is stopped and this is its last thread: one
/// that enters meanwhile touches control words and its own stack only.
fn wipe() {
    #[cfg(myelin_image)]
    {
        unsafe extern "C" {
            static mut myelin_bss_start: u8;
            static mut myelin_bss_end: u8;
        }
        let start = (&raw mut myelin_bss_start).addr();
        zero(start, (&raw mut myelin_bss_end).addr() - start);
    }
    for slot in 0..SLOT_COUNT {
        let bit = 1 << slot;
        if CLAIMED.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
            zero(stack_bottom(slot), STACK_BYTES);
            CLAIMED.fetch_and(!bit, Ordering::AcqRel);
        }
    }
}

fn zero(start: usize, bytes: usize) {
    // SAFETY: called for `.bss`, whose statics nobody uses any more, and for stacks that were claimed.
    unsafe {
        asm!("rep stosb", inout("rcx") bytes => _, inout("rdi") start => _, in("al") 0_u8,
             options(nostack, preserves_flags));
    }
}

fn stacks() -> usize {
    #[cfg(myelin_image)]
    {
        (&raw const myelin_stacks).addr()
    }
    #[cfg(not(myelin_image))]
    {
        (&raw const myelin_stacks).addr()
    }
}

fn stack_bottom(slot: usize) -> usize {
    stacks() + slot * STRIDE + PAGE_BYTES as usize
}

#[cfg(myelin_image)]
fn image() -> core::ops::Range<usize> {
    unsafe extern "C" {
        static myelin_image_start: u8;
        static myelin_image_end: u8;
    }
    (&raw const myelin_image_start).addr()..(&raw const myelin_image_end).addr()
}

#[cfg(not(myelin_image))]
fn image() -> core::ops::Range<usize> {
    stacks()..stacks() + SLOT_COUNT * STRIDE
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
