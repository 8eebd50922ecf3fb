//! Which pages the enclave has, in the order in which they are added. `docs/abi.md` says the same in words, and
//! `myelin.image.sgx.layout` in Python: MRENCLAVE shows that they agree.

use myelin_abi::{PAGE_BYTES, SLOT_COUNT};

use super::structures::page;
use crate::elf::{Image, Segment};
use crate::refusal::Refusal;

/// Where the enclave's range begins.
pub const BASE: u64 = 0;
/// Bytes of the enclave's range: all that an image's addresses can reach.
pub const BYTES: u64 = 1 << 31;
/// Pages of a save area.
pub const FRAME_PAGES: u32 = 1;

/// The page by which every entry goes.
pub const TRAMPOLINE: u64 = 0x0800_0000;
/// `enclave/sgx/trampoline.s`, assembled.
const TRAMPOLINE_PAGE: &[u8; 4096] = include_bytes!("../../../src/myelin/image/sgx/trampoline.bin");
const ENTRY_AT: usize = 0xff0;
const REPORT_DATA_AT: usize = 0xff8;
/// Where the first slot's pages begin.
const SLOTS: u64 = 0x0801_0000;
/// From one slot to the next: TCS, save area, a page that is not there, stack.
const SLOT_BYTES: u64 = 0x4000;
const FRAME_AT: u64 = 0x1000;
const STACK_AT: u64 = 0x3000;
/// Bytes of a report's own data, where the image's writable data begins.
const REPORT_DATA_BYTES: usize = 64;

/// Pages that follow each other with the same rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages<'a> {
    /// First address, from the enclave's base.
    pub address: u64,
    /// Bytes, a multiple of a page.
    pub bytes: u64,
    /// Of [`page`].
    pub flags: u64,
    /// What they hold; the rest is zero.
    pub content: Content<'a>,
}

/// Bytes of the file, or made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Of the image file.
    File(&'a [u8]),
    /// One page of the loader's own.
    Page(Box<[u8; 4096]>),
}

impl Content<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::File(bytes) => bytes,
            Self::Page(bytes) => bytes.as_slice(),
        }
    }
}

/// Address of a slot's TCS.
pub fn thread(slot: u64) -> u64 {
    SLOTS + slot * SLOT_BYTES
}

fn put(page: &mut [u8; 4096], at: usize, value: &[u8]) {
    if let Some(place) = page.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn trampoline(entry: u64, report_data: u64) -> Content<'static> {
    let mut page = Box::new(*TRAMPOLINE_PAGE);
    put(&mut page, ENTRY_AT, &entry.to_le_bytes());
    put(&mut page, REPORT_DATA_AT, &report_data.to_le_bytes());
    Content::Page(page)
}

/// A slot's TCS: one save area, so that the processor lets nobody in while an exception is open; entry at the trampoline; no
/// debugging; FSLIMIT and GSLIMIT of zero, with which it cannot be added to an enclave of 32-bit mode.
fn control(slot: u64) -> Content<'static> {
    let mut page = Box::new([0; 4096]);
    put(&mut page, 16, &(thread(slot) + FRAME_AT).to_le_bytes());
    put(&mut page, 28, &1_u32.to_le_bytes());
    put(&mut page, 32, &TRAMPOLINE.to_le_bytes());
    Content::Page(page)
}

fn rights(segment: &Segment) -> u64 {
    let write = if segment.write { page::WRITE } else { 0 };
    page::REGULAR | page::READ | write | if segment.execute { page::EXECUTE } else { 0 }
}

/// The pages of the enclave that an image becomes, in ascending order.
///
/// # Errors
/// [`Reason::ImageMalformed`](crate::refusal::Reason::ImageMalformed): the image has no room for report data.
pub fn pages<'a>(image: &Image<'_>, file: &'a [u8]) -> Result<Vec<Pages<'a>>, Refusal> {
    let data = image.segments.iter().find(|segment| segment.write);
    let Some(data) = data.filter(|segment| segment.file_bytes >= REPORT_DATA_BYTES) else {
        return Err(Refusal::malformed(format!(
            "expected {REPORT_DATA_BYTES} bytes of report data where the writable data begins, found none"
        )));
    };
    let (free, write) = (page::REGULAR | page::READ, page::WRITE);
    let one = |address, flags, content| Pages { address, bytes: PAGE_BYTES, flags, content };
    let mut pages = vec![one(TRAMPOLINE, free | page::EXECUTE, trampoline(image.entry, data.address))];
    for slot in 0..SLOT_COUNT as u64 {
        pages.push(one(thread(slot), page::THREAD, control(slot)));
        pages.push(one(thread(slot) + FRAME_AT, free | write, Content::File(&[])));
        pages.push(one(thread(slot) + STACK_AT, free | write, Content::File(&[])));
    }
    for segment in &image.segments {
        let end = segment.file_offset.saturating_add(segment.file_bytes);
        let content = file.get(segment.file_offset..end);
        let content = content.ok_or_else(|| Refusal::malformed("a segment's bytes are outside the file"))?;
        let (address, bytes) = (segment.address, segment.memory_bytes);
        pages.push(Pages { address, bytes, flags: rights(segment), content: Content::File(content) });
    }
    Ok(pages)
}
