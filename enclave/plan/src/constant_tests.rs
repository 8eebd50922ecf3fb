//! Constants, and every way of making a plan with one wrong.

use alloc::vec;

use super::{Sketch, Wrong};

/// A constant of the shared part, tensor 13, that the step reads.
pub(super) fn constant(s: &mut Sketch) {
    for tensor in &mut s.tensors {
        tensor.0 += if tensor.0 >= s.shared { 64 } else { 0 };
    }
    s.tensors.push((s.shared, 0, vec![2, 2]));
    s.shared += 64;
    s.params.push((13, 0));
    s.step[0].1.push(13);
}

pub(super) const WRONG_CONSTANTS: &[Wrong] = &[
    (
        "a constant that the update writes",
        |s| {
            constant(s);
            s.update.push((1, vec![3], vec![13]));
        },
        "update",
    ),
    (
        "a constant that a batch writes",
        |s| {
            constant(s);
            s.step.push((1, vec![8], vec![13]));
        },
        "tensors",
    ),
    (
        "a constant that is made once a step",
        |s| {
            constant(s);
            s.prepare.push((1, vec![3], vec![13]));
        },
        "prepare",
    ),
    (
        "a constant in a lane",
        |s| {
            constant(s);
            s.tensors[13].0 = s.shared + s.lane;
            s.lane += 64;
        },
        "tensors",
    ),
    (
        "a constant that is state",
        |s| {
            constant(s);
            s.zeroed.push(13);
        },
        "tensors",
    ),
    (
        "a constant that is released",
        |s| {
            constant(s);
            s.parameters[0].1 = 13;
        },
        "tensors",
    ),
    (
        "a constant over a parameter",
        |s| {
            constant(s);
            s.tensors[13].0 = s.tensors[3].0;
        },
        "tensors",
    ),
    (
        "a constant of integers",
        |s| {
            constant(s);
            s.tensors[13].1 = 1;
        },
        "params",
    ),
    (
        "two values of a constant",
        |s| {
            constant(s);
            s.params.push((13, 64));
        },
        "params",
    ),
    (
        "a constant that the update writes under another shape",
        |s| {
            constant(s);
            s.tensors.push((s.tensors[13].0, 0, vec![4]));
            s.update.push((1, vec![3], vec![14]));
        },
        "update",
    ),
    (
        "a constant in place of a parameter in the model",
        |s| {
            constant(s);
            s.released = vec![13];
        },
        "released",
    ),
    (
        "a constant that is a noisy gradient",
        |s| {
            constant(s);
            s.parameters[0].2 = 13;
        },
        "tensors",
    ),
];
