//! The image file: parsed strictly, before a byte of it is mapped.
//!
//! Accepts only what `docs/abi.md` describes: a static ELF64 `ET_EXEC` for x86-64 whose page-aligned segments lie in the
//! image's address range, do not overlap, are never writable and executable at once, and hold the entry point in executable
//! bytes of the file. Anything else is refused with the field's name, what was expected and what was found.

use myelin_abi::{IMAGE_BASE, IMAGE_END_LIMIT, MANIFEST_SECTION, PAGE_BYTES};

use crate::refusal::Refusal;

/// Most program headers: an image has four segments, a stack for each of its slots, and a note or two.
const SEGMENT_LIMIT: usize = 32;
/// Most section headers that are looked at.
const SECTION_LIMIT: usize = 256;
/// Most bytes of a manifest.
const MANIFEST_BYTES_LIMIT: usize = 4 << 20;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const SECTION_HEADER_BYTES: usize = 64;

const PT_NULL: u32 = 0;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PT_GNU_PROPERTY: u32 = 0x6474_e553;
const PF_EXECUTE: u32 = 1;
const PF_WRITE: u32 = 2;
const PF_READ: u32 = 4;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;

/// One part of the image that is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address, page-aligned.
    pub address: u64,
    /// Bytes in memory, rounded up to pages.
    pub memory_bytes: u64,
    /// First byte in the file.
    pub file_offset: usize,
    /// Bytes in the file; the rest of the memory is zero.
    pub file_bytes: usize,
    /// May be written.
    pub write: bool,
    /// May be executed. Never together with `write`.
    pub execute: bool,
}

impl Segment {
    /// First address behind the segment.
    pub fn end(&self) -> u64 {
        self.address.saturating_add(self.memory_bytes)
    }
}

/// What the loader needs to know of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// Address of the entry point, inside an executable segment's file bytes.
    pub entry: u64,
    /// Segments in order of address.
    pub segments: Vec<Segment>,
    /// Bytes of the section `.myelin.manifest`.
    pub manifest: &'a [u8],
}

impl Image<'_> {
    /// Bytes of memory that the segments take.
    pub fn memory_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.memory_bytes).sum()
    }
}

/// A checked window into the file.
#[derive(Clone, Copy)]
struct Field<'a>(&'a [u8]);

impl<'a> Field<'a> {
    fn slice(self, offset: usize, length: usize, what: &str) -> Result<Field<'a>, Refusal> {
        let end = offset.checked_add(length);
        end.and_then(|end| self.0.get(offset..end)).map(Field).ok_or_else(|| {
            Refusal::malformed(format!(
                "{what} at byte {offset}, {length} bytes long, is outside the {} bytes there are",
                self.0.len()
            ))
        })
    }

    fn u16(self, offset: usize) -> Result<u16, Refusal> {
        let mut bytes = [0; 2];
        bytes.copy_from_slice(self.slice(offset, 2, "a header field")?.0);
        Ok(u16::from_le_bytes(bytes))
    }

    fn u32(self, offset: usize) -> Result<u32, Refusal> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.slice(offset, 4, "a header field")?.0);
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(self, offset: usize) -> Result<u64, Refusal> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.slice(offset, 8, "a header field")?.0);
        Ok(u64::from_le_bytes(bytes))
    }
}

fn expect(what: &str, expected: u64, found: u64) -> Result<(), Refusal> {
    if expected == found {
        return Ok(());
    }
    Err(Refusal::malformed(format!("{what} is {found:#x}, expected {expected:#x}")))
}

fn place(value: u64, what: &str) -> Result<usize, Refusal> {
    usize::try_from(value).map_err(|_| Refusal::malformed(format!("{what} {value:#x} does not fit an address")))
}

/// Parses an image file.
///
/// # Errors
/// [`Reason::ImageMalformed`](crate::refusal::Reason::ImageMalformed), naming the first field that is not as `docs/abi.md` says.
pub fn parse(file: &[u8]) -> Result<Image<'_>, Refusal> {
    let all = Field(file);
    let header = all.slice(0, HEADER_BYTES, "the ELF header")?;
    if header.0.get(..7) != Some(b"\x7fELF\x02\x01\x01") {
        return Err(Refusal::malformed("not an ELF file of 64 bits, little-endian, version 1"));
    }
    expect("e_ident padding and ABI", 0, header.u64(8)? | u64::from(header.0.get(7).copied().unwrap_or(1)))?;
    expect("e_type", 2, header.u16(16)?.into())?;
    expect("e_machine", 62, header.u16(18)?.into())?;
    expect("e_version", 1, header.u32(20)?.into())?;
    expect("e_flags", 0, header.u32(48)?.into())?;
    expect("e_ehsize", HEADER_BYTES as u64, header.u16(52)?.into())?;
    let segments = segments(all, header)?;
    let entry = header.u64(24)?;
    let inside = |s: &Segment| s.execute && entry >= s.address && entry - s.address < s.file_bytes as u64;
    if !segments.iter().any(inside) {
        return Err(Refusal::malformed(format!("e_entry {entry:#x} is not inside executable bytes")));
    }
    Ok(Image { entry, segments, manifest: manifest(all, header)? })
}

fn segments(all: Field<'_>, header: Field<'_>) -> Result<Vec<Segment>, Refusal> {
    expect("e_phentsize", PROGRAM_HEADER_BYTES as u64, header.u16(54)?.into())?;
    let count = usize::from(header.u16(56)?);
    if count == 0 || count > SEGMENT_LIMIT {
        return Err(Refusal::malformed(format!("e_phnum is {count}, expected 1 to {SEGMENT_LIMIT}")));
    }
    let table =
        all.slice(place(header.u64(32)?, "e_phoff")?, count * PROGRAM_HEADER_BYTES, "the program header table")?;
    let mut segments: Vec<Segment> = Vec::with_capacity(count);
    for index in 0..count {
        let row = table.slice(index * PROGRAM_HEADER_BYTES, PROGRAM_HEADER_BYTES, "a program header")?;
        let Some(segment) = segment(all, row, index)? else { continue };
        if let Some(before) = segments.last()
            && before.end() > segment.address
        {
            return Err(Refusal::malformed(format!(
                "segment {index} at {:#x} overlaps or precedes the one that ends at {:#x}",
                segment.address,
                before.end()
            )));
        }
        segments.push(segment);
    }
    Ok(segments)
}

/// One row of the program header table; `None` for a row that maps nothing.
fn segment(all: Field<'_>, row: Field<'_>, index: usize) -> Result<Option<Segment>, Refusal> {
    let (kind, flags) = (row.u32(0)?, row.u32(4)?);
    match kind {
        PT_LOAD => {}
        PT_GNU_STACK if flags & PF_EXECUTE != 0 => {
            return Err(Refusal::malformed("the stack is marked executable"));
        }
        PT_NULL | PT_NOTE | PT_GNU_STACK | PT_GNU_PROPERTY => return Ok(None),
        _ => {
            return Err(Refusal::malformed(format!(
                "segment {index} has type {kind:#x}; an image has no interpreter, dynamic section, relocations or thread-local storage"
            )));
        }
    }
    let (offset, address, file_bytes, memory_bytes) = (row.u64(8)?, row.u64(16)?, row.u64(32)?, row.u64(40)?);
    if flags & !(PF_READ | PF_WRITE | PF_EXECUTE) != 0 || flags & PF_READ == 0 {
        return Err(Refusal::malformed(format!(
            "segment {index} has flags {flags:#x}, expected readable and no unknown flag"
        )));
    }
    if flags & PF_WRITE != 0 && flags & PF_EXECUTE != 0 {
        return Err(Refusal::malformed(format!("segment {index} is writable and executable at once")));
    }
    expect(&format!("p_vaddr of segment {index} modulo the page"), 0, address % PAGE_BYTES)?;
    if file_bytes > memory_bytes || memory_bytes == 0 {
        return Err(Refusal::malformed(format!(
            "segment {index} has {file_bytes} bytes in the file and {memory_bytes} in memory"
        )));
    }
    let pages = memory_bytes.checked_next_multiple_of(PAGE_BYTES);
    let end = pages.and_then(|bytes| address.checked_add(bytes));
    let (Some(pages), Some(end)) = (pages, end) else {
        return Err(Refusal::malformed(format!("segment {index} wraps around the address space")));
    };
    if address < IMAGE_BASE || end > IMAGE_END_LIMIT {
        return Err(Refusal::malformed(format!(
            "segment {index} takes {address:#x} to {end:#x}, outside {IMAGE_BASE:#x} to {IMAGE_END_LIMIT:#x}"
        )));
    }
    let (file_offset, file_bytes) = (place(offset, "p_offset")?, place(file_bytes, "p_filesz")?);
    all.slice(file_offset, file_bytes, &format!("segment {index}"))?;
    let (write, execute) = (flags & PF_WRITE != 0, flags & PF_EXECUTE != 0);
    Ok(Some(Segment { address, memory_bytes: pages, file_offset, file_bytes, write, execute }))
}

/// The bytes of the manifest's section, found by name.
fn manifest<'a>(all: Field<'a>, header: Field<'a>) -> Result<&'a [u8], Refusal> {
    let (count, names_index) = (usize::from(header.u16(60)?), usize::from(header.u16(62)?));
    if count == 0 || count > SECTION_LIMIT || names_index >= count {
        return Err(Refusal::malformed(format!(
            "e_shnum is {count} and e_shstrndx {names_index}, expected 1 to {SECTION_LIMIT} sections"
        )));
    }
    expect("e_shentsize", SECTION_HEADER_BYTES as u64, header.u16(58)?.into())?;
    let table =
        all.slice(place(header.u64(40)?, "e_shoff")?, count * SECTION_HEADER_BYTES, "the section header table")?;
    let row = |index: usize| table.slice(index * SECTION_HEADER_BYTES, SECTION_HEADER_BYTES, "a section header");
    let content = |row: Field<'a>, what: &str| -> Result<Field<'a>, Refusal> {
        all.slice(place(row.u64(24)?, "sh_offset")?, place(row.u64(32)?, "sh_size")?, what)
    };
    let names = content(row(names_index)?, "the section name table")?;
    let mut found = None;
    for index in 0..count {
        let row = row(index)?;
        let name = names.0.get(place(row.u32(0)?.into(), "sh_name")?..).unwrap_or_default();
        let Some(rest) = name.strip_prefix(MANIFEST_SECTION.as_bytes()) else { continue };
        if rest.first() != Some(&0) {
            continue;
        }
        if found.is_some() {
            return Err(Refusal::malformed(format!("two sections are named {MANIFEST_SECTION}")));
        }
        if row.u32(4)? == SHT_NOBITS || row.u64(8)? & SHF_ALLOC != 0 {
            return Err(Refusal::malformed(format!("section {MANIFEST_SECTION} must be in the file and not loaded")));
        }
        found = Some(content(row, MANIFEST_SECTION)?.0);
    }
    match found {
        Some(bytes) if bytes.len() <= MANIFEST_BYTES_LIMIT => Ok(bytes),
        Some(bytes) => Err(Refusal::malformed(format!(
            "the manifest is {} bytes long, at most {MANIFEST_BYTES_LIMIT}",
            bytes.len()
        ))),
        None => Err(Refusal::malformed(format!("there is no section {MANIFEST_SECTION}, so the target is unknown"))),
    }
}

#[cfg(test)]
mod tests;
