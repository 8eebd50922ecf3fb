//! The one way in and out.
//!
//! The caller chooses nothing but the slot and the shared region's address: not the stack, not the rounding mode, not the
//! direction flag. On the way out every register that may hold a value of the enclave is scrubbed.

/// Bytes of each slot's stack. In an image an unmapped page lies below each, so that overflow faults.
pub const STACK_BYTES: usize = 512 * 1024;

#[cfg(any(myelin_image, test))]
mod gate {
    use core::arch::{asm, global_asm};
    use core::sync::atomic::{AtomicU32, Ordering};

    use myelin_abi::{PAGE_BYTES, SLOT_COUNT, Shared, exit};

    use super::STACK_BYTES;
    use crate::shared::Region;

    /// From one stack's bottom to the next: a guard page and the stack.
    const STRIDE: usize = STACK_BYTES + PAGE_BYTES as usize;

    /// Looks for work before a lent thread goes back, about a millisecond of pauses.
    const PATIENCE: u32 = 1 << 14;

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
        "push 0x1f80",
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
        "fldz", "fldz", "fldz", "fldz", "fldz", "fldz", "fldz", "fldz",
        "fninit",
        "ret",
    );
    #[cfg(all(target_feature = "avx", not(target_feature = "avx512bw")))]
    global_asm!(
        "myelin_scrub:",
        "vzeroall",
        "fldz", "fldz", "fldz", "fldz", "fldz", "fldz", "fldz", "fldz",
        "fninit",
        "ret",
    );
    #[cfg(not(target_feature = "avx"))]
    global_asm!(
        "myelin_scrub:",
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "pxor xmm\\n, xmm\\n",
        ".endr",
        "fldz", "fldz", "fldz", "fldz", "fldz", "fldz", "fldz", "fldz",
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
}

#[cfg(myelin_image)]
pub(crate) use gate::leave_stopped;

#[cfg(test)]
mod tests {
    use core::arch::asm;
    use std::alloc::{Layout, alloc_zeroed};
    use std::sync::{Mutex, MutexGuard, OnceLock};

    use myelin_abi::{MESSAGE_BYTES, SLOT_COUNT, Shared, exit};

    use crate::Reply;

    unsafe extern "sysv64" {
        fn myelin_entry(slot: u64, shared: *mut Shared) -> u64;
    }

    /// The entry's state is global, so its tests take turns, on the one region that the first entry fixes.
    fn shared() -> (MutexGuard<'static, ()>, *mut Shared) {
        static TURN: Mutex<()> = Mutex::new(());
        static REGION: OnceLock<usize> = OnceLock::new();
        let turn = TURN.lock().unwrap();
        let address = REGION.get_or_init(|| {
            // SAFETY: the layout is not empty; the region is never freed.
            unsafe { alloc_zeroed(Layout::new::<Shared>()) }.expose_provenance()
        });
        (turn, core::ptr::with_exposed_provenance_mut(*address))
    }

    fn mxcsr() -> u32 {
        let mut value = 0_u32;
        // SAFETY: stores a register.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack)) };
        value
    }

    /// The handler of these tests: by the first byte, what it is asked.
    crate::entry!(answer);
    fn answer(request: &[u8]) -> Reply {
        let bytes = match request.first() {
            Some(b'm') => mxcsr().to_le_bytes().to_vec(),
            Some(b's') => {
                let here = 0_u8;
                (&raw const here).addr().to_le_bytes().to_vec()
            }
            _ => request.to_vec(),
        };
        Reply { bytes, stop: false }
    }

    fn call(shared: *mut Shared, request: &[u8]) -> std::vec::Vec<u8> {
        // SAFETY: the region is mapped and only this thread uses it.
        unsafe {
            (&raw mut (*shared).request_len).write(request.len() as u64);
            (&raw mut (*shared).request)
                .cast::<u8>()
                .copy_from(request.as_ptr(), request.len().min(MESSAGE_BYTES));
            assert_eq!(myelin_entry(0, shared), exit::REPLY);
            let length = (&raw const (*shared).reply_len).read() as usize;
            core::slice::from_raw_parts((&raw const (*shared).reply).cast::<u8>(), length).to_vec()
        }
    }

    #[test]
    fn answers_on_its_own_stack() {
        let (_turn, shared) = shared();
        assert_eq!(call(shared, b"hello"), b"hello");
        let here = 0_u8;
        let inside = usize::from_le_bytes(call(shared, b"s").try_into().unwrap());
        assert!((&raw const here).addr().abs_diff(inside) > super::STACK_BYTES);
    }

    #[test]
    fn an_oversized_request_is_refused_unread() {
        let (_turn, shared) = shared();
        // SAFETY: the region is mapped and only this thread uses it.
        unsafe { (&raw mut (*shared).request_len).write(MESSAGE_BYTES as u64 + 1) };
        // SAFETY: as above.
        assert_eq!(unsafe { myelin_entry(0, shared) }, exit::REPLY);
        // SAFETY: as above.
        let start = unsafe { core::slice::from_raw_parts((&raw const (*shared).reply).cast::<u8>(), 4) };
        assert_eq!(start, [0x83, 1, 0x18, 101]);
    }

    #[test]
    fn bad_slots_and_regions_are_refused() {
        let (_turn, shared) = shared();
        call(shared, b"x");
        // SAFETY: refused before anything is touched.
        unsafe {
            assert_eq!(myelin_entry(SLOT_COUNT as u64, shared), exit::REFUSED);
            assert_eq!(myelin_entry(u64::MAX, shared), exit::REFUSED);
            assert_eq!(myelin_entry(1 << 32, shared), exit::REFUSED);
            let other = shared.wrapping_byte_add(4096);
            assert_eq!(myelin_entry(0, other), exit::REFUSED);
            assert_eq!(myelin_entry(3, shared), exit::IDLE);
        }
    }

    #[test]
    fn a_slot_takes_one_thread() {
        let (_turn, shared) = shared();
        call(shared, b"x");
        let region = shared.expose_provenance();
        let codes: std::vec::Vec<u64> = std::thread::scope(|scope| {
            let threads: std::vec::Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(move || {
                        // SAFETY: lent threads do not touch the region.
                        (0..50).map(|_| unsafe { myelin_entry(5, core::ptr::with_exposed_provenance_mut(region)) }).max()
                    })
                })
                .collect();
            threads.into_iter().filter_map(|t| t.join().unwrap()).collect()
        });
        assert!(codes.iter().all(|&c| c == exit::IDLE || c == exit::SLOT_BUSY));
        // SAFETY: as above. The slot is free again.
        assert_eq!(unsafe { myelin_entry(5, shared) }, exit::IDLE);
    }

    #[test]
    fn the_callers_processor_state_is_neither_used_nor_changed() {
        let (_turn, shared) = shared();
        // Round toward zero, flush to zero: what a host might choose to change the sums.
        let hostile: u32 = 0x1f80 | 3 << 13 | 1 << 15;
        let default = mxcsr();
        // SAFETY: loads a register, restored below.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const hostile, options(nostack)) };
        let inside = call(shared, b"m");
        let after = mxcsr();
        // SAFETY: as above.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const default, options(nostack)) };
        assert_eq!(inside, 0x1f80_u32.to_le_bytes());
        assert_eq!(after, hostile);
    }

    #[test]
    fn registers_are_scrubbed_and_the_callees_kept() {
        let (_turn, shared) = shared();
        call(shared, b"x");
        let (mut caller, mut kept) = ([u64::MAX; 8], [0_u64; 4]);
        let mut vectors = [[u64::MAX; 2]; 16];
        // SAFETY: an ordinary call that declares what it clobbers; stores go to the arrays given.
        unsafe {
            asm!(
                "push rbx", "push rbp",
                "mov rbx, 0x11", "mov r12, 0x22", "mov r14, 0x33", "mov r15, 0x44",
                "mov rbp, rsp", "and rsp, -16",
                "push r13", "sub rsp, 8",
                "call {entry}",
                "add rsp, 8", "pop r13",
                "mov rsp, rbp",
                "mov [r13], rcx", "mov [r13 + 8], rdx", "mov [r13 + 16], rsi", "mov [r13 + 24], rdi",
                "mov [r13 + 32], r8", "mov [r13 + 40], r9", "mov [r13 + 48], r10", "mov [r13 + 56], r11",
                "mov [r13 + 64], rbx", "mov [r13 + 72], r12", "mov [r13 + 80], r14", "mov [r13 + 88], r15",
                "pop rbp", "pop rbx",
                entry = sym myelin_entry,
                inout("r13") (&raw mut SPACE).cast::<u8>() => _,
                inout("rdi") 0_u64 => _, inout("rsi") shared => _,
                out("rax") _, out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                out("r12") _, out("r14") _, out("r15") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _, out("st(5)") _,
                out("st(6)") _, out("st(7)") _,
            );
            static mut SPACE: [u64; 12] = [u64::MAX; 12];
            let space = (&raw const SPACE).read();
            caller.copy_from_slice(&space[..8]);
            kept.copy_from_slice(&space[8..]);
            asm!(
                "pcmpeqd xmm0, xmm0", "movdqa xmm7, xmm0", "movdqa xmm15, xmm0",
                "mov r12, rsp", "and rsp, -16",
                "call {entry}",
                "mov rsp, r12",
                "movdqu [r13], xmm0", "movdqu [r13 + 112], xmm7", "movdqu [r13 + 240], xmm15",
                entry = sym myelin_entry,
                in("r13") vectors.as_mut_ptr(),
                inout("rdi") 0_u64 => _, inout("rsi") shared => _,
                out("r12") _,
                clobber_abi("sysv64"),
            );
        }
        assert_eq!(caller, [0; 8]);
        assert_eq!(kept, [0x11, 0x22, 0x33, 0x44]);
        assert_eq!((vectors[0], vectors[7], vectors[15]), ([0; 2], [0; 2], [0; 2]));
    }
}

/// What the handler of messages answers.
pub struct Reply {
    /// The reply, at most [`myelin_abi::MESSAGE_BYTES`].
    pub bytes: alloc::vec::Vec<u8>,
    /// Whether the enclave stops itself after this reply: the caller gets [`myelin_abi::exit::DEAD`] with it.
    pub stop: bool,
}

/// Makes a function `fn(&[u8]) -> Reply` the handler of the image's messages. Used once, by the crate `image`.
#[macro_export]
macro_rules! entry {
    ($handle:path) => {
        #[unsafe(no_mangle)]
        fn myelin_message(request: &[u8]) -> $crate::Reply {
            $handle(request)
        }
    };
}
