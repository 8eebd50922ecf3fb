//! Views of records, as a kernel finds them.

use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

use myelin_boundary::{Memory, ModelArgument};
use myelin_mechanism::augment::Size;
use myelin_mechanism::{Augment, Augmentation, Dropout, dropout};

use super::*;

/// A record's four views, one after the other, with the masks of both layers for each.
type Seen = [Vec<f32>; 3];

static SEEN: Mutex<Vec<Seen>> = Mutex::new(Vec::new());

/// Notes every real record; its gradient is zero.
fn note(arena: &mut Memory<'_>, arguments: &[ModelArgument]) -> bool {
    let [features, mask, wide, narrow, out, contributing] = arguments else {
        return false;
    };
    let rows = |offset, width: usize| arena.view::<f32>(offset, 4 * width).unwrap().to_vec();
    let seen = [
        rows(features.offset, FEATURES),
        rows(wide.offset, 300),
        rows(narrow.offset, 3),
    ];
    if arena.view::<f32>(mask.offset, 1).unwrap()[0] == 1.0 {
        SEEN.lock().unwrap().push(seen);
    }
    arena
        .view_mut::<f32>(out.offset, FEATURES)
        .unwrap()
        .fill(0.0);
    arena.view_mut::<i32>(contributing.offset, 1).unwrap()[0] = 1;
    true
}

/// What the kernel saw in all steps, in no order: lanes run at once.
fn seen(keys: &StepKeys<'_>) -> Vec<Seen> {
    let engine = trained_with_masks(plan_with_views(MULTIPLIER_E9), note, keys);
    assert_eq!(engine.keys.augment, [0; 32]);
    let mut seen = core::mem::take(&mut *SEEN.lock().unwrap());
    seen.sort_by(|a, b| a.partial_cmp(b).unwrap());
    seen
}

/// Of a record at a step, by hand.
fn expected(step: u64, record: u32) -> Seen {
    let size = Size {
        planes: 1,
        height: 1,
        width: 3,
    };
    let raw = dataset()[record as usize];
    let own: Vec<f32> = (0..3)
        .map(|i| raw[i] * SCALE[i] as f32 + OFFSET[i] as f32)
        .collect();
    let (mut views, mut wide, mut narrow) = (Vec::new(), vec![0.0; 1200], vec![0.0; 12]);
    let mut masks = Dropout::new(KEYS.dropout, step);
    for view in 0..4 {
        let mut image = own.clone();
        let list = [Augmentation::Flip];
        Augment::new(KEYS.augment, step).apply(
            record,
            view,
            &list,
            size,
            &mut image,
            &mut [0.0; 3],
        );
        views.extend(image);
        // Two groups for the layer of 300, one for that of 3.
        let (i, group) = (view as usize, 3 * view);
        let part = &mut wide[300 * i..][..300];
        masks.fill(record, group, 3 << 30, dropout::scale(3 << 30), part);
        masks.fill(record, group + 2, 1 << 31, 2.0, &mut narrow[3 * i..][..3]);
    }
    [views, wide, narrow]
}

#[test]
fn every_record_has_its_own_views_of_every_step() {
    let mut all: Vec<Seen> = Vec::new();
    for step in 1..=u64::from(STEPS) {
        all.extend(drawn(step).map(|record| expected(step, record)));
    }
    all.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert!(all.len() > CAPACITY);
    assert_eq!(seen(&KEYS), all);
    // Half of the views are mirrored, and not the same of each record.
    let mirrored = |views: &[f32]| views.chunks(3).filter(|row| row[0] == 0.75).count();
    let counts: Vec<usize> = all.iter().map(|[views, _, _]| mirrored(views)).collect();
    assert!(counts.iter().max() > counts.iter().min());
    let other = StepKeys {
        augment: KEYS.dropout,
        ..KEYS
    };
    assert_ne!(seen(&other), all);
}
