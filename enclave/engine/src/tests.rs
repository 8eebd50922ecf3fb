//! A plan of three kernels written in Rust: sums of features, with the mechanism around it computed again by hand.

use alloc::vec;
use alloc::vec::Vec;
use std::sync::atomic::{AtomicBool, Ordering};

use myelin_boundary::{Kernels, Machine, Memory, ModelArgument, ModelKernel, pool};
use myelin_mechanism::{Sampler, noise, sum};
use myelin_wire::{Code, Engine, StepKeys};

use crate::TrainingEngine;

#[path = "plan_tests.rs"]
mod plan_tests;
use plan_tests::{LANE_WITH_MASKS, plan, plan_with_masks, plan_with_target, plan_with_views};

#[path = "mask_tests.rs"]
mod mask_tests;

#[path = "view_tests.rs"]
mod view_tests;

const MICROBATCH: usize = 4;
const CAPACITY: usize = 10;
const LANES: usize = 2;
const FEATURES: usize = 3;
const STEPS: u32 = 3;
const THRESHOLD: u64 = u64::MAX / 3;
const BATCH: u64 = 5;
const GRID: f64 = 1.0 / (1 << 18) as f64;
const SCALE: [f64; 3] = [0.5, 2.0, 1.0];
const OFFSET: [f64; 3] = [1.0, 0.0, -0.25];
const INITIAL: [f32; 3] = [10.0, 20.0, 30.0];

/// The clipped sum: features of real examples, added up; one of more than 100 stands for a gradient that is not finite.
fn sum_features(arena: &mut Memory<'_>, arguments: &[ModelArgument]) -> bool {
    let [features, mask, out, contributing] = arguments else {
        return false;
    };
    let x = arena
        .view::<f32>(features.offset, MICROBATCH * FEATURES)
        .unwrap()
        .to_vec();
    let mask = arena.view::<f32>(mask.offset, MICROBATCH).unwrap().to_vec();
    let counted: Vec<bool> = x
        .chunks(FEATURES)
        .zip(&mask)
        .map(|(row, &mask)| mask == 1.0 && row.iter().all(|&v| v < 100.0))
        .collect();
    let mut total = [0.0_f32; FEATURES];
    for (row, _) in x
        .chunks(FEATURES)
        .zip(&counted)
        .filter(|&(_, &counted)| counted)
    {
        for (total, &value) in total.iter_mut().zip(row) {
            *total += value;
        }
    }
    arena
        .view_mut(out.offset, FEATURES)
        .unwrap()
        .copy_from_slice(&total);
    let flags = arena
        .view_mut::<i32>(contributing.offset, MICROBATCH)
        .unwrap();
    for (flag, &counted) in flags.iter_mut().zip(&counted) {
        *flag = i32::from(counted);
    }
    true
}

/// `w ← w − g · step`
fn descend(arena: &mut Memory<'_>, arguments: &[ModelArgument]) -> bool {
    let [step, value, gradient, _] = arguments else {
        return false;
    };
    let step = arena.view::<i32>(step.offset, 1).unwrap()[0];
    let gradient = arena
        .view::<f32>(gradient.offset, FEATURES)
        .unwrap()
        .to_vec();
    let value = arena.view_mut::<f32>(value.offset, FEATURES).unwrap();
    for (value, gradient) in value.iter_mut().zip(&gradient) {
        *value -= gradient * step as f32;
    }
    true
}

fn never(_: &mut Memory<'_>, _: &[ModelArgument]) -> bool {
    false
}

/// What a clipped sum never is, in one coordinate.
fn not_finite(arena: &mut Memory<'_>, arguments: &[ModelArgument]) -> bool {
    let done = sum_features(arena, arguments);
    if let Some(out) = arguments.get(2) {
        arena.view_mut::<f32>(out.offset, FEATURES).unwrap()[1] = f32::NAN;
    }
    done
}

/// Noise of one multiplier unit at this grid: `GRID × SIGMA_UNITS` is 4.
const MULTIPLIER_E9: u64 = 4_000_000_000;

fn engine_with(plan: Vec<u8>) -> Result<TrainingEngine, myelin_wire::Error> {
    engine_of(plan, vec![sum_features, descend, never])
}

fn engine_of(
    plan: Vec<u8>,
    kernels: Vec<ModelKernel>,
) -> Result<TrainingEngine, myelin_wire::Error> {
    engine_in(192 + LANES * 320, plan, kernels)
}

/// An engine whose arena has so many bytes.
fn engine_in(
    arena: usize,
    plan: Vec<u8>,
    kernels: Vec<ModelKernel>,
) -> Result<TrainingEngine, myelin_wire::Error> {
    let params = INITIAL.iter().flat_map(|v| v.to_le_bytes()).collect();
    TrainingEngine::new(Machine::model(
        plan,
        params,
        arena,
        400,
        Kernels::model(kernels),
    ))
}

/// Trains to the end by a plan with masks, whose first kernel is `note`.
fn trained_with_masks(plan: Vec<u8>, note: ModelKernel, keys: &StepKeys<'_>) -> TrainingEngine {
    let arena = 192 + LANES * LANE_WITH_MASKS as usize;
    let mut engine = engine_in(arena, plan, vec![note, descend, never]).unwrap();
    feed(&mut engine);
    engine.begin(keys, 18).unwrap();
    engine.run(STEPS).unwrap();
    engine
}

/// The records that a step draws.
fn drawn(step: u64) -> impl Iterator<Item = u32> {
    let mut drawn = [u32::MAX; CAPACITY];
    let capacity = CAPACITY as u32;
    let key = KEYS.sampling;
    Sampler::draw(key, step, 18, THRESHOLD, capacity, &mut drawn, &mut []);
    drawn.into_iter().filter(|&record| record != u32::MAX)
}

fn engine() -> TrainingEngine {
    engine_with(plan(0, 1, MULTIPLIER_E9)).unwrap()
}

fn record(features: [f32; 3], label: i32) -> Vec<u8> {
    let features = features.iter().flat_map(|v| v.to_le_bytes());
    features.chain(label.to_le_bytes()).collect()
}

fn dataset() -> Vec<[f32; 3]> {
    (0..18)
        .map(|i| [i as f32, 2.0 * i as f32, if i == 7 { 200.0 } else { 1.0 }])
        .collect()
}

fn feed(engine: &mut TrainingEngine) {
    let bytes: Vec<u8> = dataset()
        .iter()
        .enumerate()
        .flat_map(|(i, &f)| record(f, (i % 2) as i32))
        .collect();
    // In pieces that split records anywhere.
    for piece in bytes.chunks(7) {
        engine.accept(piece).unwrap();
    }
}

const KEYS: StepKeys<'static> = StepKeys {
    sampling: &[3; 32],
    noise: &[4; 32],
    dropout: &[5; 32],
    augment: &[6; 32],
};

fn trained(most_steps: u32) -> Vec<u8> {
    let mut engine = engine();
    feed(&mut engine);
    engine.begin(&KEYS, 18).unwrap();
    let mut done = 0;
    while done < STEPS {
        done = engine.run(most_steps).unwrap();
    }
    engine.model().unwrap()
}

/// The same training in a few plain lines, and how many contributions were not finite.
fn by_hand() -> ([f32; 3], u64) {
    let data = dataset();
    let (mut weights, mut missing) = (INITIAL, 0);
    for step in 1..=STEPS {
        let mut drawn = [u32::MAX; 12];
        Sampler::draw(
            KEYS.sampling,
            step.into(),
            18,
            THRESHOLD,
            CAPACITY as u32,
            &mut drawn,
            &mut [],
        );
        let mut totals = [[0.0_f64; 3]; LANES];
        for (number, batch) in drawn.chunks(MICROBATCH).enumerate() {
            let mut part = [0.0_f32; 3];
            for &index in batch.iter().filter(|&&index| index != u32::MAX) {
                let raw = data[index as usize];
                let seen: Vec<f32> = (0..3)
                    .map(|f| raw[f] * SCALE[f] as f32 + OFFSET[f] as f32)
                    .collect();
                if seen.iter().any(|&v| v >= 100.0) {
                    missing += 1;
                    continue;
                }
                (0..3).for_each(|f| part[f] += seen[f]);
            }
            (0..3).for_each(|f| totals[number % LANES][f] += f64::from(part[f]));
        }
        let [mut total, other] = totals;
        (0..3).for_each(|f| total[f] += other[f]);
        let (mut units, mut gradient) = ([0_i32; 3], [0.0_f32; 3]);
        noise::fill(KEYS.noise, step.into(), 0, &mut units);
        let _ = sum::noisy(&total, GRID, BATCH, &units, &mut gradient);
        (0..3).for_each(|f| weights[f] -= gradient[f] * step as f32);
    }
    (weights, missing)
}

#[test]
fn trains_as_computed_by_hand() {
    let (weights, missing) = by_hand();
    let mut expected = b"\x02\0\0\0\0\0\0\0{}".to_vec();
    expected.extend(weights.iter().flat_map(|v| v.to_le_bytes()));
    assert_eq!(trained(u32::MAX), expected);
    assert!(
        missing > 0,
        "choose keys that draw the record that is not finite"
    );
    let mut engine = engine();
    feed(&mut engine);
    engine.begin(&KEYS, 18).unwrap();
    engine.run(STEPS).unwrap();
    assert_eq!(engine.nonfinite(), missing);
}

#[test]
fn pauses_and_lent_threads_change_nothing() {
    let alone = trained(u32::MAX);
    assert_eq!(trained(1), alone);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    pool().lend(50);
                    std::thread::yield_now();
                }
            });
        }
        for _ in 0..50 {
            assert_eq!(trained(2), alone);
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// Features, label and mask of a slot whose record is `index`, in the first slot of a batch.
fn seen(engine: &mut TrainingEngine, index: u32) -> ([f32; 3], i32, f32) {
    let plan = &engine.plan;
    let mut memory = engine.arena.whole(crate::engine::lanes(plan)).unwrap();
    let source = crate::gather::Source {
        plan,
        dataset: &engine.dataset,
        sample: engine.sample.as_ref(),
    };
    source.fill(0, &[index], &mut memory).unwrap();
    let place = |role: usize| plan.tensors[role].offset;
    let features = memory.view::<f32>(place(0), 3).unwrap();
    (
        features.try_into().unwrap(),
        memory.view::<i32>(place(1), 1).unwrap()[0],
        memory.view::<f32>(place(2), 1).unwrap()[0],
    )
}

#[test]
fn records_brought_to_their_slots_train_the_same_model() {
    let mut engine = engine();
    engine.plan.data.oblivious = true;
    engine.sample = crate::gather::Sample::new(&engine.plan);
    feed(&mut engine);
    engine.begin(&KEYS, 18).unwrap();
    engine.run(STEPS).unwrap();
    assert!(engine.sample.is_none(), "records are forgotten at the end");
    assert_eq!(engine.model().unwrap(), trained(u32::MAX));
}

#[test]
fn bytes_are_seen_as_floats_are() {
    let mut engine = engine_with(plan(2, 1, MULTIPLIER_E9)).unwrap();
    engine
        .accept(&[1, 2, 3, 1, 0, 0, 0, 250, 0, 9, 0, 0, 0, 0])
        .unwrap();
    assert_eq!(seen(&mut engine, 0), ([1.5, 4.0, 2.75], 1, 1.0));
    assert_eq!(seen(&mut engine, u32::MAX), ([0.0; 3], 0, 0.0));
    // One scale and offset for all features.
    engine.plan.data.scale.truncate(1);
    engine.plan.data.offset.truncate(1);
    assert_eq!(seen(&mut engine, 1), ([126.0, 1.0, 5.5], 0, 1.0));
    assert_eq!(
        engine.accept(&[251, 0, 0, 0, 0, 0, 0]).unwrap_err().code,
        Code::DataRecordInvalid
    );
}

#[test]
fn a_number_as_label_is_checked_and_normalised() {
    let target = Some([-10.0, 30.0, 0.05, -0.5]);
    let mut engine = engine_with(plan_with_target(2, 1, MULTIPLIER_E9, target)).unwrap();
    let record = |label: f32| [&[1, 2, 3][..], &label.to_le_bytes()].concat();
    for label in [-10.0, 30.0, 7.5] {
        engine.accept(&record(label)).unwrap();
    }
    let mut number = |index| f32::from_bits(seen(&mut engine, index).1 as u32);
    assert_eq!([number(0), number(1), number(2)], [-1.0, 1.0, -0.125]);
    assert_eq!(number(u32::MAX), 0.0);
    for label in [f32::NAN, f32::INFINITY, -f32::INFINITY, 30.001, -10.001] {
        let mut engine = engine_with(plan_with_target(2, 1, MULTIPLIER_E9, target)).unwrap();
        let error = engine.accept(&record(label)).unwrap_err();
        assert_eq!(error.code, Code::DataRecordInvalid);
        let said = "record 0 of all owners' together, label: not a finite value";
        assert!(error.detail.contains(said), "{}", error.detail);
    }
}

#[test]
fn bad_records_are_named_by_place_and_not_by_value() {
    let bad: [([f32; 3], i32, &str); 7] = [
        (
            [f32::NAN, 1.0, 1.0],
            0,
            "record 1 of all owners' together, feature 0",
        ),
        ([1.0, f32::INFINITY, 1.0], 0, "feature 1"),
        ([1.0, 1.0, -0.001], 0, "feature 2"),
        ([1.0, 250.5, 1.0], 0, "feature 1"),
        ([1.0, 1.0, 1.0], 2, "label"),
        ([1.0, 1.0, 1.0], -1, "label"),
        ([1.0, 1.0, 1.0], 77_777, "label"),
    ];
    for (features, label, place) in bad {
        let mut engine = engine();
        engine.accept(&record([1.0; 3], 1)).unwrap();
        let error = engine.accept(&record(features, label)).unwrap_err();
        assert_eq!(error.code, Code::DataRecordInvalid);
        assert!(error.detail.contains(place), "{error}");
        assert!(
            !error.detail.contains("77") && !error.detail.contains("250"),
            "{error}"
        );
    }
}

#[test]
fn sizes_and_order_are_checked() {
    let mut engine = engine();
    assert_eq!(engine.run(1).unwrap_err().code, Code::OutOfOrder);
    assert_eq!(engine.model().unwrap_err().code, Code::OutOfOrder);
    assert_eq!(
        engine.begin(&KEYS, 0).unwrap_err().code,
        Code::DataHeaderInvalid
    );
    feed(&mut engine);
    assert_eq!(
        engine.begin(&KEYS, 17).unwrap_err().code,
        Code::DataHeaderInvalid
    );
    assert_eq!(
        engine.accept(&[0; 33]).unwrap_err().code,
        Code::DataTooLarge
    );
    engine.accept(&[0; 8]).unwrap();
    assert_eq!(
        engine.begin(&KEYS, 18).unwrap_err().code,
        Code::DataHeaderInvalid
    );
    engine.accept(&[0; 8]).unwrap();
    engine.begin(&KEYS, 19).unwrap();
    assert_eq!(
        engine.begin(&KEYS, 19).unwrap_err().code,
        Code::AlreadyGiven
    );
    assert_eq!(engine.accept(&[0; 16]).unwrap_err().code, Code::OutOfOrder);
    assert_eq!(engine.run(1).unwrap(), 1);
    assert_eq!(engine.model().unwrap_err().code, Code::OutOfOrder);
    assert_eq!(engine.run(100).unwrap(), STEPS);
    assert_eq!(engine.run(100).unwrap(), STEPS);
    assert!(
        engine
            .dataset
            .record(&engine.plan.data, 0)
            .unwrap()
            .0
            .iter()
            .all(|&b| b == 0)
    );
    assert_eq!(engine.keys.noise, [0; 32]);
    engine.model().unwrap();
}

#[test]
fn a_kernel_that_fails_is_fatal() {
    let mut engine = engine_with(plan(0, 2, MULTIPLIER_E9)).unwrap();
    feed(&mut engine);
    engine.begin(&KEYS, 18).unwrap();
    let error = engine.run(1).unwrap_err();
    assert_eq!((error.code, error.fatal), (Code::KernelFailed, true));
    assert!(error.detail.starts_with("kernel 2:"));
}

/// Were it to go on, a coordinate would lose all contributions at once, and the noise covers one.
#[test]
fn a_sum_that_is_not_finite_is_fatal_and_not_counted() {
    let kernels: Vec<ModelKernel> = vec![not_finite, descend, never];
    let mut engine = engine_of(plan(0, 1, MULTIPLIER_E9), kernels).unwrap();
    feed(&mut engine);
    engine.begin(&KEYS, 18).unwrap();
    let error = engine.run(1).unwrap_err();
    assert_eq!((error.code, error.fatal), (Code::KernelFailed, true));
    assert_eq!(engine.model().unwrap_err().code, Code::OutOfOrder);
}

#[test]
fn a_plan_whose_noise_is_less_than_it_says_is_refused() {
    let error = engine_with(plan(0, 1, MULTIPLIER_E9 + 1)).err().unwrap();
    assert_eq!((error.code, error.fatal), (Code::PlanInvalid, true));
    assert!(error.detail.contains("less noise"));
    let damaged = engine_with(vec![0xa0]).err().unwrap();
    assert_eq!((damaged.code, damaged.fatal), (Code::PlanInvalid, true));
}

#[test]
fn facts_are_the_plans() {
    let bytes = plan(0, 1, MULTIPLIER_E9);
    let engine = engine();
    let facts = engine.facts();
    assert_eq!(facts.plan_digest, myelin_wire::sha256(&bytes));
    assert_eq!((facts.parameters, facts.steps, facts.capacity), (3, 3, 10));
    assert_eq!((facts.record_bytes, facts.max_records), (16, 20));
    assert_eq!(facts.noise_multiplier_e9, MULTIPLIER_E9);
}
