//! The machine's page tables: which addresses ring 3 has, and for what.
//!
//! Every address is mapped to itself. The tables are written once, before the machine starts, and are mapped nowhere in it:
//! nothing inside can read or change them, in any ring.

use myelin_abi::PAGE_BYTES;

use crate::refusal::{Reason, Refusal};

/// Entries of one table.
const ENTRIES: usize = 512;
/// Bytes of a large page, one entry of the second lowest table.
const LARGE_PAGE_BYTES: u64 = 2 << 20;
/// Levels of tables, the lowest being 0.
const LEVELS: u32 = 4;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Set from the start, so that no processor ever has to write into a table.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// What a range of addresses may be used for. Writing and executing at once cannot be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
    /// Reading and executing.
    Execute,
}

impl Access {
    fn bits(self) -> u64 {
        PRESENT
            | USER
            | ACCESSED
            | match self {
                Self::Read => NO_EXECUTE,
                Self::Write => WRITE | DIRTY | NO_EXECUTE,
                Self::Execute => 0,
            }
    }
}

/// Four levels of page tables in zeroed memory that the machine has at `base`; the topmost comes first.
pub struct Tables<'a> {
    entries: &'a mut [u64],
    base: u64,
    used: usize,
}

impl<'a> Tables<'a> {
    /// Bytes that are enough for `bytes` of mapped addresses in `ranges` ranges.
    pub fn bytes_for(bytes: u64, ranges: u64) -> u64 {
        // One lowest table for each 2 MiB; for each range two at its ends, and one of each level above.
        (bytes / LARGE_PAGE_BYTES + (ranges + 1) * 5) * PAGE_BYTES
    }

    /// Begins with nothing mapped. `entries` must be zero.
    pub fn new(entries: &'a mut [u64], base: u64) -> Self {
        Self { entries, base, used: 1 }
    }

    /// Maps the pages from `start` up to `end` to themselves.
    ///
    /// # Errors
    /// [`Reason::MemoryMissing`] where the tables have no room, which means that they were counted wrongly.
    pub fn map(&mut self, start: u64, end: u64, access: Access) -> Result<(), Refusal> {
        let mut at = start;
        while at < end {
            let large = at.is_multiple_of(LARGE_PAGE_BYTES) && end - at >= LARGE_PAGE_BYTES;
            let (level, extra, step) = if large { (1, LARGE, LARGE_PAGE_BYTES) } else { (0, 0, PAGE_BYTES) };
            self.set(at, level, at | extra | access.bits())?;
            at += step;
        }
        Ok(())
    }

    /// Puts `entry` for `address` into a table of `level`.
    fn set(&mut self, address: u64, level: u32, entry: u64) -> Result<(), Refusal> {
        let mut table = 0;
        for above in (level + 1..LEVELS).rev() {
            table = self.below(table * ENTRIES + index(address, above))?;
        }
        *self.entry(table * ENTRIES + index(address, level))? = entry;
        Ok(())
    }

    /// The number of the table that an entry of a higher one refers to; a fresh one where it refers to none.
    fn below(&mut self, place: usize) -> Result<usize, Refusal> {
        let (base, next) = (self.base, self.used);
        let entry = self.entry(place)?;
        if *entry & PRESENT == 0 {
            *entry = (base + next as u64 * PAGE_BYTES) | PRESENT | WRITE | USER | ACCESSED;
            self.used += 1;
            return Ok(next);
        }
        let address = *entry & !(PAGE_BYTES - 1);
        Ok(usize::try_from((address - base) / PAGE_BYTES).unwrap_or(usize::MAX))
    }

    fn entry(&mut self, place: usize) -> Result<&mut u64, Refusal> {
        let missing = || Refusal::new(Reason::MemoryMissing, "the virtual machine's page tables are too small");
        self.entries.get_mut(place).ok_or_else(missing)
    }
}

/// Which entry of a table of `level` is for `address`.
fn index(address: u64, level: u32) -> usize {
    usize::try_from(address >> (12 + 9 * level)).unwrap_or(0) % ENTRIES
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    const BASE: u64 = 1 << 33;

    /// Where an address leads and with which rights (write, user, execute), as a processor finds it.
    fn walk(entries: &[u64], address: u64) -> Option<(u64, bool, bool, bool)> {
        let (mut table, mut write, mut user, mut execute) = (BASE, true, true, true);
        for shift in [39, 30, 21, 12] {
            let place = (table - BASE) / 8 + (address >> shift) % 512;
            let entry = entries[usize::try_from(place).expect("small")];
            if entry & 1 == 0 {
                return None;
            }
            (write, user, execute) = (write && entry & 2 != 0, user && entry & 4 != 0, execute && entry >> 63 == 0);
            let target = entry & 0x000f_ffff_ffff_f000;
            if shift == 12 || entry & 0x80 != 0 {
                return Some((target + address % (1 << shift), write, user, execute));
            }
            table = target;
        }
        None
    }

    #[test]
    fn every_address_leads_to_itself_with_its_rights_and_no_other_is_there() {
        let ranges = [
            (0x10_0000, 0x10_1000, Access::Execute),
            (0x1000_0000, 0x1000_3000, Access::Execute),
            (0x1000_3000, 0x1000_4000, Access::Read),
            // Small pages up to a large one, large ones, and small ones behind.
            (0x101f_f000, 0x1080_2000, Access::Write),
            (0x7fff_f000, 0x8000_0000, Access::Write),
            (1 << 32, (1 << 32) + 0x20_1000, Access::Write),
        ];
        let bytes = ranges.iter().map(|(start, end, _)| end - start).sum();
        let size = usize::try_from(Tables::bytes_for(bytes, ranges.len() as u64)).expect("small");
        let mut entries = vec![0; size / 8];
        let mut tables = Tables::new(&mut entries, BASE);
        for (start, end, access) in ranges {
            tables.map(start, end, access).expect("room");
        }
        for (start, end, access) in ranges {
            for address in (start..end).step_by(4096).chain([end - 1]) {
                let expected = (address, access == Access::Write, true, access == Access::Execute);
                assert_eq!(walk(&entries, address), Some(expected), "{address:#x}");
            }
            for outside in [start - 1, end] {
                let other = ranges.iter().any(|&(start, end, _)| (start..end).contains(&outside));
                assert_eq!(walk(&entries, outside).is_some(), other, "{outside:#x}");
            }
        }
        for table in (BASE..BASE + size as u64).step_by(4096) {
            assert_eq!(walk(&entries, table), None, "a table is mapped at {table:#x}");
        }
    }

    #[test]
    fn too_little_room_is_said() {
        let mut entries = [0; 2 * 512];
        let refusal = Tables::new(&mut entries, BASE).map(0, 4096, Access::Read).expect_err("three are needed");
        assert_eq!(refusal.reason, Reason::MemoryMissing);
    }
}
