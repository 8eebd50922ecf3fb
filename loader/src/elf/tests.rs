#![allow(clippy::indexing_slicing, clippy::expect_used)]

use super::{Image, parse};
use crate::refusal::Reason;
use myelin_abi::{IMAGE_BASE, IMAGE_END_LIMIT, PAGE_BYTES};

const TEXT: usize = 64;
const DATA: usize = 64 + 56;
const STACK: usize = 64 + 2 * 56;
const SECTIONS: usize = 64 + 3 * 56;
const NAMES: &[u8] = b"\0.shstrtab\0.myelin.manifest\0";
const MANIFEST: &[u8] = b"\xa1\x66target\x69x86-64-v3";

/// The smallest image: code, data with zeroes behind it, a stack note, a manifest.
fn image() -> Vec<u8> {
    let mut file = vec![0; 0x2000];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    for (offset, value) in [(16, 2_u16), (18, 62), (52, 64), (54, 56), (56, 3), (58, 64), (60, 3), (62, 1)] {
        put(&mut file, offset, &value.to_le_bytes());
    }
    put(&mut file, 20, &1_u32.to_le_bytes());
    for (offset, value) in [(24, IMAGE_BASE), (32, 64), (40, SECTIONS as u64)] {
        put(&mut file, offset, &value.to_le_bytes());
    }
    segment(&mut file, TEXT, [1, 5], [0x1000, IMAGE_BASE, IMAGE_BASE, 16, 16, 0x1000]);
    segment(&mut file, DATA, [1, 6], [0x1010, IMAGE_BASE + 0x1000, IMAGE_BASE + 0x1000, 8, 0x5001, 0x1000]);
    segment(&mut file, STACK, [0x6474_e551, 6], [0; 6]);
    section(&mut file, 1, 1, 3, 0x1800, NAMES);
    section(&mut file, 2, 11, 1, 0x1900, MANIFEST);
    file
}

fn put(file: &mut [u8], offset: usize, bytes: &[u8]) {
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn segment(file: &mut [u8], row: usize, words: [u32; 2], values: [u64; 6]) {
    for (index, word) in words.into_iter().enumerate() {
        put(file, row + 4 * index, &word.to_le_bytes());
    }
    for (index, value) in values.into_iter().enumerate() {
        put(file, row + 8 + 8 * index, &value.to_le_bytes());
    }
}

fn section(file: &mut [u8], index: usize, name: u32, kind: u32, offset: usize, content: &[u8]) {
    let row = SECTIONS + 64 * index;
    put(file, row, &name.to_le_bytes());
    put(file, row + 4, &kind.to_le_bytes());
    put(file, row + 24, &(offset as u64).to_le_bytes());
    put(file, row + 32, &(content.len() as u64).to_le_bytes());
    put(file, offset, content);
}

fn refused(change: impl Fn(&mut Vec<u8>), said: &str) {
    let mut file = image();
    change(&mut file);
    let refusal = parse(&file).expect_err(said);
    assert_eq!(refusal.reason, Reason::ImageMalformed);
    assert!(refusal.message.contains(said), "{:?} does not say {said:?}", refusal.message);
}

fn at<const N: usize>(offset: usize, bytes: [u8; N]) -> impl Fn(&mut Vec<u8>) {
    move |file| put(file, offset, &bytes)
}

#[test]
fn the_smallest_image_is_read() {
    let file = image();
    let image = parse(&file).expect("well formed");
    assert_eq!((image.entry, image.segments.len(), image.memory_bytes()), (IMAGE_BASE, 2, 0x7000));
    assert_eq!(image.manifest, MANIFEST);
    let [text, data] = &image.segments[..] else { unreachable!() };
    assert!(text.execute && !text.write && data.write && !data.execute);
    assert_eq!((data.file_offset, data.file_bytes, data.memory_bytes), (0x1010, 8, 0x6000));
}

#[test]
fn headers_of_other_files_are_refused() {
    refused(|file| file.truncate(63), "ELF header");
    refused(at(0, *b"MZ"), "not an ELF file");
    refused(at(4, [1]), "not an ELF file");
    refused(at(7, [9]), "e_ident");
    refused(at(16, [3]), "e_type");
    refused(at(18, [183]), "e_machine");
    refused(at(20, [2]), "e_version");
    refused(at(54, [55]), "e_phentsize");
    refused(at(56, [0]), "e_phnum");
    refused(at(56, [33]), "e_phnum");
    refused(at(32, [0xff; 8]), "program header table");
}

#[test]
fn segments_outside_the_form_are_refused() {
    refused(at(TEXT + 4, [7]), "writable and executable");
    refused(at(DATA + 4, [7]), "writable and executable");
    refused(at(DATA + 4, [2]), "flags");
    refused(at(DATA + 4, [14]), "flags");
    refused(at(STACK + 4, [7]), "stack is marked executable");
    for kind in [2_u32, 3, 7, 0x6474_e552] {
        refused(at(STACK, kind.to_le_bytes()), "has type");
    }
    refused(at(DATA + 16, [1]), "p_vaddr");
    refused(at(DATA + 16, IMAGE_BASE.to_le_bytes()), "overlaps");
    refused(at(DATA + 16, (IMAGE_BASE - PAGE_BYTES).to_le_bytes()), "outside 0x10000000");
    refused(at(DATA + 16, (IMAGE_END_LIMIT - PAGE_BYTES).to_le_bytes()), "outside 0x10000000");
    refused(at(DATA + 40, (1_u64 << 40).to_le_bytes()), "outside 0x10000000");
    refused(at(DATA + 40, u64::MAX.to_le_bytes()), "wraps around");
    refused(at(DATA + 40, 7_u64.to_le_bytes()), "in the file");
    refused(at(DATA + 8, u64::MAX.to_le_bytes()), "outside the");
    refused(at(TEXT + 32, 0x1001_u64.to_le_bytes()), "in the file");
}

#[test]
fn an_entry_outside_code_is_refused() {
    refused(at(24, (IMAGE_BASE + 16).to_le_bytes()), "e_entry");
    refused(at(24, (IMAGE_BASE + 0x1000).to_le_bytes()), "e_entry");
    refused(at(24, 0_u64.to_le_bytes()), "e_entry");
}

#[test]
fn a_manifest_that_cannot_be_trusted_to_be_the_one_is_refused() {
    refused(at(60, [0]), "e_shnum");
    refused(at(62, [3]), "e_shstrndx");
    refused(at(SECTIONS + 128, [12]), "no section");
    refused(at(SECTIONS + 64, [11]), "two sections");
    refused(at(SECTIONS + 128 + 4, [8]), "must be in the file");
    refused(at(SECTIONS + 128 + 8, [2]), "must be in the file");
    refused(at(SECTIONS + 128 + 32, (5_u64 << 20).to_le_bytes()), "outside the");
}

/// What the mapping relies on, for whatever the parser accepts.
fn assert_sound(file: &[u8], image: &Image<'_>) {
    let mut end = IMAGE_BASE;
    for segment in &image.segments {
        assert!(segment.address >= end && segment.address % PAGE_BYTES == 0 && segment.memory_bytes % PAGE_BYTES == 0);
        end = segment.end();
        assert!(end <= IMAGE_END_LIMIT && !(segment.write && segment.execute));
        assert!(segment.file_bytes as u64 <= segment.memory_bytes);
        assert!(segment.file_offset + segment.file_bytes <= file.len());
    }
    let runs = |s: &super::Segment| s.execute && (s.address..s.address + s.file_bytes as u64).contains(&image.entry);
    assert!(image.segments.iter().any(runs));
}

#[test]
fn nothing_that_is_accepted_is_unsound() {
    // A fixed seed (xorshift64): bytes of the headers are overwritten, one to four at a time, and the file is cut.
    let (mut state, mut accepted) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    let mut draw = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    };
    for _ in 0..200_000 {
        let mut file = image();
        for _ in 0..1 + draw(4) {
            let value = [0, 1, 0x7f, 0x80, 0xff, draw(256) as u8][draw(6)];
            file[draw(SECTIONS + 3 * 64)] = value;
        }
        if draw(8) == 0 {
            file.truncate(draw(0x2000));
        }
        if let Ok(image) = parse(&file) {
            accepted += 1;
            assert_sound(&file, &image);
        }
    }
    assert!(accepted > 1000, "only {accepted} accepted: the changes do not reach past the first checks");
}
