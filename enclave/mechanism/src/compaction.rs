//! Gathering the chosen of many records into a short list, without a branch or address that tells which were chosen.
//!
//! Records come in groups of 128. Within a group the chosen move to the front through seven stages, each moving some by a
//! power of two; then the group is shifted to where the list has grown to, again in seven stages, and merged into every
//! part of the list, under a mask that is zero but in two of them. Every group does the same work on the same addresses,
//! whoever was chosen: an observer of memory learns the number of records and the length of the list, both public.

#![allow(
    clippy::indexing_slicing,
    reason = "loop counters into arrays of fixed length; bounds checks vanish, and lanes become vectors"
)]

use core::hint::black_box;

/// Records of one group.
pub(crate) const GROUP: usize = 128;

/// Marks an entry that holds a record, in a 16-bit word `valid (1) ‖ 0 ‖ distance (7) ‖ place (7)`.
const VALID: u16 = 0x8000;
const PLACE_BITS: u32 = 7;

/// A list of record indices in ascending order, grown group by group. Entries are kept complemented, so that an empty one
/// is zero until [`List::finish`].
pub(crate) struct List<'a> {
    slots: &'a mut [u32],
    count: u32,
}

impl<'a> List<'a> {
    /// An empty list over `slots`.
    pub(crate) fn new(slots: &'a mut [u32]) -> Self {
        slots.fill(0);
        Self { slots, count: 0 }
    }

    /// Appends the records of one group: those at whose place `chosen` is 1 (it is 0 elsewhere). `first` is the index of
    /// the record at place 0. What does not fit any more is dropped.
    pub(crate) fn append(&mut self, first: u32, chosen: &[u16; GROUP]) {
        let (packed, added) = to_front(chosen);
        let window = shifted(&packed, self.count % GROUP as u32);
        let mut entries = [0u32; 2 * GROUP];
        for (entry, &word) in entries.iter_mut().zip(&window[GROUP..]) {
            let filled = 0u32.wrapping_sub(u32::from(word >> 15));
            let index = first.wrapping_add(u32::from(word) & (GROUP as u32 - 1));
            *entry = !index & filled;
        }
        let (low, high) = entries.split_at(GROUP);
        let part = self.count / GROUP as u32;
        for (number, slots) in (0u32..).zip(self.slots.chunks_mut(GROUP)) {
            let (here, next) = (mask(number == part), mask(number == part.wrapping_add(1)));
            for ((slot, a), b) in slots.iter_mut().zip(low).zip(high) {
                *slot |= (a & here) | (b & next);
            }
        }
        self.count = self.count.wrapping_add(u32::from(added));
    }

    /// Ends the list: indices in the first slots, `u32::MAX` in the others. Returns how many were chosen, which may be more
    /// than fitted.
    pub(crate) fn finish(self) -> u32 {
        for slot in self.slots.iter_mut() {
            *slot = !*slot;
        }
        self.count
    }
}

/// All ones or all zeros. The barrier keeps the compiler from making one loop for either, and a branch to choose.
#[inline(always)]
fn mask(holds: bool) -> u32 {
    black_box(0u32.wrapping_sub(u32::from(holds)))
}

/// Room for a group, with a group of zeros before or behind it, so that every stage is one loop of fixed length.
type Padded = [u16; 2 * GROUP];

/// The chosen places, moved to the front in order (the second half is zero), and how many there are.
fn to_front(chosen: &[u16; GROUP]) -> (Padded, u16) {
    let sums = inclusive_sums(chosen);
    let mut words = [0u16; 2 * GROUP];
    for place in 0..GROUP {
        let before = sums[GROUP + place].wrapping_sub(chosen[place]);
        let distance = (place as u16).wrapping_sub(before);
        let filled = 0u16.wrapping_sub(chosen[place]);
        words[place] = (VALID | (distance << PLACE_BITS) | place as u16) & filled;
    }
    // Bit b of its distance says whether an entry moves 2^b places now. From the lowest bit on, no two ever meet: of two
    // entries the later has the larger distance, by no more than the gap between them.
    let mut other = [0u16; 2 * GROUP];
    advance::<0>(&words, &mut other);
    advance::<1>(&other, &mut words);
    advance::<2>(&words, &mut other);
    advance::<3>(&other, &mut words);
    advance::<4>(&words, &mut other);
    advance::<5>(&other, &mut words);
    advance::<6>(&words, &mut other);
    (other, sums[2 * GROUP - 1])
}

/// One stage of [`to_front`]: entries whose distance has bit `BIT` move `2^BIT` places to the front.
#[inline(always)]
fn advance<const BIT: u32>(from: &Padded, to: &mut Padded) {
    for place in 0..GROUP {
        let (here, behind) = (from[place], from[place + (1 << BIT)]);
        to[place] = (here & !moves::<BIT>(here)) | (behind & moves::<BIT>(behind));
    }
}

#[inline(always)]
fn moves<const BIT: u32>(word: u16) -> u16 {
    0u16.wrapping_sub((word >> (PLACE_BITS + BIT)) & 1)
}

/// Sums of all entries up to each, in the second half.
fn inclusive_sums(chosen: &[u16; GROUP]) -> Padded {
    let mut sums = [0u16; 2 * GROUP];
    let mut other = [0u16; 2 * GROUP];
    sums[GROUP..].copy_from_slice(chosen);
    add_earlier::<1>(&sums, &mut other);
    add_earlier::<2>(&other, &mut sums);
    add_earlier::<4>(&sums, &mut other);
    add_earlier::<8>(&other, &mut sums);
    add_earlier::<16>(&sums, &mut other);
    add_earlier::<32>(&other, &mut sums);
    add_earlier::<64>(&sums, &mut other);
    other
}

#[inline(always)]
fn add_earlier<const REACH: usize>(from: &Padded, to: &mut Padded) {
    for place in GROUP..2 * GROUP {
        to[place] = from[place].wrapping_add(from[place - REACH]);
    }
}

/// A group of zeros and a window of two groups.
type Window = [u16; 3 * GROUP];

/// The entries of the first group of `words` moved `by` places back in a window of two groups, which starts at place
/// [`GROUP`]. `by` is below 128.
fn shifted(words: &Padded, by: u32) -> Window {
    let mut window = [0u16; 3 * GROUP];
    let mut other = [0u16; 3 * GROUP];
    window[GROUP..].copy_from_slice(words);
    retreat::<0>(&window, &mut other, by);
    retreat::<1>(&other, &mut window, by);
    retreat::<2>(&window, &mut other, by);
    retreat::<3>(&other, &mut window, by);
    retreat::<4>(&window, &mut other, by);
    retreat::<5>(&other, &mut window, by);
    retreat::<6>(&window, &mut other, by);
    other
}

/// One stage of [`shifted`]: everything moves `2^BIT` places back if `by` has bit `BIT`.
#[inline(always)]
fn retreat<const BIT: u32>(from: &Window, to: &mut Window, by: u32) {
    // The barrier as in `mask`.
    let moved = black_box(0u16.wrapping_sub(((by >> BIT) & 1) as u16));
    for place in GROUP..3 * GROUP {
        to[place] = (from[place] & !moved) | (from[place - (1 << BIT)] & moved);
    }
}
