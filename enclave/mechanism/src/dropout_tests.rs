//! Masks against words of the keystream, and who they depend on.
#![allow(clippy::indexing_slicing)]

use super::*;

const KEY: [u8; 32] = [5; 32];

fn mask(key: [u8; 32], step: u64, record: u32, first_group: u32, count: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; count];
    Dropout::new(&key, step).fill(record, first_group, 3 << 30, scale(3 << 30), &mut out);
    out
}

#[test]
fn an_element_is_kept_where_its_word_is_below_the_threshold() {
    let made = mask(KEY, 9, 1234, 7, 2 * GROUP + 5);
    let stream = Keystream::new(&KEY, 9, 1234);
    let mut rows: Rows = [[0; LANES]; 16];
    for (number, part) in (7..).zip(made.chunks(GROUP)) {
        stream.group(number, &mut rows);
        for (&value, &word) in part.iter().zip(rows.as_flattened()) {
            let expected = if word < 3 << 30 { 4.0_f32 / 3.0 } else { 0.0 };
            assert_eq!(value.to_bits(), expected.to_bits());
        }
    }
    let kept = made.iter().filter(|&&value| value > 0.0).count();
    assert!((340..430).contains(&kept), "{kept} of {}", made.len());
}

#[test]
fn comparison_is_of_unsigned_words() {
    let edges = [0, 1, 5, i32::MAX as u32, 1 << 31, u32::MAX - 1, u32::MAX];
    for a in edges {
        for b in edges {
            assert_eq!(ones_if_below(a, b), if a < b { u32::MAX } else { 0 });
        }
    }
}

#[test]
fn key_step_record_and_layer_all_matter_and_the_past_does_not() {
    let base = mask(KEY, 1, 1, 0, 64);
    assert_ne!(base, mask([6; 32], 1, 1, 0, 64));
    assert_ne!(base, mask(KEY, 2, 1, 0, 64));
    assert_ne!(base, mask(KEY, 1, 2, 0, 64));
    assert_ne!(base, mask(KEY, 1, 1, 1, 64));
    let mut step = Dropout::new(&KEY, 1);
    let mut out = [0.0; 64];
    for record in [7, u32::MAX, 1] {
        step.fill(record, 0, 3 << 30, scale(3 << 30), &mut out);
    }
    assert_eq!(base, out);
}

#[test]
fn sizes_in_groups() {
    assert_eq!([0, 1, 256, 257].map(groups), [0, 1, 1, 2]);
    assert_eq!(scale(1 << 31).to_bits(), 2.0_f32.to_bits());
}
