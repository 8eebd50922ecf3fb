//! Every way of making a plan wrong.

use alloc::vec;

use super::Sketch;

/// A second parameter, whose sum and gradient may be the first one's.
pub(super) fn second_parameter(s: &mut Sketch, clipped_sum: u64, noisy_gradient: u64) {
    // 13 its value, 14 its gradient, 15 its sum: all behind what was there, each in its part.
    for tensor in &mut s.tensors {
        tensor.0 += if tensor.0 >= s.shared { 128 } else { 0 };
    }
    s.tensors.push((s.shared, 0, vec![2, 2]));
    s.tensors.push((s.shared + 64, 0, vec![2, 2]));
    s.tensors.push((s.shared + 128 + s.lane, 0, vec![2, 2]));
    s.shared += 128;
    s.lane += 64;
    s.step.push((0, vec![9], vec![15]));
    s.params.push((13, 64));
    s.parameters.push((13, clipped_sum, noisy_gradient));
}

/// A label that is a number from 0 to 10.
pub(super) fn number(s: &mut Sketch) {
    s.classes = 0;
    s.target = Some([0.0, 10.0, 0.2, -1.0]);
    s.tensors[1].1 = 0;
}

/// A name, a change that makes a plan wrong, and the field that the refusal names.
pub(super) type Wrong = (&'static str, fn(&mut Sketch), &'static str);

pub(super) const WRONG: &[Wrong] = &[
    ("another version", |s| s.version = 1, "version"),
    ("more kernels than linked", |s| s.kernels = 4, "kernels"),
    ("lane too small", |s| s.lane = 64 * 5, "tensors"),
    ("shared part too small", |s| s.shared = 64 * 4, "tensors"),
    ("shared part uneven", |s| s.shared += 32, "shared_bytes"),
    ("lane uneven", |s| s.lane += 32, "lane_bytes"),
    ("no lanes", |s| s.lanes = 0, "lanes"),
    ("more lanes than threads", |s| s.lanes = 17, "lanes"),
    ("more lanes than batches", |s| s.lanes = 3, "lanes"),
    (
        "one lane above the limit",
        |s| s.lane = 1 << 32,
        "lane_bytes",
    ),
    (
        "all lanes above the limit",
        |s| s.lane = 0x4000_0000,
        "lane_bytes",
    ),
    (
        "a tensor across both parts",
        |s| s.tensors[12].2 = vec![17],
        "tensors",
    ),
    (
        "a temporary that all lanes write",
        |s| {
            s.shared += 64;
            s.lane -= 64;
            s.tensors
                .iter_mut()
                .for_each(|t| t.0 += if t.0 >= 320 { 64 } else { 0 });
            s.tensors[8].0 = 320;
            s.tensors[9].0 = 320;
        },
        "tensors",
    ),
    (
        "a parameter in a lane",
        |s| s.tensors[3].0 = 64 * 10,
        "tensors",
    ),
    (
        "a clipped sum that lanes share",
        |s| s.tensors[4].0 = 64 * 4,
        "tensors",
    ),
    ("state in a lane", |s| s.tensors[6].0 = 64 * 10, "tensors"),
    (
        "preparation that reads a batch",
        |s| s.prepare[0].1 = vec![0],
        "tensors",
    ),
    (
        "preparation that writes a lane",
        |s| s.prepare[0].2 = vec![8],
        "tensors",
    ),
    (
        "preparation that writes a parameter",
        |s| s.prepare[0] = (2, vec![12], vec![3]),
        "prepare",
    ),
    (
        "preparation that reads what only the end writes",
        |s| s.prepare[0].1 = vec![5],
        "prepare",
    ),
    ("no such kernel prepares", |s| s.prepare[0].0 = 3, "prepare"),
    ("unaligned tensor", |s| s.tensors[8].0 += 4, "tensors"),
    (
        "tensor beyond the arena",
        |s| s.tensors[8].0 = 64 * 11,
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
    ("no such tensor read", |s| s.step[0].1 = vec![13], "step"),
    (
        "no such tensor written",
        |s| s.update[0].2 = vec![13],
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
        |s| s.tensors[9].0 = 64 * 8,
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
    (
        "step writes a parameter",
        |s| s.step[3].2 = vec![3],
        "tensors",
    ),
    (
        "step writes the optimizer's state",
        |s| s.step[3].2 = vec![6],
        "tensors",
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
        |s| s.tensors[9].0 = 0,
        "tensors",
    ),
    (
        "a temporary over the state",
        |s| s.tensors[9].0 = 64 * 2,
        "tensors",
    ),
    (
        "a parameter over the labels",
        |s| s.tensors[3].0 = 64 * 6,
        "tensors",
    ),
    (
        "noisy gradient over the step number",
        |s| s.tensors[5].0 = 64 * 3,
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
    ("role of no tensor", |s| s.labels = 13, "labels"),
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
        "a clipped sum released twice",
        |s| {
            second_parameter(s, 4, 14);
        },
        "parameters",
    ),
    (
        "a noisy gradient of two parameters",
        |s| {
            second_parameter(s, 15, 5);
        },
        "parameters",
    ),
    (
        "an input as the result",
        |s| s.contributing = Some(1),
        "tensors",
    ),
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
    (
        "a number with classes",
        |s| {
            number(s);
            s.classes = 2;
        },
        "classes",
    ),
    (
        "a number of an empty range",
        |s| {
            number(s);
            s.target = Some([1.0, 1.0, 1.0, 0.0]);
        },
        "target",
    ),
    (
        "a number whose range is not finite",
        |s| {
            number(s);
            s.target = Some([0.0, f64::INFINITY, 1.0, 0.0]);
        },
        "target",
    ),
    (
        "numbers where labels are classes",
        |s| {
            number(s);
            s.tensors[1].1 = 1;
        },
        "labels",
    ),
    (
        "a clipped sum released",
        |s| s.released = vec![4],
        "released",
    ),
    (
        "a noisy gradient released",
        |s| s.released = vec![5],
        "released",
    ),
    ("features released", |s| s.released = vec![0], "released"),
    (
        "another parameter released",
        |s| {
            second_parameter(s, 15, 14);
            s.released = vec![3, 3];
        },
        "released",
    ),
    (
        "state of another shape released",
        |s| {
            s.tensors[6].2 = vec![4];
            s.released = vec![6];
        },
        "released",
    ),
    (
        "one state released twice",
        |s| {
            second_parameter(s, 15, 14);
            s.released = vec![6, 6];
        },
        "released",
    ),
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
    (
        "turns and draws",
        |s| s.correlation = vec![1_000_000_000],
        "sampling_threshold",
    ),
    (
        "turns that are to be hidden",
        |s| (s.dp[5], s.correlation, s.oblivious) = (0, vec![1_000_000_000], 1),
        "oblivious",
    ),
    ("neither hidden nor not", |s| s.oblivious = 2, "oblivious"),
    (
        "coefficients that do not begin with one",
        |s| (s.dp[5], s.correlation) = (0, vec![999_999_999]),
        "correlation",
    ),
    (
        "coefficients that grow",
        |s| (s.dp[5], s.correlation) = (0, vec![1_000_000_000, 5, 6]),
        "correlation",
    ),
    (
        "a coefficient of zero",
        |s| (s.dp[5], s.correlation) = (0, vec![1_000_000_000, 0]),
        "correlation",
    ),
    (
        "an unknown clipping rule",
        |s| s.clipping.0 = "none",
        "clipping",
    ),
    ("a number too many", |s| s.clipping.1.push(7), "clipping"),
    (
        "no stability",
        |s| s.clipping = ("automatic", vec![0]),
        "clipping",
    ),
    (
        "a count that the norm does not cover",
        |s| {
            s.dp[4] = 1_100_000_000;
            s.clipping = ("adaptive", vec![1, 1, 1, 458_257_570]);
        },
        "clipping",
    ),
    (
        "layers' bounds above the clipping norm",
        |s| s.clipping = ("per-layer", vec![800_000_000, 600_000_001]),
        "clipping",
    ),
];
