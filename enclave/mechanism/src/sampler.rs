//! Secret Poisson sampling into a fixed number of slots.
//!
//! Record `i` has a 64-bit word at every step. It is drawn when its word is below the threshold; if more are drawn than
//! there are slots, those with the smallest words stay (equal words: the smaller index). Conditional on how many were
//! drawn, that is a uniformly random subset, since the words below the threshold are independent and uniform.
//!
//! *What time and memory tell*: `dataset_size`, `threshold`, `capacity`, nothing of the words. The cut, the word and index
//! at which the smallest `capacity` end, is searched for in every step, needed or not: [`histogram passes`](plan_passes)
//! narrow it to an interval that holds about eight words, which one more pass lists and ranks. Should a list of
//! [`SHORTLIST`] not be enough (below 2^-100 for any plan), more passes narrow it further: the one thing that is not of
//! fixed shape. Gathering is oblivious ([`crate::compaction`]). What the caller does with the indices is not the
//! sampler's: reading the chosen records shows their addresses to whoever watches memory.

#![allow(
    clippy::indexing_slicing,
    reason = "loop counters into arrays of fixed length; bounds checks vanish, and lanes become vectors"
)]

use core::hint::black_box;

use myelin_boundary::{Public, public};

use crate::compaction::{GROUP, List};
use crate::keystream::{Keystream, LANES, Rows};

/// Stream of the sampling key that holds the words.
const STREAM: u32 = 0;

/// Parts into which one pass cuts the interval that holds the cut.
const PARTS: usize = 16;

/// Words that are ranked at the end.
const SHORTLIST: usize = 64;

/// Words per list that the number of passes aims at.
const AIM: u64 = 8;

/// The sampler. It has no state: a step's draw is a function of key and step.
pub struct Sampler;

impl Sampler {
    /// Draws the sample of `step` into `out`: the indices of the records, ascending, then `u32::MAX` in the empty slots.
    /// Returns how many are filled.
    ///
    /// `key`: 32 secret bytes. `dataset_size`: records there are. `threshold`: each is drawn with probability `threshold /
    /// 2^64`. `capacity`: most that stay; no more than `out` has room for. `chosen`: becomes 1 for each record that is drawn
    /// and stays, 0 for the others; as long as there are records, or empty.
    pub fn draw(
        key: &[u8; 32],
        step: u64,
        dataset_size: u32,
        threshold: u64,
        capacity: u32,
        out: &mut [u32],
        chosen: &mut [u8],
    ) -> u32 {
        let capacity = capacity.min(u32::try_from(out.len()).unwrap_or(u32::MAX));
        let words = Words {
            stream: Keystream::new(key, step, STREAM),
            dataset_size,
        };
        let cut = find_cut(&words, threshold, capacity);
        let (slots, spare) = out.split_at_mut(capacity as usize);
        spare.fill(u32::MAX);
        words.list(0, &cut, slots, chosen)
    }
}

/// A place in the order of words, equal words by index.
struct Cut {
    word: u64,
    index: u32,
}

/// An interval of words `low <= word < high` with the number of records below either end.
struct Interval {
    low: u64,
    high: u64,
    below_low: u32,
    below_high: u32,
}

impl Interval {
    /// Whether the cut is inside, and too many words to list are too, that are not all equal. One branch for all three:
    /// two would tell whether more records were drawn than stay.
    fn is_crowded(&self, capacity: u32) -> bool {
        let inside = ones_if_above(self.below_high, capacity);
        let many = ones_if_above(
            self.below_high.wrapping_sub(self.below_low),
            SHORTLIST as u32,
        );
        let divisible = 0u64.wrapping_sub(u64::from(self.high.wrapping_sub(self.low) > 1));
        public(black_box(inside & many & divisible), Public::CrowdedDraw) != 0
    }
}

/// How many histogram passes leave about [`AIM`] words in an interval. Public: a function of the plan.
fn plan_passes(dataset_size: u32, threshold: u64, capacity: u32) -> u32 {
    let expected = ((u128::from(dataset_size) * u128::from(threshold)) >> 64) as u64;
    let mut left = expected.max(u64::from(capacity));
    let mut passes = 1;
    while left > AIM * PARTS as u64 {
        left /= PARTS as u64;
        passes += 1;
    }
    passes
}

/// The cut: the drawn record that is first not to stay, or the threshold if all stay.
fn find_cut(words: &Words, threshold: u64, capacity: u32) -> Cut {
    let mut interval = Interval {
        low: 0,
        high: threshold,
        below_low: 0,
        below_high: u32::MAX,
    };
    for _ in 0..plan_passes(words.dataset_size, threshold, capacity) {
        interval = words.narrow(&interval, capacity);
    }
    while interval.is_crowded(capacity) {
        interval = words.narrow(&interval, capacity);
    }
    let mut indices = [0u32; SHORTLIST];
    words.list(
        interval.low,
        &Cut {
            word: interval.high,
            index: 0,
        },
        &mut indices,
        &mut [],
    );
    let listed = words.at(&indices);
    let wanted = capacity.wrapping_sub(interval.below_low);
    // More than a list of equal words: the cut stays below all of them, and fewer records stay than could.
    let mut cut = Cut {
        word: interval.low,
        index: 0,
    };
    for (place, (&word, &index)) in listed.iter().zip(&indices).enumerate() {
        let mut rank = 0u32;
        for (other, &smaller) in listed.iter().enumerate() {
            rank = rank.wrapping_add(
                u32::from(smaller < word) | (u32::from(smaller == word) & u32::from(other < place)),
            );
        }
        let here = ones_if_equal(rank, wanted) & !ones_if_equal(index, u32::MAX);
        cut.word = select(here, word, cut.word);
        cut.index = select(here, u64::from(index), u64::from(cut.index)) as u32;
    }
    let overflows = ones_if_above(interval.below_high, capacity);
    Cut {
        word: select(overflows, cut.word, threshold),
        index: select(overflows, u64::from(cut.index), 0) as u32,
    }
}

/// All ones where `a` is above `b`, else zero.
#[inline(always)]
fn ones_if_above(a: u32, b: u32) -> u64 {
    (i64::from(b).wrapping_sub(i64::from(a)) >> 63) as u64
}

/// All ones where `a` equals `b`, else zero.
#[inline(always)]
fn ones_if_equal(a: u32, b: u32) -> u64 {
    (i64::from(a ^ b).wrapping_sub(1) >> 63) as u64
}

/// `a` where `mask` is all ones, `b` where it is zero.
#[inline(always)]
fn select(mask: u64, a: u64, b: u64) -> u64 {
    // The barrier keeps the compiler from seeing a condition in the mask and branching on it.
    b ^ ((a ^ b) & black_box(mask))
}

/// Adds to `counts`, lane by lane, how many of the words are below each pivot.
///
/// Words and pivots are compared as signed numbers, with the highest bit turned: processors without AVX-512 compare no
/// others. Four at a time, because those with it compare longer vectors more slowly.
#[inline]
fn count_below(words: &[u64; GROUP], pivots: &[u64; PARTS], counts: &mut [[u64; LANES]; PARTS]) {
    const HIGHEST: u64 = 1 << 63;
    let words = words.map(|word| (word ^ HIGHEST) as i64);
    let (chunks, _) = words.as_chunks::<LANES>();
    for (lanes, &pivot) in counts.iter_mut().zip(pivots) {
        let pivot = (pivot ^ HIGHEST) as i64;
        for (part, counts) in lanes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            for chunk in chunks {
                for (place, count) in counts.iter_mut().enumerate() {
                    *count = count.wrapping_add(u64::from(chunk[4 * part + place] < pivot));
                }
            }
        }
    }
}

/// The words of all records at one step.
struct Words {
    stream: Keystream,
    dataset_size: u32,
}

impl Words {
    /// Calls `use_group(index of the first record, words)` for every group of 128 records. Places past the last record
    /// have the word `u64::MAX`, which is below no threshold.
    #[inline]
    fn each_group(&self, mut use_group: impl FnMut(u32, &[u64; GROUP])) {
        let mut rows: Rows = [[0; LANES]; 16];
        let mut words = [0u64; GROUP];
        for group in 0..self.dataset_size.div_ceil(GROUP as u32) {
            self.stream.group(group, &mut rows);
            let (pairs, _) = rows.as_flattened().as_chunks::<2>();
            for (word, &[low, high]) in words.iter_mut().zip(pairs) {
                *word = (u64::from(high) << 32) | u64::from(low);
            }
            let first = group * GROUP as u32;
            let present = (self.dataset_size - first).min(GROUP as u32) as usize;
            words[present..].fill(u64::MAX);
            use_group(first, &words);
        }
    }

    /// One histogram pass: the sixteenth of the interval in which the number of smaller words passes `capacity`. If it
    /// does so nowhere, the last.
    fn narrow(&self, interval: &Interval, capacity: u32) -> Interval {
        let width = u128::from(interval.high.wrapping_sub(interval.low));
        let pivots: [u64; PARTS] = core::array::from_fn(|part| {
            let upto = (width.wrapping_mul(part as u128 + 1) >> 4) as u64;
            interval.low.wrapping_add(upto)
        });
        let mut counts = [[0u64; LANES]; PARTS];
        self.each_group(|_, words| count_below(words, &pivots, &mut counts));
        let below = counts.map(|lanes| {
            lanes
                .iter()
                .fold(0, |sum: u64, &count| sum.wrapping_add(count)) as u32
        });
        let mut narrowed = Interval { ..*interval };
        // From the last part down: a part's end that is past the cut lowers `high`, and what is before it becomes `low`.
        let before = |part: usize| {
            if part == 0 {
                (interval.low, interval.below_low)
            } else {
                (pivots[part - 1], below[part - 1])
            }
        };
        (narrowed.low, narrowed.below_low) = before(PARTS - 1);
        (narrowed.high, narrowed.below_high) = (pivots[PARTS - 1], below[PARTS - 1]);
        for part in (0..PARTS).rev() {
            let past = ones_if_above(below[part], capacity);
            let (low, below_low) = before(part);
            narrowed.high = select(past, pivots[part], narrowed.high);
            narrowed.below_high =
                select(past, u64::from(below[part]), u64::from(narrowed.below_high)) as u32;
            narrowed.low = select(past, low, narrowed.low);
            narrowed.below_low =
                select(past, u64::from(below_low), u64::from(narrowed.below_low)) as u32;
        }
        narrowed
    }

    /// Lists the records whose word is at least `low` and that come before `cut`, and flags them. Returns how many there are.
    fn list(&self, low: u64, cut: &Cut, slots: &mut [u32], flags: &mut [u8]) -> u32 {
        let mut list = List::new(slots);
        let mut chosen = [0u16; GROUP];
        self.each_group(|first, words| {
            for ((chosen, &word), index) in chosen.iter_mut().zip(words).zip(first..) {
                let before = (word < cut.word) | ((word == cut.word) & (index < cut.index));
                *chosen = u16::from(before & (word >= low));
            }
            let flags = flags.get_mut(first as usize..).unwrap_or_default();
            for (flag, &chosen) in flags.iter_mut().zip(&chosen) {
                *flag = chosen as u8;
            }
            list.append(first, &chosen);
        });
        list.finish()
    }

    /// The words of the listed records, made again from their block counters; `u64::MAX` for an empty slot.
    fn at(&self, indices: &[u32; SHORTLIST]) -> [u64; SHORTLIST] {
        let mut words = [0u64; SHORTLIST];
        let mut blocks = [[0u32; 4]; LANES];
        let (chunks, _) = indices.as_chunks::<LANES>();
        let (outs, _) = words.as_chunks_mut::<LANES>();
        for (indices, out) in chunks.iter().zip(outs) {
            self.stream
                .blocks(&indices.map(|index| index / 2), &mut blocks);
            for ((word, &index), &[a, b, c, d]) in out.iter_mut().zip(indices).zip(&blocks) {
                let [first, second] =
                    [(a, b), (c, d)].map(|(low, high)| (u64::from(high) << 32) | u64::from(low));
                *word = select(ones_if_equal(index % 2, 0), first, second);
                *word = select(ones_if_equal(index, u32::MAX), u64::MAX, *word);
            }
        }
        words
    }
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
