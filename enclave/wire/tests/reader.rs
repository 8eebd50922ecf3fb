//! What the strict reader refuses, and that writer and reader agree.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use myelin_wire::{Code, Reader, Writer};

/// RFC 8949 appendix A: values of the protocol's subset, in their one encoding.
#[test]
fn known_answers() {
    let cases: [(&[u8], Writer); 14] = [
        (&[0x00], Writer::new().uint(0)),
        (&[0x17], Writer::new().uint(23)),
        (&[0x18, 0x18], Writer::new().uint(24)),
        (&[0x18, 0x64], Writer::new().uint(100)),
        (&[0x19, 0x03, 0xe8], Writer::new().uint(1000)),
        (
            &[0x1a, 0x00, 0x0f, 0x42, 0x40],
            Writer::new().uint(1_000_000),
        ),
        (
            &[0x1b, 0, 0, 0, 0xe8, 0xd4, 0xa5, 0x10, 0x00],
            Writer::new().uint(1_000_000_000_000),
        ),
        (
            &[0x1b, 255, 255, 255, 255, 255, 255, 255, 255],
            Writer::new().uint(u64::MAX),
        ),
        (&[0xf4], Writer::new().bool(false)),
        (&[0xf5], Writer::new().bool(true)),
        (&[0xf6], Writer::new().nil()),
        (&[0x44, 1, 2, 3, 4], Writer::new().bytes(&[1, 2, 3, 4])),
        (&[0x62, 0xc3, 0xbc, 0x6c][..3], Writer::new().text("ü")),
        (
            &[0x82, 0x01, 0xa1, 0x61, 0x61, 0x02],
            Writer::new().array(2).uint(1).map(1).text("a").uint(2),
        ),
    ];
    for (bytes, writer) in cases {
        assert_eq!(writer.finish(), bytes);
    }
}

#[test]
fn every_size_of_head_is_read_back_and_only_in_its_shortest_form() {
    for value in [
        0,
        23,
        24,
        255,
        256,
        65_535,
        65_536,
        u64::from(u32::MAX),
        1 << 32,
        u64::MAX,
    ] {
        let bytes = Writer::new().uint(value).finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.uint("value").unwrap(), value);
        reader.finish().unwrap();
    }
    let longer: [&[u8]; 4] = [
        &[0x18, 0x17],
        &[0x19, 0, 0xff],
        &[0x1a, 0, 0, 0xff, 0xff],
        &[0x1b, 0, 0, 0, 0, 1, 1, 1, 1],
    ];
    for bytes in longer {
        assert_eq!(
            Reader::new(bytes).uint("value").unwrap_err().code,
            Code::MalformedMessage
        );
    }
}

#[test]
fn lengths_are_shortest_definite_and_within_the_input() {
    let bad: [&[u8]; 9] = [
        &[0x58, 0x01, 0xaa],       // one byte, length not in its shortest form
        &[0x5f, 0x41, 0xaa, 0xff], // indefinite
        &[0x42, 0xaa],             // cut
        &[0x5b, 255, 255, 255, 255, 255, 255, 255, 255], // 2^64 - 1 bytes
        &[0x5b, 127, 255, 255, 255, 255, 255, 255, 255], // 2^63 - 1 bytes
        &[0x61, 0x61],             // a text
        &[0x01],                   // an integer
        &[0xf6],                   // nothing
        &[],
    ];
    for bytes in bad {
        assert_eq!(
            Reader::new(bytes)
                .bytes("value", 0, usize::MAX)
                .unwrap_err()
                .code,
            Code::MalformedMessage
        );
    }
    assert!(
        Reader::new(&[0x98, 0x01, 0x00])
            .array("list", 0, 9)
            .is_err()
    );
    assert!(Reader::new(&[0x9f, 0xff]).array("list", 0, 9).is_err());
    assert!(Reader::new(&[0xbf, 0xff]).map("map", &[]).is_err());
    assert!(Reader::new(&[0xb8, 0x00]).map("map", &[]).is_err());
    assert!(
        Reader::new(&[0x61, 0xff]).text("text", 0, 9).is_err(),
        "not UTF-8"
    );
}

#[test]
fn limits_are_exact() {
    let bytes = Writer::new().bytes(&[7; 10]).finish();
    assert!(Reader::new(&bytes).bytes("value", 10, 10).is_ok());
    assert_eq!(
        Reader::new(&bytes).bytes("value", 0, 9).unwrap_err().code,
        Code::OversizedMessage
    );
    assert_eq!(
        Reader::new(&bytes).bytes("value", 11, 20).unwrap_err().code,
        Code::MalformedMessage
    );
    assert!(Reader::new(&bytes).fixed::<10>("value").is_ok());
    assert!(Reader::new(&bytes).fixed::<9>("value").is_err());
    assert!(Reader::new(&bytes).fixed::<11>("value").is_err());
    let list = Writer::new().array(3).finish();
    assert!(Reader::new(&list).array("list", 3, 3).is_ok());
    assert!(Reader::new(&list).array("list", 0, 2).is_err());
    assert!(Reader::new(&list).array("list", 4, 9).is_err());
    let number = Writer::new().uint(5).finish();
    assert!(Reader::new(&number).uint_within("number", 5, 5).is_ok());
    assert!(Reader::new(&number).uint_within("number", 0, 4).is_err());
    assert!(Reader::new(&number).uint_within("number", 6, 9).is_err());
}

#[test]
fn keys_are_the_expected_ones_in_order() {
    const KEYS: &[&str] = &["a", "b", "cc"];
    let read = |keys: &[&str]| {
        let bytes = keys
            .iter()
            .fold(Writer::new().map(keys.len()), |w, k| w.text(k).nil())
            .finish();
        let mut reader = Reader::new(&bytes);
        reader.map("map", KEYS)?;
        for key in KEYS {
            reader.key(key, KEYS)?;
            assert!(reader.nil());
        }
        reader.finish()
    };
    assert!(read(KEYS).is_ok());
    let cases: [(&[&str], Code); 6] = [
        (&["b", "a", "cc"], Code::MalformedMessage),
        (&["a", "a", "cc"], Code::MalformedMessage),
        (&["a", "b"], Code::MalformedMessage),
        (&["a", "b", "cc", "d"], Code::UnknownField),
        (&["a", "b", "cd"], Code::UnknownField),
        (&["a", "bb", "cc"], Code::UnknownField),
    ];
    for (keys, code) in cases {
        assert_eq!(read(keys).unwrap_err().code, code, "{keys:?}");
    }
}

#[test]
fn trailing_bytes_are_refused() {
    let mut reader = Reader::new(&[0x01, 0x00]);
    reader.uint("value").unwrap();
    assert_eq!(reader.finish().unwrap_err().code, Code::MalformedMessage);
}
