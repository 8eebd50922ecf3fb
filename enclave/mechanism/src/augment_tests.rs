//! Views against moving an image pixel by pixel, and what they depend on.
#![allow(clippy::indexing_slicing)]

use super::*;

const KEY: [u8; 32] = [5; 32];
const SIZE: Size = Size {
    planes: 2,
    height: 4,
    width: 5,
};

fn image() -> Vec<f32> {
    (1..=40).map(|number| number as f32).collect()
}

fn view(key: [u8; 32], step: u64, record: u32, number: u32, list: &[Augmentation]) -> Vec<f32> {
    let (mut out, mut plane) = (image(), [9.0; 20]);
    Augment::new(&key, step).apply(record, number, list, SIZE, &mut out, &mut plane);
    assert_eq!(plane, [0.0; 20]);
    out
}

/// What is at a place of an image, or beyond its border.
fn pixel(image: &[f32], plane: usize, y: i64, x: i64, reflected: bool) -> f32 {
    let inside = |place: i64, size: i64| match place {
        _ if (0..size).contains(&place) => Some(place),
        _ if !reflected => None,
        _ if place < 0 => Some(-place),
        _ => Some(2 * (size - 1) - place),
    };
    match (inside(y, 4), inside(x, 5)) {
        (Some(y), Some(x)) => image[plane * 20 + (y * 5 + x) as usize],
        _ => 0.0,
    }
}

fn moved(image: &[f32], down: i64, across: i64, reflected: bool) -> Vec<f32> {
    let places = (0..40).map(|i| (i / 20, i / 5 % 4, i % 5));
    places
        .map(|(plane, y, x)| {
            let (y, x) = (y as i64 + down, x as i64 + across);
            pixel(image, plane, y, x, reflected)
        })
        .collect()
}

#[test]
fn a_crop_is_the_image_from_another_place() {
    for reflected in [false, true] {
        for padding in 1..=3 {
            let crop = [Augmentation::Crop { padding, reflected }];
            let mut seen = Vec::new();
            for number in 0..400 {
                let mut words: Rows = [[0; LANES]; 16];
                Keystream::new(&KEY, 3, 7).group(number, &mut words);
                let [down, across] = [0, 1].map(|i| {
                    let wide = u64::from(words[0][i]) * (2 * padding as u64 + 1);
                    (wide >> 32) as i64 - padding as i64
                });
                let expected = moved(&image(), down, across, reflected);
                assert_eq!(view(KEY, 3, 7, number, &crop), expected);
                seen.push((down, across));
            }
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), (2 * padding + 1) * (2 * padding + 1));
        }
    }
}

#[test]
fn a_flip_mirrors_half_of_the_views() {
    let mut flipped = 0;
    for number in 0..200 {
        let mut words: Rows = [[0; LANES]; 16];
        Keystream::new(&KEY, 1, 2).group(number, &mut words);
        let mut expected = image();
        if words[0][0] < 1 << 31 {
            expected.chunks_mut(5).for_each(<[f32]>::reverse);
            flipped += 1;
        }
        assert_eq!(view(KEY, 1, 2, number, &[Augmentation::Flip]), expected);
    }
    assert!((70..130).contains(&flipped), "{flipped} of 200");
}

#[test]
fn they_follow_each_other_with_words_of_their_own() {
    let crop = Augmentation::Crop {
        padding: 1,
        reflected: true,
    };
    let both = [Augmentation::Flip, crop];
    for number in 0..50 {
        let mut words: Rows = [[0; LANES]; 16];
        Keystream::new(&KEY, 1, 2).group(number, &mut words);
        let [down, across] = [2, 3].map(|i| ((u64::from(words[0][i]) * 3) >> 32) as i64 - 1);
        let flipped = view(KEY, 1, 2, number, &both[..1]);
        let expected = moved(&flipped, down, across, true);
        assert_eq!(view(KEY, 1, 2, number, &both), expected);
    }
}

#[test]
fn key_step_record_and_view_all_matter_and_the_past_does_not() {
    let crop = [Augmentation::Crop {
        padding: 3,
        reflected: true,
    }; 4];
    let base = view(KEY, 1, 1, 1, &crop);
    assert_ne!(base, view([6; 32], 1, 1, 1, &crop));
    assert_ne!(base, view(KEY, 2, 1, 1, &crop));
    assert_ne!(base, view(KEY, 1, 2, 1, &crop));
    assert_ne!(base, view(KEY, 1, 1, 2, &crop));
    let mut step = Augment::new(&KEY, 1);
    for (record, number) in [(7, 3), (u32::MAX, 0), (1, 1)] {
        let (mut out, mut plane) = (image(), [0.0; 20]);
        step.apply(record, number, &crop, SIZE, &mut out, &mut plane);
        if record == 1 {
            assert_eq!(out, base);
        }
    }
}

#[test]
fn pixels_are_bits_and_stay_so() {
    let odd = f32::from_bits(0x7fa0_1234);
    let mut out = vec![odd; 40];
    let crop = [Augmentation::Crop {
        padding: 2,
        reflected: true,
    }];
    Augment::new(&KEY, 1).apply(1, 1, &crop, SIZE, &mut out, &mut [0.0; 20]);
    assert!(out.iter().all(|pixel| pixel.to_bits() == odd.to_bits()));
}
