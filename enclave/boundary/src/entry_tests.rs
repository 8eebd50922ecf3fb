//! Tests of the entry: what a caller can choose, and what it finds afterwards.

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

// The handler of these tests: by the first byte, what it is asked.
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
    assert!((&raw const here).addr().abs_diff(inside) > crate::STACK_BYTES);
}

#[test]
fn an_oversized_request_is_refused_unread() {
    let (_turn, shared) = shared();
    // SAFETY: the region is mapped and only this thread uses it.
    unsafe { (&raw mut (*shared).request_len).write(MESSAGE_BYTES as u64 + 1) };
    // SAFETY: as above.
    assert_eq!(unsafe { myelin_entry(0, shared) }, exit::REPLY);
    // SAFETY: as above.
    let start =
        unsafe { core::slice::from_raw_parts((&raw const (*shared).reply).cast::<u8>(), 4) };
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
                    (0..50)
                        .map(|_| unsafe {
                            myelin_entry(5, core::ptr::with_exposed_provenance_mut(region))
                        })
                        .max()
                })
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|t| t.join().unwrap())
            .collect()
    });
    assert!(
        codes
            .iter()
            .all(|&c| c == exit::IDLE || c == exit::SLOT_BUSY)
    );
    // SAFETY: as above. The slot is free again.
    assert_eq!(unsafe { myelin_entry(5, shared) }, exit::IDLE);
}

#[test]
fn the_callers_processor_state_is_neither_used_nor_changed() {
    let (_turn, shared) = shared();
    // Round toward zero, keep subnormal numbers: what a host might choose to change the sums, or to time them.
    let hostile: u32 = 0x1f80 | 3 << 13;
    let default = mxcsr();
    // SAFETY: loads a register, restored below.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const hostile, options(nostack)) };
    let inside = call(shared, b"m");
    let after = mxcsr();
    // SAFETY: as above.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const default, options(nostack)) };
    // Flush to zero (bit 15) and denormals are zero (bit 6).
    assert_eq!(inside, 0x9fc0_u32.to_le_bytes());
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
    assert_eq!(
        (vectors[0], vectors[7], vectors[15]),
        ([0; 2], [0; 2], [0; 2])
    );
}
