//! The drawn records brought to their slots, without an address or branch that tells who was drawn.
//!
//! Records are read one after another, all of them, in blocks as long as the slots are many, rounded up to a power of two. A
//! block is compacted by a network of exchanges whose places depend on its length alone: order-preserving compaction with
//! an offset (Sasy, Johnson and Goldberg 2022, section 4). A drawn record so comes to the place of its rank among all that
//! were drawn, and the block is merged into the slots under masks. Each record takes part in `log2(slots)` exchanges, drawn
//! or not.

use alloc::vec::Vec;
use core::hint::black_box;

/// Bytes that are exchanged at once.
const LINE_BYTES: usize = 32;
type Line = [u8; LINE_BYTES];

/// Room for the slots of a step, and for a block of records on its way there.
pub struct Gather {
    record_bytes: usize,
    /// Lines of one record.
    lines: usize,
    slots: Vec<Line>,
    block: Vec<Line>,
    /// How many were drawn before each place of the block, of all records.
    before: Vec<u32>,
}

impl Gather {
    /// Room for at most `capacity` drawn records of `record_bytes` bytes.
    #[must_use]
    pub fn new(record_bytes: usize, capacity: usize) -> Self {
        let places = capacity.next_power_of_two().max(2);
        let lines = record_bytes.div_ceil(LINE_BYTES).max(1);
        Self {
            record_bytes,
            lines,
            slots: alloc::vec![[0; LINE_BYTES]; places * lines],
            block: alloc::vec![[0; LINE_BYTES]; places * lines],
            before: alloc::vec![0; places + 1],
        }
    }

    /// Brings the drawn of `records` to the first slots, in order; the other slots are zero.
    ///
    /// `drawn`: for each record 1 if it was drawn, else 0; no more than there is room for are.
    pub fn take(&mut self, records: &[u8], drawn: &[u8]) {
        self.slots.fill([0; LINE_BYTES]);
        let places = self.before.len() - 1;
        let mut count = 0;
        let blocks = records.chunks(places * self.record_bytes.max(1));
        for (records, drawn) in blocks.zip(drawn.chunks(places)) {
            let rows = self.block.chunks_exact_mut(self.lines);
            for (row, record) in rows.zip(records.chunks_exact(self.record_bytes.max(1))) {
                for (to, from) in row.as_flattened_mut().iter_mut().zip(record) {
                    *to = *from;
                }
            }
            let flags = drawn.iter().copied().chain(core::iter::repeat(0));
            for (before, drawn) in self.before.iter_mut().zip(flags) {
                *before = count;
                count = count.wrapping_add(u32::from(drawn));
            }
            compact(&mut self.block, self.lines, &self.before);
            self.merge();
        }
    }

    /// The bytes of one slot; `None` past the last.
    #[must_use]
    pub fn slot(&self, slot: usize) -> Option<&[u8]> {
        let row = self.slots.chunks_exact(self.lines).nth(slot)?;
        row.as_flattened().get(..self.record_bytes)
    }

    /// Puts a compacted block's drawn records into their slots.
    fn merge(&mut self) {
        let (Some(&first), Some(&last)) = (self.before.first(), self.before.last()) else {
            return;
        };
        let last_place = self.before.len() as u32 - 2;
        let added = last.wrapping_sub(first);
        let slots = self.slots.chunks_exact_mut(self.lines);
        for ((slot, row), place) in slots.zip(self.block.chunks_exact(self.lines)).zip(0..) {
            let filled = mask(u32::wrapping_sub(place, first) & last_place < added);
            for (slot, line) in slot.iter_mut().zip(row) {
                for (to, from) in slot.iter_mut().zip(line) {
                    *to |= from & filled;
                }
            }
        }
    }
}

/// All ones or all zeros. The barrier keeps the compiler from making a branch of it.
#[inline(always)]
fn mask(holds: bool) -> u8 {
    black_box(0u8.wrapping_sub(u8::from(holds)))
}

/// Moves each drawn row to the place of its rank, modulo the number of rows, which is a power of two; `before` has that rank.
/// The others come to the places that are left.
fn compact(rows: &mut [Line], lines: usize, before: &[u32]) {
    let half = rows.len() / lines / 2;
    if half == 0 {
        return;
    }
    let (low, high) = rows.split_at_mut(half * lines);
    let (Some(before_low), Some(before_high)) = (before.get(..=half), before.get(half..)) else {
        return;
    };
    compact(low, lines, before_low);
    compact(high, lines, before_high);
    let (Some(&first), Some(&middle)) = (before_low.first(), before_high.first()) else {
        return;
    };
    // Both halves are in order, modulo their length; what has to go to the other half is on one side of `end`.
    let half = half as u32;
    let within = half - 1;
    let crosses = (first & within).wrapping_add(middle.wrapping_sub(first)) >= half;
    let begins_high = first & half != 0;
    let end = middle & within;
    let pairs = low
        .chunks_exact_mut(lines)
        .zip(high.chunks_exact_mut(lines));
    for ((a, b), place) in pairs.zip(0..) {
        let exchanged = mask(crosses ^ begins_high ^ (place >= end));
        for (a, b) in a.iter_mut().zip(b) {
            for (a, b) in a.iter_mut().zip(b) {
                let changed = (*a ^ *b) & exchanged;
                *a ^= changed;
                *b ^= changed;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Every set of drawn records of a few small sizes, and one that fills many blocks.
    #[test]
    fn the_drawn_are_in_the_first_slots_in_order() {
        for capacity in [1, 2, 3, 4, 8] {
            for records in 1..=10usize {
                for set in 0u32..1 << records {
                    if set.count_ones() as usize <= capacity {
                        check(capacity, 5, |record| set >> record & 1 == 1, records);
                    }
                }
            }
        }
        check(40, 100, |record| record % 29 == 7, 1000);
        check(64, 33, |record| (200..264).contains(&record), 999);
        check(64, 32, |record| !(30..970).contains(&record), 1000);
    }

    fn check(capacity: usize, bytes: usize, is_drawn: impl Fn(usize) -> bool, count: usize) {
        let record = |index: usize| (0..bytes).map(move |k| (index * 7 + k * 3 + 1) as u8);
        let records: Vec<u8> = (0..count).flat_map(record).collect();
        let drawn: Vec<u8> = (0..count).map(|index| u8::from(is_drawn(index))).collect();
        let mut gather = Gather::new(bytes, capacity);
        // What an earlier step left does not matter.
        gather.take(&records, &alloc::vec![0; count]);
        gather.take(&records, &drawn);
        let mut slot = 0;
        for index in (0..count).filter(|&index| is_drawn(index)) {
            assert!(gather.slot(slot).unwrap().iter().copied().eq(record(index)));
            slot += 1;
        }
        for empty in slot..capacity {
            assert!(gather.slot(empty).unwrap().iter().all(|&byte| byte == 0));
        }
    }
}
