//! Views of records, and every way of making a plan with one wrong.

use alloc::vec;

use super::{Sketch, Wrong};

/// Records that are images of 2×2, each of which has four views: a physical batch is one record.
pub(super) fn viewed(s: &mut Sketch) {
    augmented(s);
    s.views = 4;
    s.dp[2] = 1;
    s.tensors[2].2 = vec![1];
    s.tensors[7].2 = vec![1];
}

/// The same images, one view each.
pub(super) fn augmented(s: &mut Sketch) {
    s.feature_count = 4;
    s.record_bytes = 20;
    s.ranges = [vec![0.0], vec![1.0], vec![2.0], vec![-1.0]];
    s.tensors[0].2 = vec![4, 1, 2, 2];
    s.tensors[11].2 = vec![16];
    s.augment = vec![
        ("flip", vec![]),
        ("crop", vec![1]),
        ("reflected-crop", vec![1]),
    ];
}

pub(super) const WRONG_VIEWS: &[Wrong] = &[
    ("no view", |s| s.views = 0, "views"),
    (
        "more views than there may be",
        |s| {
            viewed(s);
            s.views = 1025;
        },
        "views",
    ),
    (
        "views that are all the same",
        |s| {
            viewed(s);
            s.augment = vec![];
        },
        "views",
    ),
    (
        "views of several records in a batch",
        |s| {
            viewed(s);
            s.views = 2;
            s.dp[2] = 2;
            s.tensors[2].2 = vec![2];
            s.tensors[7].2 = vec![2];
        },
        "views",
    ),
    (
        "a row for each record and not for each view",
        |s| {
            viewed(s);
            s.views = 5;
        },
        "features",
    ),
    (
        "a label for each record and not for each view",
        |s| {
            viewed(s);
            s.tensors[1].2 = vec![1];
        },
        "labels",
    ),
    (
        "a mask for each view and not for each record",
        |s| {
            viewed(s);
            s.tensors[2].2 = vec![4];
        },
        "mask",
    ),
    (
        "a flag for each view and not for each record",
        |s| {
            viewed(s);
            s.tensors[7].2 = vec![4];
        },
        "contributing",
    ),
    (
        "augmented vectors",
        |s| s.augment = vec![("flip", vec![])],
        "augment",
    ),
    (
        "an augmentation that nobody knows",
        |s| {
            augmented(s);
            s.augment[0].0 = "turn";
        },
        "augment",
    ),
    (
        "a flip with a number",
        |s| {
            augmented(s);
            s.augment[0].1 = vec![1];
        },
        "augment",
    ),
    (
        "a crop without a number",
        |s| {
            augmented(s);
            s.augment[1].1 = vec![];
        },
        "augment",
    ),
    (
        "a crop with two numbers",
        |s| {
            augmented(s);
            s.augment[1].1 = vec![1, 1];
        },
        "augment",
    ),
    (
        "a crop that moves nothing",
        |s| {
            augmented(s);
            s.augment[1].1 = vec![0];
        },
        "augment",
    ),
    (
        "a crop that moves the image out of sight",
        |s| {
            augmented(s);
            s.augment[2].1 = vec![2];
        },
        "augment",
    ),
    (
        "more augmentations than there may be",
        |s| {
            augmented(s);
            s.augment = vec![("flip", vec![]); 9];
        },
        "augment",
    ),
];
