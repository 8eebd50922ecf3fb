//! The sampler against its definition, run plainly.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn plain(key: &[u8; 32], step: u64, n: u32, threshold: u64, capacity: u32) -> Vec<u32> {
    let words = Words {
        stream: Keystream::new(key, step, STREAM),
        dataset_size: n,
    };
    let mut drawn = Vec::new();
    words.each_group(|first, words| {
        for (place, &word) in words.iter().enumerate() {
            if word < threshold {
                drawn.push((word, first + place as u32));
            }
        }
    });
    drawn.sort_unstable();
    drawn.truncate(capacity as usize);
    let mut indices: Vec<u32> = drawn.into_iter().map(|(_, index)| index).collect();
    indices.sort_unstable();
    indices
}

fn check(n: u32, threshold: u64, capacity: u32, step: u64) {
    let key = core::array::from_fn(|i| i as u8);
    let mut out = vec![7u32; capacity as usize + 3];
    let mut chosen = std::vec![7u8; n as usize];
    let count = Sampler::draw(&key, step, n, threshold, capacity, &mut out, &mut chosen);
    let expected = plain(&key, step, n, threshold, capacity);
    assert_eq!(
        count as usize,
        expected.len(),
        "n {n} threshold {threshold} capacity {capacity} step {step}"
    );
    assert_eq!(&out[..expected.len()], &expected[..]);
    assert!(out[expected.len()..].iter().all(|&slot| slot == u32::MAX));
    for (record, &flag) in (0u32..).zip(&chosen) {
        assert_eq!(flag, u8::from(expected.contains(&record)));
    }
}

#[test]
fn equals_the_plain_definition() {
    for step in 0..3 {
        for n in [0, 1, 2, 16, 127, 128, 129, 455, 1000, 4097] {
            for capacity in [0, 1, 2, 64, 127, 128, 129, 300, 1024] {
                for part in [
                    0u64,
                    1,
                    1 << 40,
                    1 << 58,
                    u64::MAX / 7,
                    u64::MAX / 2,
                    u64::MAX,
                ] {
                    check(n, part, capacity, step);
                }
            }
        }
    }
}

#[test]
fn many_more_drawn_than_slots() {
    check(60_000, u64::MAX, 100, 9);
    check(60_000, u64::MAX, 59_999, 9);
    check(60_000, u64::MAX / 60, 990, 9);
}

#[test]
fn an_interval_with_too_many_words_is_narrowed_further() {
    // Not enough passes on purpose: the loop past the planned passes must do the rest.
    let words = Words {
        stream: Keystream::new(&[3; 32], 0, STREAM),
        dataset_size: 100_000,
    };
    let cut = find_cut(&words, u64::MAX, 8);
    let mut slots = [0u32; 8];
    assert_eq!(words.list(0, &cut, &mut slots, &mut []), 8);
    assert_eq!(slots.to_vec(), plain(&[3; 32], 0, 100_000, u64::MAX, 8));
}
