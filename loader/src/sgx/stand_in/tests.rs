//! The trampoline, run; and what driver and processor refuse.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use myelin_abi::Shared;
use nix::sys::mman::munmap;

use super::running::{LAST_EXIT, PRETENDED_FLAGS, PRETENDED_FRAME, authentication};
use super::*;
use crate::elf::{Image, Segment};
use crate::ending::Ending;
use crate::gate::Slot;
use crate::sgx::structures::{EEXIT, REPORT_BYTES};
use crate::sgx::{Thread, fill, layout, map};

const CODE: u64 = 0x1000_0000;
const DATA: u64 = CODE + 0x1000;
const REFUSED: u64 = 3;
/// Enclaves lie at fixed addresses, so there is one at a time.
static ADDRESSES: Mutex<()> = Mutex::new(());

/// An enclave whose image is a few instructions and a page of data.
struct Made {
    device: StandIn,
    base: u64,
    shared: Box<Shared>,
    _addresses: MutexGuard<'static, ()>,
}

fn image() -> Image<'static> {
    let segment = |address, file_offset, write| Segment {
        address,
        memory_bytes: 4096,
        file_offset,
        file_bytes: 4096,
        write,
        execute: !write,
    };
    Image { entry: CODE, segments: vec![segment(CODE, 0, false), segment(DATA, 4096, true)], manifest: &[] }
}

fn file(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0xcc; 4096];
    file[..code.len()].copy_from_slice(code);
    file.extend((0..4096_u32).map(|place| place as u8 ^ 0x5a));
    file
}

fn shared() -> Box<Shared> {
    // SAFETY: all numbers and bytes, for which zeros are in order.
    unsafe { Box::<Shared>::new_zeroed().assume_init() }
}

impl Made {
    fn at(base: u64, code: &[u8]) -> Self {
        let addresses = ADDRESSES.lock().unwrap_or_else(PoisonError::into_inner);
        let device = StandIn::new(StandIn::open().unwrap());
        let file = file(code);
        let pages = layout::pages(&image(), &file).unwrap();
        fill(&device, base, &pages, 7).unwrap();
        let identity = Identity { mrenclave: [1; 32], mrsigner: [2; 32], attributes: [4, 7], versions: [3, 0, 4, 0] };
        device.run(device.enclave.borrow().as_ref().unwrap(), identity);
        pages.iter().for_each(|pages| map(&device, base, pages).unwrap());
        Self { device, base, shared: shared(), _addresses: addresses }
    }

    fn new(code: &[u8]) -> Self {
        Self::at(layout::BASE, code)
    }

    fn slot(&self, slot: u64) -> Thread {
        self.with(slot, NonNull::from(&*self.shared))
    }

    fn with(&self, slot: u64, shared: NonNull<Shared>) -> Thread {
        let function = self.device.enter_function().unwrap();
        // SAFETY: the enclave has been started and mapped, and lives as long as this.
        unsafe { Thread::new(function, self.base + layout::thread(slot), shared) }
    }

    fn data(&self) -> u8 {
        // SAFETY: the image's data is mapped at base 0, and no thread is in.
        unsafe { core::ptr::with_exposed_provenance::<u8>(DATA as usize).read_volatile() }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let place = |address: u64| NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize)).unwrap();
        // SAFETY: all of the enclave's mappings, which nothing uses any more, and nothing else of this process.
        unsafe { munmap(place(self.base + layout::TRAMPOLINE), (DATA + 4096 - layout::TRAMPOLINE) as usize).unwrap() };
        // SAFETY: as above.
        unsafe { munmap(self.device.memory.cast(), NonZeroUsize::new(BYTES).unwrap().get()).unwrap() };
    }
}

#[test]
fn the_image_gets_its_slot_and_the_region_and_answers() {
    let made = Made::new(b"\x48\x89\xf8\xc3"); // mov rax, rdi; ret
    for slot in [0, 1, 15, 3, 0] {
        assert_eq!(made.slot(slot).enter(), Ok(slot));
    }
    drop(made);
    let made = Made::new(b"\x48\x89\xf0\xc3"); // mov rax, rsi; ret
    assert_eq!(made.slot(2).enter(), Ok((&raw const *made.shared).addr() as u64));
}

#[test]
fn every_slot_has_a_stack_of_its_own_inside() {
    let made = Made::new(b"\x48\x89\xe0\xc3"); // mov rax, rsp; ret
    for slot in 0..16 {
        let end = layout::thread(slot) + 0x4000;
        // The host's stack pointer and return address, and the return address into the trampoline.
        assert_eq!(made.slot(slot).enter(), Ok(end - 24));
    }
}

#[test]
fn nothing_leaves_in_a_register_but_the_answer() {
    // mov eax, 0x5e; mov ecx, edx, esi, edi, r8 to r11 = eax; ret
    let code = b"\xb8\x5e\0\0\0\x89\xc1\x89\xc2\x89\xc6\x89\xc7\x49\x89\xc0\x49\x89\xc1\x49\x89\xc2\x49\x89\xc3\xc3";
    let made = Made::new(code);
    assert_eq!(made.slot(1).enter(), Ok(0x5e));
    let exit = LAST_EXIT.get();
    let at = |place: i32| exit[place as usize];
    for place in [libc::REG_RDX, libc::REG_RSI, libc::REG_R8, libc::REG_R9, libc::REG_R10, libc::REG_R11] {
        assert_eq!(at(place), 0);
    }
    assert_eq!((at(libc::REG_RAX), at(libc::REG_RDI)), (i64::from(EEXIT), 0x5e));
    for place in [libc::REG_RBX, libc::REG_RCX, libc::REG_RSP, libc::REG_RBP, libc::REG_R12, libc::REG_R15] {
        assert!(!(0x0800_0000..0x8000_0000).contains(&at(place)));
    }
}

/// `mov byte ptr [DATA], 1; xor eax, eax; ret`
const MARK: &[u8] = b"\xc6\x04\x25\x00\x10\x00\x10\x01\x31\xc0\xc3";

#[test]
fn a_region_that_is_not_wholly_outside_is_refused_before_the_image_runs() {
    let made = Made::new(MARK);
    let good = (&raw const *made.shared).addr() as u64;
    for address in [0, 0x1000, CODE, DATA, 0x7fff_f000, good + 8, good | 1, 1 << 47, 1 << 63, u64::MAX - 4095] {
        let region = NonNull::new(core::ptr::with_exposed_provenance_mut::<Shared>(address as usize));
        // NonNull cannot be zero: an address that is as good as none stands for it.
        let region = region.unwrap_or(NonNull::dangling());
        assert_eq!(made.with(1, region).enter(), Ok(REFUSED), "{address:#x}");
    }
    assert_eq!(made.data(), 0x5a);
    assert_eq!(made.slot(1).enter(), Ok(0));
    assert_eq!(made.data(), 1);
}

#[test]
fn only_what_there_is_can_be_asked_for() {
    let made = Made::new(MARK);
    for what in [2, 3, 1 << 32, u64::MAX] {
        assert_eq!(made.slot(0).go(what), Ok(REFUSED));
    }
    assert_eq!(made.data(), 0x5a);
}

#[test]
fn an_enclave_that_lies_elsewhere_lets_nobody_in() {
    for base in [1 << 31, 1 << 33] {
        let made = Made::at(base, MARK);
        assert_eq!(made.slot(0).enter(), Ok(REFUSED));
    }
}

#[test]
fn nobody_is_let_in_while_an_exception_is_open() {
    let made = Made::new(MARK);
    PRETENDED_FRAME.store(1, Ordering::Release);
    let answer = made.slot(0).enter();
    PRETENDED_FRAME.store(0, Ordering::Release);
    assert_eq!((answer, made.data()), (Ok(REFUSED), 0x5a));
}

#[test]
fn the_host_s_flags_do_not_come_in() {
    let made = Made::new(b"\x9c\x58\xc3"); // pushfq; pop rax; ret
    // Direction, alignment checks, identification, carry.
    PRETENDED_FLAGS.store(0x202 | 1 << 10 | 1 << 18 | 1 << 21 | 1, Ordering::Release);
    let answer = made.slot(0).enter();
    PRETENDED_FLAGS.store(0x202, Ordering::Release);
    // What arithmetic sets comes from the trampoline's own.
    assert_eq!(answer.unwrap() & !0x8d5, 0x202);
}

#[test]
fn a_fault_ends_the_thread_for_good_and_no_other() {
    let made = Made::new(b"\x48\x85\xff\x75\x02\x0f\x0b\x89\xf8\xc3"); // slot 0: ud2; others: mov eax, edi; ret
    let mut first = made.slot(0);
    assert_eq!(first.enter(), Err(Ending::Faulted));
    assert_eq!(first.enter(), Err(Ending::MachineFailed));
    assert_eq!(first.report(), Err(Ending::MachineFailed));
    assert_eq!(made.slot(1).enter(), Ok(1));
}

#[test]
fn code_is_not_written_data_not_executed_and_holes_are_not_there() {
    let write = b"\xc6\x04\x25\x00\x00\x00\x10\x01\xc3"; // mov byte ptr [CODE], 1
    let execute = b"\xb8\x00\x10\x00\x10\xff\xe0"; // mov eax, DATA; jmp rax
    let below_stack = b"\x48\x8d\xa4\x24\x00\xf0\xff\xff\x50\xc3"; // lea rsp, [rsp - 0x1000]; push rax
    let thread = b"\xa1\x00\x00\x00\x10\x08\x00\x00\x00\xc3"; // a read far outside of the enclave: nothing is there
    for code in [&write[..], execute, below_stack, thread] {
        assert_eq!(Made::new(code).slot(0).enter(), Err(Ending::Faulted));
    }
}

#[test]
fn a_report_is_of_the_image_s_own_data_and_for_whom_the_host_says() {
    let mut made = Made::new(MARK);
    made.shared.request[..32].copy_from_slice(&[7; 32]);
    let mut slot = made.slot(0);
    assert!(slot.makes_reports());
    assert_eq!(slot.report(), Ok(0));
    let report = &made.shared.reply[..REPORT_BYTES];
    assert_eq!(report[64..96], [1; 32]);
    assert_eq!(report[128..160], [2; 32]);
    assert_eq!((report[48], report[56], &report[256..260]), (5, 7, &[3, 0, 4, 0][..]));
    assert!(report[320..384].iter().enumerate().all(|(place, &byte)| byte == place as u8 ^ 0x5a));
    assert_eq!(report[416..], authentication(&[7; 32], &report[..384]));
    assert_eq!((made.shared.reply[REPORT_BYTES], made.data()), (0, 0x5a));
    assert_eq!(made.slot(1).report(), Ok(REFUSED));
    made.shared.request[500] = 1;
    assert_eq!(made.slot(0).report(), Err(Ending::Faulted));
}

fn secs(base: u64, size: u64, frame_pages: u32, xfrm: u64) -> [u8; 4096] {
    let secs = crate::sgx::structures::Secs::new(base, size, frame_pages, xfrm);
    // SAFETY: a page of numbers.
    unsafe { core::mem::transmute(secs) }
}

#[test]
fn what_the_processor_does_not_create_is_not_created() {
    let good = secs(0, 1 << 31, 1, 0xe7);
    assert!(Enclave::create(&good).is_ok());
    for (wrong, error) in [
        (secs(0, 3 << 30, 1, 7), Errno::EINVAL),
        (secs(0x1000_0000, 1 << 31, 1, 7), Errno::EIO),
        (secs(0, 4096, 1, 7), Errno::EIO),
        (secs(0, 1 << 31, 0, 7), Errno::EIO),
        (secs(0, 1 << 31, 1, 5), Errno::EIO),
        (secs(0, 1 << 31, 1, 0x27), Errno::EIO),
        (secs(0, 1 << 31, 1, 1 << 17 | 7), Errno::EIO),
    ] {
        assert_eq!(Enclave::create(&wrong).err(), Some(error));
    }
    let mut wrong = good;
    wrong[70] = 1;
    assert_eq!(Enclave::create(&wrong).err(), Some(Errno::EIO));
}

#[test]
fn pages_and_mappings_that_the_driver_does_not_take_are_refused() {
    let mut enclave = Enclave::create(&secs(0, 1 << 20, 1, 7)).unwrap();
    let section = |flags: u64, reserved: u8| {
        let mut section = [reserved; 64];
        section[..8].copy_from_slice(&flags.to_le_bytes());
        section
    };
    let page = [0; 4096];
    for (offset, flags, reserved) in [
        (0x1001, 0x203, 0),
        (1 << 20, 0x203, 0),
        (0, 0x202, 0),
        (0, 0x003, 0),
        (0, 0x303, 0),
        (0, 0x20b, 0),
        (0, 0x101, 0),
        (0, 0x203, 1),
    ] {
        assert_eq!(enclave.add(offset, &section(flags, reserved), &page, true), Err(Errno::EINVAL), "{flags:#x}");
    }
    assert_eq!(enclave.add(0, &section(0x205, 0), &page, true), Ok(()));
    assert_eq!(enclave.add(0, &section(0x205, 0), &page, true), Err(Errno::EBUSY));
    assert_eq!(enclave.add(4096, &section(0x100, 0), &page, true), Err(Errno::EIO));
    assert_eq!(enclave.may_map(0, 4096, 5), Ok(()));
    assert_eq!(enclave.may_map(0, 4096, 3), Err(Errno::EACCES));
    assert_eq!(enclave.may_map(0, 1 << 21, 1), Err(Errno::EACCES));
    assert_eq!(enclave.start(&[0; 1808]).err(), Some(Errno::EPERM));
}

#[test]
fn the_thread_control_fits_no_enclave_of_32_bit_mode() {
    let file = file(MARK);
    let pages = layout::pages(&image(), &file).unwrap();
    let control: [u8; 4096] = pages[1].content.bytes().try_into().unwrap();
    let section = crate::sgx::structures::SecInfo::new(pages[1].flags);
    // SAFETY: numbers.
    let section: [u8; 64] = unsafe { core::mem::transmute(section) };
    let mut bytes = secs(0, 1 << 31, 1, 7);
    assert_eq!(Enclave::create(&bytes).unwrap().add(0, &section, &control, true), Ok(()));
    bytes[48] = 0;
    assert_eq!(Enclave::create(&bytes).unwrap().add(0, &section, &control, true), Err(Errno::EIO));
}
