//! Masks of dropout layers, as a kernel finds them.

use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

use myelin_boundary::{Memory, ModelArgument};
use myelin_mechanism::{Dropout, dropout};

use super::*;

/// First feature of an example as the model sees it, which tells its record, with its two masks.
type Seen = (f32, Vec<f32>, Vec<f32>);

static SEEN: Mutex<Vec<Seen>> = Mutex::new(Vec::new());

/// Notes every real example, and adds up features as the other tests' kernel.
fn note(arena: &mut Memory<'_>, arguments: &[ModelArgument]) -> bool {
    let [features, mask, wide, narrow, out, contributing] = arguments else {
        return false;
    };
    let rows = |offset, width: usize| {
        let numbers = arena.view::<f32>(offset, MICROBATCH * width).unwrap();
        numbers
            .chunks(width)
            .map(<[f32]>::to_vec)
            .collect::<Vec<_>>()
    };
    let (x, real) = (rows(features.offset, FEATURES), rows(mask.offset, 1));
    let (wide, narrow) = (rows(wide.offset, 300), rows(narrow.offset, 3));
    for row in (0..MICROBATCH).filter(|&row| real[row][0] == 1.0) {
        let seen = (x[row][0], wide[row].clone(), narrow[row].clone());
        SEEN.lock().unwrap().push(seen);
    }
    let arguments = [features, mask, out, contributing].map(Clone::clone);
    sum_features(arena, &arguments)
}

/// What the kernel saw in all steps, in no order: lanes run at once.
fn seen(key: &[u8; 32]) -> Vec<Seen> {
    let keys = StepKeys {
        dropout: key,
        ..KEYS
    };
    let engine = trained_with_masks(plan_with_masks(MULTIPLIER_E9), note, &keys);
    assert_eq!(engine.keys.dropout, [0; 32]);
    let mut seen = core::mem::take(&mut *SEEN.lock().unwrap());
    seen.sort_by(|a, b| a.partial_cmp(b).unwrap());
    seen
}

#[test]
fn every_record_has_its_own_masks_of_every_step() {
    let mut expected: Vec<Seen> = Vec::new();
    for step in 1..=u64::from(STEPS) {
        for record in drawn(step) {
            let (mut wide, mut narrow) = (vec![0.0; 300], vec![0.0; 3]);
            let mut masks = Dropout::new(KEYS.dropout, step);
            masks.fill(record, 0, 3 << 30, dropout::scale(3 << 30), &mut wide);
            masks.fill(record, 2, 1 << 31, 2.0, &mut narrow);
            let first = record as f32 * SCALE[0] as f32 + OFFSET[0] as f32;
            expected.push((first, wide, narrow));
        }
    }
    expected.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert!(expected.len() > CAPACITY);
    assert_eq!(seen(KEYS.dropout), expected);
    assert_ne!(seen(KEYS.noise), expected);
}
