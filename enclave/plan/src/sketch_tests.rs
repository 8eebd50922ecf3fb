//! A small plan that is right, easy to change, and encoded as the builder does.

use alloc::vec::Vec;

use minicbor::Encoder;

/// What the tests change. Encoded as the builder does.
#[derive(Clone)]
pub(super) struct Sketch {
    pub(super) shared: u64,
    pub(super) lane: u64,
    pub(super) lanes: u64,
    pub(super) tensors: Vec<(u64, u64, Vec<u64>)>,
    pub(super) prepare: Vec<(u64, Vec<u64>, Vec<u64>)>,
    pub(super) step: Vec<(u64, Vec<u64>, Vec<u64>)>,
    pub(super) update: Vec<(u64, Vec<u64>, Vec<u64>)>,
    pub(super) kernels: u64,
    pub(super) version: u64,
    pub(super) params: Vec<(u64, u64)>,
    pub(super) zeroed: Vec<u64>,
    pub(super) parameters: Vec<(u64, u64, u64)>,
    /// Where there is none: the value.
    pub(super) released: Vec<u64>,
    pub(super) features: u64,
    pub(super) labels: u64,
    pub(super) mask: u64,
    pub(super) masks: Vec<(u64, u64, f64)>,
    pub(super) contributing: Option<u64>,
    pub(super) norms: Option<u64>,
    pub(super) step_number: Option<u64>,
    pub(super) header: Vec<u8>,
    pub(super) feature_dtype: u64,
    pub(super) feature_count: u64,
    pub(super) classes: u64,
    pub(super) target: Option<[f64; 4]>,
    pub(super) oblivious: u64,
    pub(super) max_records: u64,
    pub(super) record_bytes: u64,
    pub(super) ranges: [Vec<f64>; 4],
    pub(super) dp: [u64; 8],
    pub(super) grid: f64,
    pub(super) clipping: (&'static str, Vec<u64>),
    pub(super) correlation: Vec<u64>,
    pub(super) augment: Vec<(&'static str, Vec<u64>)>,
    pub(super) views: u64,
}

/// Steps, capacity, microbatch, sensitivity, clipping norm, threshold, batch size, noise multiplier.
const DP: [u64; 8] = [
    5,
    7,
    4,
    1_100_000_000,
    1_000_000_000,
    1 << 60,
    3,
    2_000_000_000,
];

/// Two features, two classes, one parameter of shape `[2, 2]`, microbatch 4, momentum.
///
/// Tensors: 0 features, 1 labels, 2 mask, 3 value, 4 clipped sum, 5 noisy gradient, 6 momentum, 7 contributing, 8 and 9
/// temporaries in the same bytes, 10 step number, 11 the features flat, 12 the value transposed. Shared are 3, 5, 6, 10, 12.
pub(super) fn sketch() -> Sketch {
    let at = |slot: u64| slot * 64;
    Sketch {
        shared: at(5),
        lane: at(6),
        lanes: 2,
        tensors: vec![
            (at(5), 0, vec![4, 2]),
            (at(6), 1, vec![4]),
            (at(7), 0, vec![4]),
            (at(0), 0, vec![2, 2]),
            (at(8), 0, vec![2, 2]),
            (at(1), 0, vec![2, 2]),
            (at(2), 0, vec![2, 2]),
            (at(9), 1, vec![4]),
            (at(10), 0, vec![4, 2]),
            (at(10), 0, vec![2]),
            (at(3), 1, vec![1]),
            (at(5), 0, vec![8]),
            (at(4), 0, vec![2, 2]),
        ],
        prepare: vec![(2, vec![3], vec![12])],
        step: vec![
            (0, vec![0, 12], vec![8]),
            (1, vec![8, 1, 2], vec![4, 7]),
            (2, vec![4, 11], vec![9]),
            (0, vec![9, 4], vec![4]),
        ],
        update: vec![(2, vec![10, 6, 5], vec![6]), (1, vec![3, 6], vec![3])],
        kernels: 3,
        version: 6,
        params: vec![(3, 64)],
        zeroed: vec![6],
        parameters: vec![(3, 4, 5)],
        released: vec![],
        features: 0,
        labels: 1,
        mask: 2,
        masks: vec![],
        contributing: Some(7),
        norms: None,
        step_number: Some(10),
        header: {
            let mut header = 2_u64.to_le_bytes().to_vec();
            header.extend(b"{}");
            header
        },
        feature_dtype: 0,
        feature_count: 2,
        classes: 2,
        target: None,
        oblivious: 0,
        max_records: 10,
        record_bytes: 12,
        ranges: [vec![0.0, -1.0], vec![1.0, 1.0], vec![2.0], vec![-1.0]],
        dp: DP,
        grid: 0.125,
        clipping: ("flat", vec![]),
        correlation: vec![],
        augment: vec![],
        views: 1,
    }
}

pub(super) const PARAMS_BYTES: usize = 128;

fn list(e: &mut Encoder<&mut Vec<u8>>, items: &[u64]) {
    e.array(items.len() as u64).unwrap();
    for &item in items {
        e.u64(item).unwrap();
    }
}

fn calls(e: &mut Encoder<&mut Vec<u8>>, calls: &[(u64, Vec<u64>, Vec<u64>)]) {
    e.array(calls.len() as u64).unwrap();
    for (kernel, inputs, outputs) in calls {
        e.array(3).unwrap().u64(*kernel).unwrap();
        list(e, inputs);
        list(e, outputs);
    }
}

fn optional(e: &mut Encoder<&mut Vec<u8>>, key: &str, index: Option<u64>) {
    e.str(key).unwrap();
    match index {
        Some(index) => e.u64(index).unwrap(),
        None => e.null().unwrap(),
    };
}

pub(super) fn encode(s: &Sketch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes);
    let e = &mut encoder;
    e.map(14).unwrap();
    encode_dp_and_data(e, s);
    e.str("step").unwrap();
    calls(e, &s.step);
    e.str("lanes").unwrap().u64(s.lanes).unwrap();
    e.str("roles").unwrap().map(9).unwrap();
    e.str("mask").unwrap().u64(s.mask).unwrap();
    e.str("masks").unwrap().array(s.masks.len() as u64).unwrap();
    for &(tensor, threshold, scale) in &s.masks {
        e.array(3).unwrap().u64(tensor).unwrap();
        e.u64(threshold).unwrap().f64(scale).unwrap();
    }
    optional(e, "norms", s.norms);
    e.str("labels").unwrap().u64(s.labels).unwrap();
    e.str("zeroed").unwrap();
    list(e, &s.zeroed);
    e.str("features").unwrap().u64(s.features).unwrap();
    e.str("parameters").unwrap();
    e.array(s.parameters.len() as u64).unwrap();
    for (index, &(value, sum, noisy)) in s.parameters.iter().enumerate() {
        let released = *s.released.get(index).unwrap_or(&value);
        e.map(5).unwrap().str("name").unwrap().str("w").unwrap();
        e.str("value").unwrap().u64(value).unwrap();
        e.str("released").unwrap().u64(released).unwrap();
        e.str("clipped_sum").unwrap().u64(sum).unwrap();
        e.str("noisy_gradient").unwrap().u64(noisy).unwrap();
    }
    optional(e, "step_number", s.step_number);
    optional(e, "contributing", s.contributing);
    e.str("params")
        .unwrap()
        .array(s.params.len() as u64)
        .unwrap();
    for &(tensor, offset) in &s.params {
        list(e, &[tensor, offset]);
    }
    e.str("update").unwrap();
    calls(e, &s.update);
    e.str("kernels").unwrap().u64(s.kernels).unwrap();
    e.str("prepare").unwrap();
    calls(e, &s.prepare);
    e.str("tensors")
        .unwrap()
        .array(s.tensors.len() as u64)
        .unwrap();
    for (offset, dtype, shape) in &s.tensors {
        e.array(3)
            .unwrap()
            .u64(*offset)
            .unwrap()
            .u64(*dtype)
            .unwrap();
        list(e, shape);
    }
    e.str("version").unwrap().u64(s.version).unwrap();
    e.str("lane_bytes").unwrap().u64(s.lane).unwrap();
    e.str("model_header").unwrap().bytes(&s.header).unwrap();
    e.str("shared_bytes").unwrap().u64(s.shared).unwrap();
    bytes
}

fn rule(e: &mut Encoder<&mut Vec<u8>>, (name, numbers): &(&'static str, Vec<u64>)) {
    e.array(1 + numbers.len() as u64).unwrap();
    e.str(name).unwrap();
    for &number in numbers {
        e.u64(number).unwrap();
    }
}

fn encode_dp_and_data(e: &mut Encoder<&mut Vec<u8>>, s: &Sketch) {
    e.str("dp").unwrap().map(13).unwrap();
    e.str("grid").unwrap().f64(s.grid).unwrap();
    let keys = [
        "steps",
        "capacity",
        "microbatch",
        "sensitivity_e9",
        "clipping_norm_e9",
        "sampling_threshold",
        "expected_batch_size",
        "noise_multiplier_e9",
    ];
    for (key, value) in keys.iter().zip(s.dp) {
        e.str(key).unwrap().u64(value).unwrap();
        if *key == "microbatch" {
            e.str("correlation").unwrap();
            list(e, &s.correlation);
        }
        if *key == "steps" {
            e.str("views").unwrap().u64(s.views).unwrap();
            e.str("augment").unwrap();
            e.array(s.augment.len() as u64).unwrap();
            for augmentation in &s.augment {
                rule(e, augmentation);
            }
        }
        if *key == "capacity" {
            e.str("clipping").unwrap();
            rule(e, &s.clipping);
        }
    }
    e.str("data").unwrap().map(11).unwrap();
    let [lower, upper, scale, offset] = &s.ranges;
    for (key, values) in [
        ("lower", lower),
        ("scale", scale),
        ("upper", upper),
        ("offset", offset),
    ] {
        e.str(key).unwrap().array(values.len() as u64).unwrap();
        for &value in values {
            e.f64(value).unwrap();
        }
    }
    e.str("target").unwrap();
    match s.target {
        None => {
            e.null().unwrap();
        }
        Some(target) => {
            e.array(4).unwrap();
            for value in target {
                e.f64(value).unwrap();
            }
        }
    }
    let numbers = [
        ("classes", s.classes),
        ("features", s.feature_count),
        ("oblivious", s.oblivious),
        ("max_records", s.max_records),
        ("record_bytes", s.record_bytes),
        ("feature_dtype", s.feature_dtype),
    ];
    for (key, value) in numbers {
        e.str(key).unwrap().u64(value).unwrap();
    }
}
