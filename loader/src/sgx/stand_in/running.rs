//! The enclave's own code, run by this process: `ENCLU` traps, and a handler does what the processor would.
//!
//! On a processor without SGX, or outside an enclave of one that has it, `ENCLU` is an illegal instruction or a fault.
//! Nothing is protected here. What is the same is what the trampoline and the loader see: registers at the entry and at
//! the exit, faults that end in the kernel's function, one thread per TCS, and reports of the form that a processor makes.

use std::arch::global_asm;
use std::cell::Cell;
use std::ptr;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::accounting::Identity;
use crate::sgx::structures::{EENTER, EEXIT, ERESUME, REPORT_BYTES, TARGET_INFO_BYTES};

/// `ENCLU`.
const INSTRUCTION: [u8; 3] = [0x0f, 0x01, 0xd7];
const EREPORT: u64 = 0;
const GENERAL_PROTECTION: u64 = 13;
const DIRECTION: i64 = 1 << 10;

/// A started enclave.
pub struct Running {
    /// Its range.
    pub base: u64,
    /// Bytes of it.
    pub size: u64,
    /// What it is.
    pub identity: Identity,
    /// Its TCSs.
    pub threads: Vec<ThreadState>,
}

/// What the processor keeps of a TCS.
pub struct ThreadState {
    /// Its address.
    pub address: u64,
    /// Where an entry begins.
    pub entry: u64,
    /// How many save areas there are.
    pub frames: u64,
    /// How many are in use.
    pub frame: AtomicU64,
    /// Whether a thread is in.
    pub busy: AtomicBool,
}

/// What a thread that is in has left outside.
#[derive(Clone, Copy)]
struct Inside {
    enclave: &'static Running,
    thread: &'static ThreadState,
    stack: u64,
    frame: u64,
}

thread_local! {
    static INSIDE: Cell<Option<Inside>> = const { Cell::new(None) };
    /// The registers of the last exit by this thread, for tests.
    pub static LAST_EXIT: Cell<[i64; 23]> = const { Cell::new([0; 23]) };
}

/// All enclaves of this process; they live as long as it does.
static ENCLAVES: RwLock<Vec<&'static Running>> = RwLock::new(Vec::new());

/// What entries find in `rax` above CSSA, for tests.
pub static PRETENDED_FRAME: AtomicU64 = AtomicU64::new(0);
/// What entries find in the flags, for tests.
pub static PRETENDED_FLAGS: AtomicU64 = AtomicU64::new(0x202);

// The kernel's function, with a call where that has ENCLU: `vdso_sgx_enter_enclave_t`, no exit handler.
global_asm!(
    ".globl myelin_stand_in_enter",
    "myelin_stand_in_enter:",
    "push rbp",
    "mov rbp, rsp",
    "push rbx",
    "cmp ecx, {eenter}",
    "jne 5f",
    "push rdi",
    "push rsi",
    "push rdx",
    "push r8",
    "push r9",
    "mov rax, [rbp + 16]",
    "mov rdi, [rax]",
    "lea rsi, [rsp + 40]",
    "mov rdx, rbp",
    "call {entering}",
    "mov r11, rax",
    "mov r10, rdx",
    "pop r9",
    "pop r8",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "test r11, r11",
    "jz 4f",
    "mov rax, [rbp + 16]",
    "mov rbx, [rax]",
    "mov rax, r10",
    "lea rcx, [rip + 2f]",
    "push qword ptr [rip + {flags}]",
    "popfq",
    "jmp r11",
    "2:",
    "cld",
    "mov rbx, [rbp + 16]",
    "mov dword ptr [rbx + 8], {eexit}",
    "xor eax, eax",
    "3:",
    "pop rbx",
    "leave",
    "ret",
    // The way in has faulted.
    "4:",
    "mov eax, {eenter}",
    "mov edi, {protection}",
    "xor esi, esi",
    "xor edx, edx",
    ".globl myelin_stand_in_exception",
    "myelin_stand_in_exception:",
    "mov rbx, [rbp + 16]",
    "mov [rbx + 8], eax",
    "mov [rbx + 12], di",
    "mov [rbx + 14], si",
    "mov [rbx + 16], rdx",
    "xor eax, eax",
    "jmp 3b",
    "5:",
    "mov eax, -22",
    "jmp 3b",
    entering = sym entering,
    flags = sym PRETENDED_FLAGS,
    eenter = const EENTER,
    eexit = const EEXIT,
    protection = const GENERAL_PROTECTION,
);

unsafe extern "sysv64" {
    fn myelin_stand_in_enter();
    fn myelin_stand_in_exception();
}

/// Address of what stands for the kernel's function.
pub fn enter_function() -> usize {
    myelin_stand_in_enter as *const () as usize
}

/// Where an entry goes, and what `rax` holds there.
#[repr(C)]
struct Way {
    target: u64,
    frame: u64,
}

/// `EENTER`. No target where the processor would fault.
extern "sysv64" fn entering(address: u64, stack: u64, frame: u64) -> Way {
    let refused = Way { target: 0, frame: 0 };
    let Ok(enclaves) = ENCLAVES.read() else { return refused };
    let found = enclaves.iter().rev().find_map(|enclave| {
        let thread = enclave.threads.iter().find(|thread| thread.address == address)?;
        Some((*enclave, thread))
    });
    let Some((enclave, thread)) = found else { return refused };
    let used = thread.frame.load(Ordering::Acquire);
    if used >= thread.frames || thread.busy.swap(true, Ordering::AcqRel) {
        return refused;
    }
    INSIDE.set(Some(Inside { enclave, thread, stack, frame }));
    Way { target: thread.entry, frame: used + PRETENDED_FRAME.load(Ordering::Acquire) }
}

/// Lets an enclave be entered.
pub fn start(enclave: Running) {
    if let Ok(mut enclaves) = ENCLAVES.write() {
        enclaves.push(Box::leak(Box::new(enclave)));
    }
}

/// Takes the signals that stand for what the processor does.
pub fn take_signals() {
    for number in [libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE] {
        // SAFETY: the structure is all numbers, for which zeros are in order; the handler has the type that SA_SIGINFO asks
        // for, allocates nothing and takes no lock. Threads of Rust's have a stack of their own for it.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(number, &raw const action, ptr::null_mut());
        }
    }
}

extern "C" fn on_signal(number: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a context, which is this handler's to change.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let Some(inside) = INSIDE.get() else {
        // Not the enclave's: the default action, when the handler has returned and it happens again.
        // SAFETY: signal takes two integers.
        unsafe { libc::signal(number, libc::SIG_DFL) };
        return;
    };
    // SAFETY: the kernel passes the information.
    let address = unsafe { (*info).si_addr() }.addr() as i64;
    let at = registers[libc::REG_RIP as usize] as u64;
    let page = at & !0xfff;
    // An instruction that could be fetched is at least in part on a page that is there; the trampoline's are whole on one.
    let trampoline = inside.enclave.threads.first().map(|thread| thread.entry & !0xfff);
    let called = trampoline == Some(page) && {
        // SAFETY: the trampoline's page is mapped, and `at` is not at its end, where its data is.
        unsafe { ptr::with_exposed_provenance::<[u8; 3]>(at as usize).read_unaligned() == INSTRUCTION }
    };
    let done = called
        && match registers[libc::REG_RAX as usize] as u64 {
            EREPORT => report(inside.enclave, registers),
            function if function == u64::from(EEXIT) => {
                leave(inside, registers);
                true
            }
            _ => false,
        };
    if !done {
        let vector = if called { GENERAL_PROTECTION as i64 } else { registers[libc::REG_TRAPNO as usize] };
        except(inside, registers, vector, address);
    }
}

/// `EEXIT`.
fn leave(inside: Inside, registers: &mut [i64; 23]) {
    INSIDE.set(None);
    LAST_EXIT.set(*registers);
    registers[libc::REG_RIP as usize] = registers[libc::REG_RBX as usize];
    inside.thread.busy.store(false, Ordering::Release);
}

/// An exception inside: the registers are saved and filled, and the kernel goes on where its function handles it.
fn except(inside: Inside, registers: &mut [i64; 23], vector: i64, address: i64) {
    INSIDE.set(None);
    let error = registers[libc::REG_ERR as usize];
    let flags = registers[libc::REG_EFL as usize];
    let segments = registers[libc::REG_CSGSFS as usize];
    *registers = [0; 23];
    for (place, value) in [
        (libc::REG_CSGSFS, segments),
        (libc::REG_EFL, flags & !DIRECTION),
        (libc::REG_RAX, i64::from(ERESUME)),
        (libc::REG_RBX, inside.thread.address as i64),
        (libc::REG_RSP, inside.stack as i64),
        (libc::REG_RBP, inside.frame as i64),
        (libc::REG_RDI, vector),
        (libc::REG_RSI, error),
        // The place in the page is the enclave's own business.
        (libc::REG_RDX, address & !0xfff),
        (libc::REG_RIP, myelin_stand_in_exception as *const () as i64),
    ] {
        registers[place as usize] = value;
    }
    inside.thread.frame.fetch_add(1, Ordering::AcqRel);
    inside.thread.busy.store(false, Ordering::Release);
}

/// The code that authenticates a report, which only its target's processor can make. Here anybody can: a sum, by which a
/// test sees that a report was for this target and came whole. (A digest would take more stack than a handler has.)
pub fn authentication(target: &[u8], body: &[u8]) -> [u8; 16] {
    let mut code = [0x5a_u8; 16];
    for (place, &byte) in target.iter().chain(body).enumerate() {
        let part = &mut code[place % 16];
        *part = part.rotate_left(1) ^ byte;
    }
    code
}

/// `EREPORT`. False where the processor would fault.
fn report(enclave: &Running, registers: &mut [i64; 23]) -> bool {
    let [target, data, out] =
        [libc::REG_RBX, libc::REG_RCX, libc::REG_RDX].map(|place| registers[place as usize] as u64);
    let within = |address: u64, bytes: u64| address >= enclave.base && address + bytes <= enclave.base + enclave.size;
    let placed = target.is_multiple_of(512) && data.is_multiple_of(128) && out.is_multiple_of(512);
    if !placed || !within(target, 512) || !within(data, 64) || !within(out, 512) {
        return false;
    }
    let place = |address: u64| ptr::with_exposed_provenance_mut::<u8>(address as usize);
    let (mut target_info, mut own) = ([0_u8; TARGET_INFO_BYTES], [0_u8; 64]);
    // SAFETY: both lie in the enclave, where the trampoline's stack is; if they did not, a second fault would end the
    // process, as the processor's would the enclave.
    unsafe {
        ptr::copy_nonoverlapping(place(target), target_info.as_mut_ptr(), target_info.len());
        ptr::copy_nonoverlapping(place(data), own.as_mut_ptr(), own.len());
    }
    // MEASUREMENT, ATTRIBUTES, CET, CONFIGSVN, MISCSELECT; CONFIGID; all else is reserved.
    let reserved =
        [49..50, 56..64, 128..512].iter().all(|range| target_info[range.clone()].iter().all(|&byte| byte == 0));
    if !reserved {
        return false;
    }
    let identity = &enclave.identity;
    let mut body = [0_u8; REPORT_BYTES];
    body[..16].copy_from_slice(&[0x11; 16]);
    body[48..56].copy_from_slice(&(identity.attributes[0] | 1).to_le_bytes());
    body[56..64].copy_from_slice(&identity.attributes[1].to_le_bytes());
    body[64..96].copy_from_slice(&identity.mrenclave);
    body[128..160].copy_from_slice(&identity.mrsigner);
    body[256..260].copy_from_slice(&identity.versions);
    body[320..384].copy_from_slice(&own);
    body[384..416].copy_from_slice(&[0x22; 32]);
    let code = authentication(&target_info[..32], &body[..384]);
    body[416..].copy_from_slice(&code);
    // SAFETY: as above.
    unsafe { ptr::copy_nonoverlapping(body.as_ptr(), place(out), body.len()) };
    registers[libc::REG_RIP as usize] += INSTRUCTION.len() as i64;
    true
}
