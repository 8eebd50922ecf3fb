//! The parts of a draw, each alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

const UNDECIDED: u32 = 0x7fff_ff00;

/// A word of level 0, without sign or fine bits, but for what is given.
fn one(words: [u32; 4], reserve: &mut Reserve) -> i32 {
    let mut out = [0; LANES];
    draws(&words.map(|word| [word; LANES]), reserve, &mut out);
    assert!(out.iter().all(|&z| z == out[0]));
    out[0]
}

#[test]
fn every_fine_bit_has_its_weight_and_no_other_counts() {
    let mut reserve = [[0; LANES]; RESERVE];
    let base = one([0; 4], &mut reserve);
    assert_eq!(base, -FINE_MEAN);
    let mut orders = [0; FINE_BITS as usize];
    for word in 0..4 {
        for bit in 0..32 {
            let mut words = [0; 4];
            words[word] = 1 << bit;
            let weight = one(words, &mut reserve) - base;
            if word == 0 && bit >= 8 {
                // The sign of zero, or a level: a multiple of the spacing.
                assert_eq!(weight % (1 << FINE_BITS), 0);
            } else {
                assert!(weight.count_ones() == 1 && weight < 1 << FINE_BITS);
                orders[(FINE_BITS - 1 - weight.trailing_zeros()) as usize] += 1;
            }
        }
    }
    assert_eq!(orders, FINE_ORDERS);
    let all = one([0xff, u32::MAX, u32::MAX, u32::MAX], &mut reserve);
    assert_eq!(all, FINE_MEAN);
}

#[test]
fn sign_turns_the_coarse_part_round_and_nothing_else() {
    let mut reserve = [[0; LANES]; RESERVE];
    for (level, magnitude) in [(0, 0), (HEAD_END as u32 - 256, 20), (1 << 29, 1)] {
        let up = one([level | 0xff, 7, 8, 9], &mut reserve) - (magnitude << FINE_BITS);
        let down = one([1 << 31 | level | 0xff, 7, 8, 9], &mut reserve) + (magnitude << FINE_BITS);
        assert_eq!(up, down);
    }
}

#[test]
fn what_is_undecided_takes_the_lanes_reserve_in_order_and_the_last_again() {
    let mut reserve: Reserve =
        core::array::from_fn(|r| core::array::from_fn(|l| (10 * r + l) as u32));
    let mut out = [0; LANES];
    for turn in 0..6u32 {
        // Every other lane is undecided at odd turns only.
        let rows: [Row; 4] = core::array::from_fn(|word| {
            core::array::from_fn(|l| {
                if word == 0 && (l % 2 == 0 || turn % 2 == 1) {
                    UNDECIDED
                } else {
                    0
                }
            })
        });
        draws(&rows, &mut reserve, &mut out);
        for (l, &z) in out.iter().enumerate() {
            let taken = if l % 2 == 0 {
                Some(turn.min(3))
            } else {
                (turn % 2 == 1).then_some(turn / 2)
            };
            let expected = taken.map_or(0, |r| 10 * r as i32 + l as i32);
            assert_eq!(z + FINE_MEAN, expected << FINE_BITS, "turn {turn} lane {l}");
        }
    }
}

#[test]
fn tables_decide_at_their_rows() {
    assert_eq!((head_reached(0), head_reached(HEAD_END - 1)), (0, 20));
    assert_eq!(
        (reserve_reached(0), reserve_reached(i64::MAX)),
        (0, RESERVE_ROWS as u32)
    );
    // The low byte, which is fine, decides nothing.
    let rows = (0..1 << 23).scan(0, |last, level| {
        let reached = head_reached(level << 8);
        assert_eq!(reached, head_reached(level << 8 | 0xff));
        let more = reached - *last;
        *last = reached;
        Some(more)
    });
    assert_eq!(rows.sum::<u32>(), 21);
}
