//! The plan of the engine's tests, encoded as the builder does.

use alloc::vec::Vec;

use minicbor::Encoder;

use super::{BATCH, CAPACITY, FEATURES, GRID, LANES, MICROBATCH, OFFSET, SCALE, STEPS, THRESHOLD};

/// Place in lines of 64 bytes, type and shape of the tensors: 0 features, 1 labels, 2 mask, 3 value, 4 sum, 5 noisy,
/// 6 contributing, 7 step number. The first three lines are shared.
const TENSORS: [(u64, u64, &[u64]); 8] = [
    (3, 0, &[4, 3]),
    (4, 1, &[4]),
    (5, 0, &[4]),
    (0, 0, &[3]),
    (6, 0, &[3]),
    (1, 0, &[3]),
    (7, 1, &[4]),
    (2, 1, &[1]),
];

/// Behind them the masks of two dropout layers.
const MASKS: [(u64, u64, &[u64]); 2] = [(8, 0, &[4, 300]), (83, 0, &[4, 3])];

/// Bytes of a lane with both.
pub(super) const LANE_WITH_MASKS: u64 = 64 * 81;

/// A writer of CBOR in the few forms that a plan has.
struct Plan<'a>(Encoder<&'a mut Vec<u8>>);

impl Plan<'_> {
    fn map(&mut self, key: &str, entries: u64) {
        self.0.str(key).unwrap().map(entries).unwrap();
    }

    fn numbers(&mut self, entries: &[(&str, u64)]) {
        for (key, value) in entries {
            self.0.str(key).unwrap().u64(*value).unwrap();
        }
    }

    fn list(&mut self, items: &[u64]) {
        self.0.array(items.len() as u64).unwrap();
        for &item in items {
            self.0.u64(item).unwrap();
        }
    }

    fn floats(&mut self, key: &str, items: &[f64]) {
        self.0.str(key).unwrap().array(items.len() as u64).unwrap();
        for &item in items {
            self.0.f64(item).unwrap();
        }
    }

    fn call(&mut self, key: &str, kernel: u64, inputs: &[u64], outputs: &[u64]) {
        self.0.str(key).unwrap().array(1).unwrap().array(3).unwrap();
        self.0.u64(kernel).unwrap();
        self.list(inputs);
        self.list(outputs);
    }

    fn dp(&mut self, noise_multiplier_e9: u64, views: u64) {
        self.map("dp", 13);
        self.0.str("grid").unwrap().f64(GRID).unwrap();
        self.numbers(&[("steps", STEPS.into()), ("views", views)]);
        self.0.str("augment").unwrap();
        if views == 1 {
            self.list(&[]);
        } else {
            self.0.array(1).unwrap().array(1).unwrap();
            self.0.str("flip").unwrap();
        }
        self.numbers(&[("capacity", CAPACITY as u64)]);
        self.0.str("clipping").unwrap().array(1).unwrap();
        self.0.str("flat").unwrap();
        self.numbers(&[("microbatch", MICROBATCH as u64 / views)]);
        self.0.str("correlation").unwrap();
        self.list(&[]);
        self.numbers(&[
            ("sensitivity_e9", 1_000_000_000),
            ("clipping_norm_e9", 1_000_000_000),
            ("sampling_threshold", THRESHOLD),
            ("expected_batch_size", BATCH),
            ("noise_multiplier_e9", noise_multiplier_e9),
        ]);
    }

    fn data(&mut self, feature_dtype: u64, target: Option<[f64; 4]>) {
        self.map("data", 11);
        self.floats("lower", &[0.0]);
        self.floats("scale", &SCALE);
        self.floats("upper", &[250.0]);
        self.floats("offset", &OFFSET);
        self.0.str("target").unwrap();
        match target {
            None => self.0.null(),
            Some(_) => self.0.array(4),
        }
        .unwrap();
        for value in target.into_iter().flatten() {
            self.0.f64(value).unwrap();
        }
        self.numbers(&[
            ("classes", if target.is_some() { 0 } else { 2 }),
            ("features", FEATURES as u64),
            ("oblivious", 0),
            ("max_records", 20),
            ("record_bytes", if feature_dtype == 2 { 7 } else { 16 }),
            ("feature_dtype", feature_dtype),
        ]);
    }

    fn roles(&mut self, masks: &[(u64, u64, f64)]) {
        self.map("roles", 9);
        self.numbers(&[("mask", 2)]);
        self.0
            .str("masks")
            .unwrap()
            .array(masks.len() as u64)
            .unwrap();
        for &(tensor, threshold, scale) in masks {
            self.0.array(3).unwrap().u64(tensor).unwrap();
            self.0.u64(threshold).unwrap().f64(scale).unwrap();
        }
        self.0.str("norms").unwrap().null().unwrap();
        self.numbers(&[("labels", 1)]);
        self.0.str("zeroed").unwrap().array(0).unwrap();
        self.numbers(&[("features", 0)]);
        self.0
            .str("parameters")
            .unwrap()
            .array(1)
            .unwrap()
            .map(5)
            .unwrap();
        self.0.str("name").unwrap().str("w").unwrap();
        self.numbers(&[
            ("value", 3),
            ("released", 3),
            ("clipped_sum", 4),
            ("noisy_gradient", 5),
        ]);
        self.numbers(&[("step_number", 7), ("contributing", 6)]);
    }
}

/// A plan whose update is kernel `update_kernel`.
pub(super) fn plan(feature_dtype: u64, update_kernel: u64, noise_multiplier_e9: u64) -> Vec<u8> {
    plan_with_target(feature_dtype, update_kernel, noise_multiplier_e9, None)
}

/// The same for records whose label is a number, with its lower, upper, scale and offset.
pub(super) fn plan_with_target(
    feature_dtype: u64,
    update_kernel: u64,
    noise_multiplier_e9: u64,
    target: Option<[f64; 4]>,
) -> Vec<u8> {
    let call: [&[u64]; 2] = [&[0, 2], &[4, 6]];
    let kernels = (update_kernel, noise_multiplier_e9);
    encode(feature_dtype, kernels, target, call, &[], 1)
}

/// The first plan with two dropout layers of the features, whose masks kernel 0 gets too: tensors 8 and 9, of thresholds
/// `3 << 30` and `1 << 31`.
pub(super) fn plan_with_masks(noise_multiplier_e9: u64) -> Vec<u8> {
    let call: [&[u64]; 2] = [&[0, 2, 8, 9], &[4, 6]];
    let masks = [(8, 3 << 30, f64::from(4.0_f32 / 3.0)), (9, 1 << 31, 2.0)];
    encode(0, (1, noise_multiplier_e9), None, call, &masks, 1)
}

/// The same with features that are images of one row, of which every record has four views: a physical batch is one record.
pub(super) fn plan_with_views(noise_multiplier_e9: u64) -> Vec<u8> {
    let call: [&[u64]; 2] = [&[0, 2, 8, 9], &[4, 6]];
    let masks = [(8, 3 << 30, f64::from(4.0_f32 / 3.0)), (9, 1 << 31, 2.0)];
    encode(0, (1, noise_multiplier_e9), None, call, &masks, 4)
}

fn encode(
    feature_dtype: u64,
    (update_kernel, noise_multiplier_e9): (u64, u64),
    target: Option<[f64; 4]>,
    [inputs, outputs]: [&[u64]; 2],
    masks: &[(u64, u64, f64)],
    views: u64,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut p = Plan(Encoder::new(&mut bytes));
    p.0.map(14).unwrap();
    p.dp(noise_multiplier_e9, views);
    p.data(feature_dtype, target);
    p.call("step", 0, inputs, outputs);
    p.numbers(&[("lanes", LANES as u64)]);
    p.roles(masks);
    p.0.str("params").unwrap().array(1).unwrap();
    p.list(&[3, 0]);
    p.call("update", update_kernel, &[7, 3, 5], &[3]);
    p.numbers(&[("kernels", 3)]);
    p.0.str("prepare").unwrap().array(0).unwrap();
    let tensors = TENSORS.len() + masks.len();
    p.0.str("tensors").unwrap().array(tensors as u64).unwrap();
    for (index, (line, dtype, shape)) in TENSORS.iter().chain(&MASKS).take(tensors).enumerate() {
        let dtype = if index == 1 && target.is_some() {
            0
        } else {
            *dtype
        };
        p.0.array(3).unwrap();
        p.0.u64(64 * line).unwrap().u64(dtype).unwrap();
        match index {
            0 if views > 1 => p.list(&[4, 1, 1, 3]),
            2 | 6 => p.list(&[4 / views]),
            _ => p.list(shape),
        }
    }
    let lane = if masks.is_empty() {
        320
    } else {
        LANE_WITH_MASKS
    };
    p.numbers(&[("version", 6), ("lane_bytes", lane)]);
    let header = b"\x02\0\0\0\0\0\0\0{}";
    p.0.str("model_header").unwrap().bytes(header).unwrap();
    p.numbers(&[("shared_bytes", 192)]);
    bytes
}
