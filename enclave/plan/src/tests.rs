//! A small plan that is right, every way of making it wrong, and random damage.

use alloc::string::ToString;

use crate::*;

#[path = "sketch_tests.rs"]
mod sketch_tests;
use sketch_tests::{PARAMS_BYTES, Sketch, encode, sketch};

#[path = "wrong_tests.rs"]
mod wrong_tests;
use wrong_tests::{WRONG, Wrong, number, second_parameter};

#[path = "constant_tests.rs"]
mod constant_tests;
use constant_tests::{WRONG_CONSTANTS, constant};

#[path = "mask_tests.rs"]
mod mask_tests;
use mask_tests::{WRONG_MASKS, masked};

#[path = "view_tests.rs"]
mod view_tests;
use view_tests::{WRONG_VIEWS, augmented, viewed};

fn parse(s: &Sketch) -> Result<Plan, PlanError> {
    Plan::parse(&encode(s), PARAMS_BYTES, 3)
}

#[test]
fn a_right_plan_passes_and_reads_as_written() {
    let plan = parse(&sketch()).unwrap();
    assert_eq!(plan.tensors.len(), 13);
    assert_eq!((plan.layout.lanes, plan.layout.arena_bytes()), (2, 64 * 17));
    assert_eq!((plan.prepare.len(), plan.step.len()), (1, 4));
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

#[test]
fn two_parameters_with_results_of_their_own() {
    let mut s = sketch();
    second_parameter(&mut s, 15, 14);
    assert_eq!(parse(&s).unwrap().parameter_count(), 8);
}

#[test]
fn a_mask_of_a_dropout_layer_is_read_by_the_step() {
    let mut s = sketch();
    masked(&mut s);
    let role = MaskRole {
        tensor: 13,
        threshold: 3 << 30,
        scale: 4.0 / 3.0,
    };
    assert_eq!(parse(&s).unwrap().roles.masks, [role]);
    assert!(parse(&sketch()).unwrap().roles.masks.is_empty());
}

#[test]
fn views_of_images_are_rows_and_a_batch_is_one_record() {
    let mut s = sketch();
    augmented(&mut s);
    assert_eq!(parse(&s).unwrap().examples(), 4);
    let mut s = sketch();
    viewed(&mut s);
    let plan = parse(&s).unwrap();
    assert_eq!(
        (plan.dp.views, plan.dp.microbatch, plan.examples()),
        (4, 1, 4)
    );
    let crop = Rule {
        name: "crop".into(),
        numbers: alloc::vec![1],
    };
    assert_eq!(plan.dp.augment[1], crop);
}

#[test]
fn a_constant_is_no_parameter() {
    let mut s = sketch();
    constant(&mut s);
    let plan = parse(&s).unwrap();
    assert_eq!(plan.frozen().collect::<alloc::vec::Vec<_>>(), [13]);
    assert_eq!((plan.parameter_count(), plan.params.len()), (4, 2));
    assert_eq!(parse(&sketch()).unwrap().frozen().count(), 0);
}

#[test]
fn every_wrong_plan_is_refused_by_its_field() {
    let every = WRONG
        .iter()
        .chain(WRONG_CONSTANTS)
        .chain(WRONG_MASKS)
        .chain(WRONG_VIEWS);
    for (name, change, field) in every {
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
    // Tensor 13 is the parameter flat; the optimizer may read and write it so.
    s.tensors.push((0, 0, vec![4]));
    s.update[1] = (1, vec![13, 6], vec![13]);
    parse(&s).unwrap();
}

#[test]
fn a_number_as_label_and_an_average_as_the_model_are_right() {
    let mut s = sketch();
    number(&mut s);
    s.released = vec![6];
    let plan = parse(&s).unwrap();
    let label = Label::Number {
        lower: 0.0,
        upper: 10.0,
        scale: 0.2,
        offset: -1.0,
    };
    assert_eq!(plan.data.label, label);
    assert_eq!(plan.roles.parameters[0].released, 6);
    assert_eq!(parse(&sketch()).unwrap().data.label, Label::Class(2));
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
    // The version, 6, written in two bytes.
    let place = right.windows(8).position(|w| w == b"gversion").unwrap() + 8;
    let mut long = right.clone();
    long.splice(place..=place, [0x18, 6]);
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
        assert!(tensor.offset.is_multiple_of(64) && tensor.end() <= plan.layout.arena_bytes());
        assert!(plan.layout.is_shared(tensor) == (tensor.end() <= plan.layout.shared_bytes));
    }
    for call in &plan.step {
        for &index in &call.outputs {
            assert!(!plan.layout.is_shared(&plan.tensors[index]));
        }
    }
    for call in plan.prepare.iter().chain(&plan.step).chain(&plan.update) {
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
    // A map of fourteen, "dp" and so on, then an array that says it has 2^32 items.
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
