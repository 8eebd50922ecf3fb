//! The cipher against RFC 8439.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

/// RFC 8439, section 2.3.2: key 00…1f, nonce 00 00 00 09 00 00 00 4a 00 00 00 00, block 1.
#[test]
fn block_of_the_rfc() {
    let key = core::array::from_fn(|i| i as u8);
    let stream = Keystream::new(&key, 0x4a00_0000_0900_0000, 0);
    let mut rows: Rows = [[0; LANES]; 16];
    stream.group(0, &mut rows);
    let expected: [u32; 16] = [
        0xe4e7_f110,
        0x1559_3bd1,
        0x1fdd_0f50,
        0xc471_20a3,
        0xc7f4_d1c7,
        0x0368_c033,
        0x9aaa_2204,
        0x4e6c_d4c3,
        0x4664_82d2,
        0x09aa_9f07,
        0x05d7_c214,
        0xa202_8bd9,
        0xd19c_12b5,
        0xb94e_16de,
        0xe883_d0cb,
        0x4e3c_50a2,
    ];
    assert_eq!(rows.map(|row| row[1]), expected);
}

/// RFC 8439, appendix A.1, vectors 1 and 2 (zero key and nonce, blocks 0 and 1) and 4 (key 00 ff 00…, block 2).
#[test]
fn blocks_of_the_appendix() {
    let mut rows: Rows = [[0; LANES]; 16];
    Keystream::new(&[0; 32], 0, 0).group(0, &mut rows);
    assert_eq!([rows[0][0], rows[15][0]], [0xade0_b876, 0x8665_eeb2]);
    assert_eq!([rows[0][1], rows[15][1]], [0xbee7_079f, 0x6f4d_794b]);
    let mut key = [0u8; 32];
    key[1] = 0xff;
    Keystream::new(&key, 0, 0).group(0, &mut rows);
    assert_eq!([rows[0][2], rows[1][2]], [0xfb4d_d572, 0x4bc4_2ef1]);
}

#[test]
fn lanes_are_consecutive_blocks_and_any_counters_may_be_asked() {
    let stream = Keystream::new(&[9; 32], 77, 5);
    let (mut first, mut second, mut mixed) = ([[0; LANES]; 16], [[0; LANES]; 16], [[0; LANES]; 16]);
    stream.group(32, &mut first);
    stream.group(40, &mut second);
    for word in 0..16 {
        assert_eq!(first[word][8..], second[word][..8]);
    }
    stream.blocks(&core::array::from_fn(|l| 47 - l as u32), &mut mixed);
    for word in 0..16 {
        let mut reversed = mixed[word];
        reversed.reverse();
        assert_eq!(reversed, first[word]);
    }
}

#[test]
fn key_step_and_stream_all_matter() {
    let block = |key: [u8; 32], step, stream| {
        let mut rows: Rows = [[0; LANES]; 16];
        Keystream::new(&key, step, stream).group(0, &mut rows);
        rows
    };
    let base = block([1; 32], 1, 1);
    let mut key = [1; 32];
    key[31] = 2;
    assert_ne!(base, block(key, 1, 1));
    assert_ne!(base, block([1; 32], 1 << 32, 1));
    assert_ne!(base, block([1; 32], 2, 1));
    assert_ne!(base, block([1; 32], 1, 2));
}
