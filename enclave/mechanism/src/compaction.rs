//! Gathering the chosen of many records into a short list, without a branch or address that tells which were chosen.
//!
//! Records come in groups of 128. Within a group the chosen move to the front through seven stages, each moving some by a
//! power of two; then the group is shifted to where the list has grown to, again in seven stages, and merged into every
//! part of the list, under a mask that is zero but in two of them. Every group does the same work on the same addresses,
//! whoever was chosen: an observer of memory learns the number of records and the length of the list, both public.

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
        for (entry, &word) in entries.iter_mut().zip(&window) {
            let filled = 0u32.wrapping_sub(u32::from(word >> 15));
            let index = first.wrapping_add(u32::from(word) & (GROUP as u32 - 1));
            *entry = !index & filled;
        }
        let (low, high) = entries.split_at(GROUP);
        let part = self.count / GROUP as u32;
        for (number, slots) in (0u32..).zip(self.slots.chunks_mut(GROUP)) {
            let (here, next) = (mask(number == part), mask(number == part + 1));
            for ((slot, a), b) in slots.iter_mut().zip(low).zip(high) {
                *slot |= (a & here) | (b & next);
            }
        }
        self.count += u32::from(added);
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

/// All ones or all zeros, without a branch.
#[inline(always)]
fn mask(holds: bool) -> u32 {
    0u32.wrapping_sub(u32::from(holds))
}

/// The chosen places, moved to the front in order, and how many there are.
fn to_front(chosen: &[u16; GROUP]) -> ([u16; GROUP], u16) {
    let before = exclusive_sums(chosen);
    let mut words = [0u16; GROUP];
    for place in 0..GROUP {
        let distance = (place as u16).wrapping_sub(before[place]);
        let filled = 0u16.wrapping_sub(chosen[place]);
        words[place] = (VALID | (distance << PLACE_BITS) | place as u16) & filled;
    }
    // Bit b of its distance says whether an entry moves 2^b places now. From the lowest bit on, no two ever meet: a later
    // entry is never nearer to an earlier one than the difference of their ranks.
    for bit in 0..PLACE_BITS {
        let reach = 1usize << bit;
        let mut next = [0u16; GROUP];
        for (to, &word) in next.iter_mut().zip(&words) {
            *to = word & !moves(word, bit);
        }
        for (to, &word) in next.iter_mut().zip(words.iter().skip(reach)) {
            *to |= word & moves(word, bit);
        }
        words = next;
    }
    let last = GROUP - 1;
    (words, before[last] + chosen[last])
}

#[inline(always)]
fn moves(word: u16, bit: u32) -> u16 {
    0u16.wrapping_sub((word >> (PLACE_BITS + bit)) & 1)
}

/// Sums of all earlier entries.
fn exclusive_sums(chosen: &[u16; GROUP]) -> [u16; GROUP] {
    let mut sums = [0u16; GROUP];
    sums[1..].copy_from_slice(&chosen[..GROUP - 1]);
    for bit in 0..PLACE_BITS {
        let earlier = sums;
        for (sum, &other) in sums.iter_mut().skip(1 << bit).zip(&earlier) {
            *sum += other;
        }
    }
    sums
}

/// The entries moved `by` places back in a window of twice their number. `by` is below 128.
fn shifted(words: &[u16; GROUP], by: u32) -> [u16; 2 * GROUP] {
    let mut window = [0u16; 2 * GROUP];
    window[..GROUP].copy_from_slice(words);
    for bit in 0..PLACE_BITS {
        let moved = 0u16.wrapping_sub(((by >> bit) & 1) as u16);
        let earlier = window;
        for word in &mut window {
            *word &= !moved;
        }
        for (word, &other) in window.iter_mut().skip(1 << bit).zip(&earlier) {
            *word |= other & moved;
        }
    }
    window
}
