//! Streams and groups; the cipher's known answers are in `myelin-boundary`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn group(key: [u8; 32], step: u64, stream: u32, number: u32) -> Rows {
    let mut rows = [[0; LANES]; 16];
    Keystream::new(&key, step, stream).group(number, &mut rows);
    rows
}

#[test]
fn a_group_is_its_blocks_in_order() {
    let rows = group([9; 32], 77, 5, 3);
    let mut blocks = [[0; 4]; AES_BLOCKS];
    let counters = core::array::from_fn(|i| 3 * 64 + 63 - i as u32);
    Keystream::new(&[9; 32], 77, 5).blocks(&counters, &mut blocks);
    for (back, block) in blocks.iter().enumerate() {
        let (row, lane) = ((63 - back) / 4, (63 - back) % 4 * 4);
        assert_eq!(rows[row][lane..lane + 4], *block);
    }
}

#[test]
fn key_step_stream_and_number_all_matter() {
    let base = group([1; 32], 1, 1, 0);
    let mut key = [1; 32];
    key[31] = 2;
    assert_ne!(base, group(key, 1, 1, 0));
    assert_ne!(base, group([1; 32], 1 << 32, 1, 0));
    assert_ne!(base, group([1; 32], 2, 1, 0));
    assert_ne!(base, group([1; 32], 1, 2, 0));
    assert_ne!(base, group([1; 32], 1, 1, 1));
}

#[test]
fn no_block_of_a_stream_comes_twice() {
    let blocks = (0..4).flat_map(|number| group([3; 32], 1, 0, number));
    let mut blocks: Vec<_> = blocks
        .flat_map(|row| row.as_chunks::<4>().0.to_vec())
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    assert_eq!(blocks.len(), 4 * 64);
}
