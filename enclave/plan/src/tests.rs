//! A small plan that is right, every way of making it wrong, and random damage.

use alloc::string::ToString;
use alloc::vec::Vec;

use minicbor::Encoder;

use crate::*;

/// What the tests change. Encoded as the builder does.
#[derive(Clone)]
struct Sketch {
    arena: u64,
    tensors: Vec<(u64, u64, Vec<u64>)>,
    step: Vec<(u64, Vec<u64>, Vec<u64>)>,
    update: Vec<(u64, Vec<u64>, Vec<u64>)>,
    kernels: u64,
    version: u64,
    params: Vec<(u64, u64)>,
    zeroed: Vec<u64>,
    parameters: Vec<(u64, u64, u64)>,
    features: u64,
    labels: u64,
    mask: u64,
    contributing: Option<u64>,
    norms: Option<u64>,
    step_number: Option<u64>,
    header: Vec<u8>,
    feature_dtype: u64,
    feature_count: u64,
    classes: u64,
    max_records: u64,
    record_bytes: u64,
    ranges: [Vec<f64>; 4],
    dp: [u64; 8],
    grid: f64,
}

/// Two features, two classes, one parameter of shape `[2, 2]`, microbatch 4, momentum.
///
/// Tensors: 0 features, 1 labels, 2 mask, 3 value, 4 clipped sum, 5 noisy gradient, 6 momentum, 7 contributing, 8 and 9
/// temporaries in the same bytes, 10 step number, 11 the features flat.
fn sketch() -> Sketch {
    let at = |slot: u64| slot * 64;
    Sketch {
        arena: at(10),
        tensors: vec![
            (at(0), 0, vec![4, 2]),
            (at(1), 1, vec![4]),
            (at(2), 0, vec![4]),
            (at(3), 0, vec![2, 2]),
            (at(4), 0, vec![2, 2]),
            (at(5), 0, vec![2, 2]),
            (at(6), 0, vec![2, 2]),
            (at(7), 1, vec![4]),
            (at(8), 0, vec![4, 2]),
            (at(8), 0, vec![2]),
            (at(9), 1, vec![1]),
            (at(0), 0, vec![8]),
        ],
        step: vec![
            (0, vec![0, 3], vec![8]),
            (1, vec![8, 1, 2], vec![4, 7]),
            (2, vec![4, 11], vec![9]),
            (0, vec![9, 4], vec![4]),
        ],
        update: vec![(2, vec![10, 6, 5], vec![6]), (1, vec![3, 6], vec![3])],
        kernels: 3,
        version: 1,
        params: vec![(3, 64)],
        zeroed: vec![6],
        parameters: vec![(3, 4, 5)],
        features: 0,
        labels: 1,
        mask: 2,
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
        max_records: 10,
        record_bytes: 12,
        ranges: [vec![0.0, -1.0], vec![1.0, 1.0], vec![2.0], vec![-1.0]],
        // steps, capacity, microbatch, sensitivity, clipping norm, threshold, batch size, noise multiplier
        dp: [
            5,
            7,
            4,
            1_100_000_000,
            1_000_000_000,
            1 << 60,
            3,
            2_000_000_000,
        ],
        grid: 0.125,
    }
}

const PARAMS_BYTES: usize = 128;

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

fn encode(s: &Sketch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes);
    let e = &mut encoder;
    e.map(11).unwrap();
    encode_dp_and_data(e, s);
    e.str("step").unwrap();
    calls(e, &s.step);
    e.str("roles").unwrap().map(8).unwrap();
    e.str("mask").unwrap().u64(s.mask).unwrap();
    optional(e, "norms", s.norms);
    e.str("labels").unwrap().u64(s.labels).unwrap();
    e.str("zeroed").unwrap();
    list(e, &s.zeroed);
    e.str("features").unwrap().u64(s.features).unwrap();
    e.str("parameters").unwrap();
    e.array(s.parameters.len() as u64).unwrap();
    for &(value, sum, noisy) in &s.parameters {
        e.map(4).unwrap().str("name").unwrap().str("w").unwrap();
        e.str("value").unwrap().u64(value).unwrap();
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
    e.str("arena_bytes").unwrap().u64(s.arena).unwrap();
    e.str("model_header").unwrap().bytes(&s.header).unwrap();
    bytes
}

fn encode_dp_and_data(e: &mut Encoder<&mut Vec<u8>>, s: &Sketch) {
    e.str("dp").unwrap().map(9).unwrap();
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
    }
    e.str("data").unwrap().map(9).unwrap();
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
    let numbers = [
        ("classes", s.classes),
        ("features", s.feature_count),
        ("max_records", s.max_records),
        ("record_bytes", s.record_bytes),
        ("feature_dtype", s.feature_dtype),
    ];
    for (key, value) in numbers {
        e.str(key).unwrap().u64(value).unwrap();
    }
}

fn parse(s: &Sketch) -> Result<Plan, PlanError> {
    Plan::parse(&encode(s), PARAMS_BYTES, 3)
}

#[test]
fn a_right_plan_passes_and_reads_as_written() {
    let plan = parse(&sketch()).unwrap();
    assert_eq!(plan.tensors.len(), 12);
    assert_eq!(plan.tensors[3].shape, [2, 2]);
    assert_eq!(plan.parameter_count(), 4);
    assert_eq!(plan.physical_batches(), 2);
    assert_eq!(plan.roles.parameters[0].noisy_gradient, 5);
    assert_eq!(plan.data.upper, [1.0, 1.0]);
    assert_eq!(plan.dp.expected_batch_size, 3);
    assert_eq!(plan.dp.noise_multiplier_e9, 2_000_000_000);
    assert_eq!(
        plan.params,
        [Initial {
            tensor: 3,
            offset: 64
        }]
    );
}

/// A name, a change that makes a plan wrong, and the field that the refusal names.
type Wrong = (&'static str, fn(&mut Sketch), &'static str);

const WRONG: &[Wrong] = &[
    ("another version", |s| s.version = 2, "version"),
    ("more kernels than linked", |s| s.kernels = 4, "kernels"),
    ("arena too small", |s| s.arena = 64 * 9, "tensors"),
    (
        "arena above its limit",
        |s| s.arena = 1 << 32,
        "arena_bytes",
    ),
    ("unaligned tensor", |s| s.tensors[8].0 += 4, "tensors"),
    (
        "tensor beyond the arena",
        |s| s.tensors[8].0 = 64 * 10,
        "tensors",
    ),
    ("dimension zero", |s| s.tensors[9].2 = vec![0], "tensors"),
    (
        "size overflows",
        |s| s.tensors[9].2 = vec![1 << 30, 1 << 30, 1 << 30],
        "tensors",
    ),
    (
        "rank above its limit",
        |s| s.tensors[9].2 = vec![1; 9],
        "tensors",
    ),
    ("unknown dtype", |s| s.tensors[9].1 = 5, "tensors"),
    ("no such kernel", |s| s.step[0].0 = 3, "step"),
    ("no such tensor read", |s| s.step[0].1 = vec![12], "step"),
    (
        "no such tensor written",
        |s| s.update[0].2 = vec![12],
        "update",
    ),
    ("too many arguments", |s| s.step[0].1 = vec![0; 128], "step"),
    (
        "a call that writes nothing",
        |s| s.step[2].2 = vec![],
        "step",
    ),
    (
        "output overlaps part of an input",
        |s| s.step[2].1 = vec![4, 8],
        "step",
    ),
    (
        "two outputs overlap",
        |s| s.step[1].2 = vec![4, 7, 7],
        "step",
    ),
    ("read before written", |s| s.step[0].1 = vec![0, 9], "step"),
    ("read after overwritten", |s| s.step[3].1 = vec![8], "step"),
    (
        "clipped sum overwritten",
        |s| s.tensors[9].0 = 64 * 4,
        "step",
    ),
    (
        "clipped sum never written",
        |s| s.step[1].2 = vec![7],
        "step",
    ),
    (
        "contributing never written",
        |s| s.step[1].2 = vec![4],
        "step",
    ),
    ("step writes a parameter", |s| s.step[3].2 = vec![3], "step"),
    (
        "step writes the optimizer's state",
        |s| s.step[3].2 = vec![6],
        "step",
    ),
    ("step writes the mask", |s| s.step[3].2 = vec![2], "step"),
    (
        "update reads what only step wrote",
        |s| s.update[0].1 = vec![4],
        "update",
    ),
    (
        "update writes features",
        |s| s.update[0].2 = vec![0],
        "update",
    ),
    (
        "update writes the step number",
        |s| s.update[0].2 = vec![10],
        "update",
    ),
    (
        "a temporary over a parameter",
        |s| s.tensors[9].0 = 64 * 3,
        "tensors",
    ),
    (
        "a temporary over the state",
        |s| s.tensors[9].0 = 64 * 6,
        "tensors",
    ),
    (
        "a parameter over the labels",
        |s| s.tensors[3].0 = 64,
        "tensors",
    ),
    (
        "noisy gradient over the step number",
        |s| s.tensors[5].0 = 64 * 9,
        "tensors",
    ),
    (
        "features of another type",
        |s| s.tensors[0].1 = 1,
        "features",
    ),
    (
        "features of another batch",
        |s| s.tensors[0].2 = vec![2, 4],
        "features",
    ),
    (
        "features of another width",
        |s| s.tensors[0].2 = vec![4, 1],
        "features",
    ),
    ("labels of another type", |s| s.tensors[1].1 = 0, "labels"),
    (
        "mask of another shape",
        |s| s.tensors[2].2 = vec![4, 1],
        "mask",
    ),
    (
        "contributing of another type",
        |s| s.tensors[7].1 = 0,
        "contributing",
    ),
    ("norms of another type", |s| s.norms = Some(7), "norms"),
    (
        "step number of another shape",
        |s| s.tensors[10].2 = vec![2],
        "step_number",
    ),
    ("role of no tensor", |s| s.labels = 12, "labels"),
    (
        "sum of another shape",
        |s| s.tensors[4].2 = vec![4],
        "parameters",
    ),
    (
        "gradient of another type",
        |s| s.tensors[5].1 = 1,
        "parameters",
    ),
    ("no parameters", |s| s.parameters = vec![], "parameters"),
    (
        "one parameter twice",
        |s| s.parameters.push((3, 4, 5)),
        "params",
    ),
    (
        "state that is a parameter",
        |s| s.zeroed = vec![3],
        "tensors",
    ),
    ("state of no tensor", |s| s.zeroed = vec![99], "zeroed"),
    ("no initial value", |s| s.params = vec![], "params"),
    (
        "initial value of something else",
        |s| s.params = vec![(5, 0)],
        "params",
    ),
    ("two initial values", |s| s.params.push((3, 0)), "params"),
    (
        "initial value beyond the section",
        |s| s.params = vec![(3, 128)],
        "params",
    ),
    (
        "initial offset overflows",
        |s| s.params = vec![(3, u64::MAX)],
        "params",
    ),
    (
        "model header too short",
        |s| s.header = vec![0; 7],
        "model_header",
    ),
    (
        "model header of another length",
        |s| s.header.push(b' '),
        "model_header",
    ),
    (
        "model header that is no map",
        |s| s.header[8] = b'[',
        "model_header",
    ),
    (
        "feature type int32",
        |s| s.feature_dtype = 1,
        "feature_dtype",
    ),
    ("no features", |s| s.feature_count = 0, "features"),
    ("no classes", |s| s.classes = 0, "classes"),
    ("no records", |s| s.max_records = 0, "max_records"),
    ("record size wrong", |s| s.record_bytes = 8, "record_bytes"),
    (
        "ranges of another number",
        |s| s.ranges[0] = vec![0.0; 3],
        "lower",
    ),
    (
        "lower and upper not as many",
        |s| s.ranges[0] = vec![0.0],
        "data",
    ),
    (
        "upper below lower",
        |s| s.ranges[1] = vec![-0.5, 1.0],
        "upper",
    ),
    (
        "range not finite",
        |s| s.ranges[1][0] = f64::INFINITY,
        "upper",
    ),
    ("scale not a number", |s| s.ranges[2][0] = f64::NAN, "scale"),
    ("grid zero", |s| s.grid = 0.0, "grid"),
    ("grid negative", |s| s.grid = -1.0, "grid"),
    ("no steps", |s| s.dp[0] = 0, "steps"),
    ("no capacity", |s| s.dp[1] = 0, "capacity"),
    ("no microbatch", |s| s.dp[2] = 0, "microbatch"),
    (
        "sensitivity below the norm",
        |s| s.dp[3] = 999_999_999,
        "sensitivity_e9",
    ),
    ("no clipping", |s| s.dp[4] = 0, "clipping_norm_e9"),
    ("nothing sampled", |s| s.dp[5] = 0, "sampling_threshold"),
    ("no batch size", |s| s.dp[6] = 0, "expected_batch_size"),
    ("no noise", |s| s.dp[7] = 0, "noise_multiplier_e9"),
];

#[test]
fn every_wrong_plan_is_refused_by_its_field() {
    for (name, change, field) in WRONG {
        let mut wrong = sketch();
        change(&mut wrong);
        let error = parse(&wrong).expect_err(name);
        assert_eq!(error.field, *field, "{name}: {error}");
        assert!(error.to_string().contains(field));
    }
}

#[test]
fn in_place_and_other_shapes_of_the_same_bytes_are_right() {
    let mut s = sketch();
    // Tensor 12 is the parameter flat; the optimizer may read and write it so.
    s.tensors.push((64 * 3, 0, vec![4]));
    s.update[1] = (1, vec![12, 6], vec![12]);
    parse(&s).unwrap();
}

#[test]
fn trailing_bytes_and_long_forms_are_refused() {
    let right = encode(&sketch());
    let mut longer = right.clone();
    longer.push(0);
    assert_eq!(
        Plan::parse(&longer, PARAMS_BYTES, 3).unwrap_err().field,
        "plan"
    );
    // The version, 1, written in two bytes.
    let place = right.windows(8).position(|w| w == b"gversion").unwrap() + 8;
    let mut long = right.clone();
    long.splice(place..=place, [0x18, 1]);
    assert_eq!(
        Plan::parse(&long, PARAMS_BYTES, 3).unwrap_err().field,
        "version"
    );
    // The grid as a float32.
    let place = right.windows(5).position(|w| w == b"dgrid").unwrap() + 5;
    let mut short = right.clone();
    short.splice(place..place + 9, [0xfa, 0x3e, 0, 0, 0]);
    assert_eq!(
        Plan::parse(&short, PARAMS_BYTES, 3).unwrap_err().field,
        "grid"
    );
    // An entry that is not known, in the map of roles.
    let place = right.windows(6).position(|w| w == b"eroles").unwrap() + 6;
    let mut more = right;
    more[place] += 1;
    assert_eq!(
        Plan::parse(&more, PARAMS_BYTES, 3).unwrap_err().field,
        "roles"
    );
}

/// xorshift64*, seeded: the same damage at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

/// What a parsed plan promises, checked again in the slowest way.
fn promises_hold(plan: &Plan) {
    for tensor in &plan.tensors {
        assert!(tensor.offset.is_multiple_of(64) && tensor.end() <= plan.arena_bytes);
    }
    for call in plan.step.iter().chain(&plan.update) {
        assert!(call.kernel < 3);
        for &index in call.inputs.iter().chain(&call.outputs) {
            assert!(index < plan.tensors.len());
        }
    }
    assert!(
        plan.data
            .max_records
            .checked_mul(plan.data.record_bytes)
            .is_some()
    );
}

#[test]
fn random_damage_never_panics_and_never_breaks_a_promise() {
    let right = encode(&sketch());
    let mut random = Random(0x5EED);
    let mut passed = 0;
    for _ in 0..60_000 {
        let mut damaged = right.clone();
        for _ in 0..=random.below(3) {
            let place = random.below(damaged.len());
            match random.below(5) {
                0 => damaged[place] ^= 1 << random.below(8),
                1 => damaged[place] = random.below(256) as u8,
                2 => damaged.truncate(place.max(1)),
                3 => {
                    damaged.remove(place);
                }
                _ => damaged.insert(place, random.below(256) as u8),
            }
            if damaged.is_empty() {
                break;
            }
        }
        if let Ok(plan) = Plan::parse(&damaged, PARAMS_BYTES, 3) {
            promises_hold(&plan);
            passed += 1;
        }
    }
    // Some damage is harmless (another name, another range): the promises above were really checked.
    assert!(passed > 100, "{passed}");
}

#[test]
fn lengths_do_not_allocate() {
    // A map of eleven, "dp" and so on, then an array that says it has 2^32 items.
    let right = encode(&sketch());
    let place = right.windows(8).position(|w| w == b"gtensors").unwrap() + 8;
    let mut huge = right[..place].to_vec();
    huge.extend([0x9a, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(
        Plan::parse(&huge, PARAMS_BYTES, 3).unwrap_err().field,
        "tensors"
    );
    for length in 0..right.len() {
        Plan::parse(&right[..length], PARAMS_BYTES, 3).unwrap_err();
    }
}
