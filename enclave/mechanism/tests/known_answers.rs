//! Sampler, noise, dropout and views against known answers of independent references (`tests/privacy/known_answers.py`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use myelin_mechanism::augment::Size;
use myelin_mechanism::{Augment, Augmentation, Dropout, Sampler, dropout, noise};

const ANSWERS: &str = include_str!("known_answers.txt");

fn key(hex: &str) -> [u8; 32] {
    core::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
}

fn numbers<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> Vec<T> {
    text.split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect()
}

fn augmentation(text: &str) -> Augmentation {
    match text.split_once(',') {
        None => Augmentation::Flip,
        Some((name, padding)) => Augmentation::Crop {
            padding: padding.parse().unwrap(),
            reflected: name == "reflected-crop",
        },
    }
}

/// The pixels of a view of an image of 1, 2, 3, … that has as many as `values`.
fn view(fields: &[&str], values: &str) -> Vec<u32> {
    let [hex, step, record, view, planes, height, width, list @ ..] = fields else {
        panic!("unreadable view: {fields:?}");
    };
    let list: Vec<Augmentation> = list.iter().map(|one| augmentation(one)).collect();
    let [planes, height, width] = [planes, height, width].map(|n| n.parse().unwrap());
    let size = Size {
        planes,
        height,
        width,
    };
    let count = values.split_whitespace().count();
    let mut image: Vec<f32> = (1..=count).map(|n| n as f32).collect();
    Augment::new(&key(hex), step.parse().unwrap()).apply(
        record.parse().unwrap(),
        view.parse().unwrap(),
        &list,
        size,
        &mut image,
        &mut vec![0.0; height * width],
    );
    image.iter().map(|&pixel| pixel as u32).collect()
}

#[test]
fn equal_to_the_references() {
    let (mut noises, mut samples, mut masks, mut views) = (0, 0, 0, 0);
    for line in ANSWERS.lines().filter(|line| !line.starts_with('#')) {
        let (head, values) = line.split_once(" : ").unwrap();
        let fields: Vec<&str> = head.split(' ').collect();
        match fields[..] {
            ["noise", hex, step, first] => {
                let expected: Vec<i32> = numbers(values);
                let mut drawn = vec![0; expected.len()];
                noise::fill(
                    &key(hex),
                    step.parse().unwrap(),
                    first.parse().unwrap(),
                    &mut drawn,
                );
                assert_eq!(drawn, expected, "{head}");
                noises += 1;
            }
            ["sample", hex, step, records, threshold, count] => {
                let expected: Vec<u32> = numbers(values);
                let mut slots = vec![0; expected.len()];
                let drawn = Sampler::draw(
                    &key(hex),
                    step.parse().unwrap(),
                    records.parse().unwrap(),
                    threshold.parse().unwrap(),
                    expected.len() as u32,
                    &mut slots,
                    &mut [],
                );
                assert_eq!(slots, expected, "{head}");
                assert_eq!(drawn.to_string(), count, "{head}");
                samples += 1;
            }
            ["mask", hex, step, record, group, threshold] => {
                let expected: Vec<u32> = numbers(values);
                let threshold: u32 = threshold.parse().unwrap();
                let mut mask = vec![f32::NAN; expected.len()];
                Dropout::new(&key(hex), step.parse().unwrap()).fill(
                    record.parse().unwrap(),
                    group.parse().unwrap(),
                    threshold,
                    dropout::scale(threshold),
                    &mut mask,
                );
                let bits: Vec<u32> = mask.iter().map(|value| value.to_bits()).collect();
                assert_eq!(bits, expected, "{head}");
                masks += 1;
            }
            ["view", ref fields @ ..] => {
                assert_eq!(view(fields, values), numbers::<u32>(values), "{head}");
                views += 1;
            }
            _ => panic!("unreadable line: {line}"),
        }
    }
    assert_eq!((noises, samples, masks, views), (7, 7, 5, 4));
}
