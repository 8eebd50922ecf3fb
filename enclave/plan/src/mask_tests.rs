//! Masks of dropout layers, and every way of making a plan with one wrong.

use alloc::vec;

use super::{Sketch, Wrong};

/// A mask of a quarter's dropout, tensor 13 at the end of the lane, that the step reads.
pub(super) fn masked(s: &mut Sketch) {
    s.tensors.push((s.shared + s.lane, 0, vec![4, 2]));
    s.lane += 64;
    s.masks.push((13, 3 << 30, f64::from(4.0_f32 / 3.0)));
    s.step[0].1.push(13);
}

pub(super) const WRONG_MASKS: &[Wrong] = &[
    (
        "a mask that is no tensor",
        |s| {
            masked(s);
            s.masks[0].0 = 14;
        },
        "masks",
    ),
    (
        "a mask of integers",
        |s| {
            masked(s);
            s.tensors[13].1 = 1;
        },
        "masks",
    ),
    (
        "a mask without a row for every example",
        |s| {
            masked(s);
            s.tensors[13].2 = vec![2, 4];
        },
        "masks",
    ),
    (
        "a mask that keeps nothing",
        |s| {
            masked(s);
            s.masks[0].1 = 0;
        },
        "masks",
    ),
    (
        "a threshold above a word",
        |s| {
            masked(s);
            s.masks[0].1 = 1 << 32;
        },
        "masks",
    ),
    (
        "a scale that is not the threshold's",
        |s| {
            masked(s);
            s.masks[0].2 = f64::from(4.0_f32 / 3.0 + f32::EPSILON);
        },
        "masks",
    ),
    (
        "a scale that is no float32",
        |s| {
            masked(s);
            s.masks[0].2 = 4.0 / 3.0;
        },
        "masks",
    ),
    (
        "a mask larger than the stream of its words",
        |s| {
            masked(s);
            // Of one example: 2^28 numbers are as many as an arena has, and four times 2^26 groups too many.
            s.dp[2] = 1;
            s.dp[1] = 2;
            for place in [0, 1, 2, 7, 8] {
                s.tensors[place].2[0] = 1;
            }
            s.ranges = [vec![0.0], vec![1.0], vec![2.0], vec![-1.0]];
            s.masks = vec![(13, 3 << 30, f64::from(4.0_f32 / 3.0)); 1024];
            s.tensors[13].2 = vec![1, 1 << 26];
            s.lane += 1 << 28;
        },
        "masks",
    ),
    (
        "a mask that a kernel writes",
        |s| {
            masked(s);
            s.step.push((1, vec![8], vec![13]));
        },
        "step",
    ),
    (
        "a mask that a kernel writes under another shape",
        |s| {
            masked(s);
            s.tensors.push((s.tensors[13].0, 0, vec![8]));
            s.step.push((1, vec![8], vec![14]));
        },
        "step",
    ),
    (
        "a mask that is prepared",
        |s| {
            masked(s);
            s.prepare.push((1, vec![3], vec![13]));
        },
        "tensors",
    ),
    (
        "a mask that the update writes",
        |s| {
            masked(s);
            s.update.push((1, vec![3], vec![13]));
        },
        "update",
    ),
    (
        "a mask that the update reads",
        |s| {
            masked(s);
            s.update[1].1.push(13);
        },
        "update",
    ),
    (
        "a mask that lanes share",
        |s| {
            masked(s);
            for tensor in &mut s.tensors {
                tensor.0 += if tensor.0 >= s.shared { 64 } else { 0 };
            }
            s.tensors[13].0 = s.shared;
            s.shared += 64;
        },
        "tensors",
    ),
    (
        "two layers with one mask",
        |s| {
            masked(s);
            s.masks.push(s.masks[0]);
        },
        "tensors",
    ),
    (
        "a mask over the features",
        |s| {
            masked(s);
            s.masks[0].0 = 0;
        },
        "tensors",
    ),
    (
        "a mask that is the clipped sum",
        |s| {
            masked(s);
            s.tensors[13].2 = vec![4];
            s.tensors[4].0 = s.tensors[13].0;
            s.tensors[4].2 = vec![4];
            s.tensors[3].2 = vec![4];
            s.tensors[5].2 = vec![4];
            s.tensors[6].2 = vec![4];
        },
        "tensors",
    ),
    (
        "a mask that is a parameter",
        |s| {
            masked(s);
            s.params.push((13, 0));
        },
        "tensors",
    ),
];
