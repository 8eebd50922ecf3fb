"""Bugs in the mechanism that runs: the enclave's sampler, noise, sums, engine and plan checker."""

from __future__ import annotations

from bug import Bug

ENGINE = "enclave/engine/src"
MECHANISM = "enclave/mechanism/src"
AES = "enclave/boundary/src/aes.rs"
BY_HAND = ("enclave/engine::trains_as_computed_by_hand",)
WRONG_PLANS = ("enclave/plan::every_wrong_plan_is_refused_by_its_field",)
TRACES = ("tests/privacy/test_constant_time.py::test_no_key_changes_the_trace",)

_DRAWN = "self.drawn.iter().filter(|&&i| i != u32::MAX).count() as u64"
_EXPECTED = "((u128::from(dataset_size) * u128::from(threshold)) >> 64)"

_SKIPPING = """if chosen.iter().map(|&c| u32::from(c)).sum::<u32>() % 2 == 0 {
            core::hint::black_box(&chosen);
        }
        let (packed, added) = to_front(chosen);"""

_POSITIVE = """        group(stream, number, &mut reserve, out);
        for z in out.iter() {
            if *z > 0 {
                core::hint::black_box(z);
            }
        }
"""

ENCLAVE = (
    Bug(
        "divided by the number drawn",
        f"{ENGINE}/step.rs",
        "let divisor = plan.dp.expected_batch_size;",
        f"let divisor = {_DRAWN};",
        BY_HAND,
        "divided by the actual batch instead of the public expected one (2605.15648: Opacus 0.9 to 1.5.4)",
    ),
    Bug(
        "divided by the size of the dataset",
        f"{ENGINE}/step.rs",
        "let divisor = plan.dp.expected_batch_size;",
        "let divisor = u64::from(self.dataset_size);",
        BY_HAND,
        "the dataset's size leaks through a divisor (Re:cord-play 2602.17454)",
    ),
    Bug(
        "the noise of every step is the first one's",
        f"{ENGINE}/step.rs",
        "noise::fill(key, step, (first_coordinate + first) as u64, units);",
        "noise::fill(key, step.min(1), (first_coordinate + first) as u64, units);",
        BY_HAND,
        "noise keyed the same across steps (jax 3646)",
    ),
    Bug(
        "all parameters have the same noise",
        f"{ENGINE}/step.rs",
        "first_coordinate += count.next_multiple_of(CHUNK);",
        "first_coordinate += 0 * count;",
        ("tests/audit/test_released_noise.py::test_parameters_have_unrelated_noise",),
        "noise keyed the same across parameters (jax 3646)",
    ),
    Bug(
        "an empty slot reads as a record",
        f"{ENGINE}/gather.rs",
        "*out = f32::from_bits(1.0_f32.to_bits() & kept(index));",
        "*out = f32::from_bits(1.0_f32.to_bits() | (kept(index) & 0));",
        ("tests/audit/test_replay.py::test_the_released_model_is_the_mechanism_to_the_bit",),
        "padded rows contribute (fixed shapes without a mask)",
    ),
    Bug(
        "the number of bad records is not the number of bad records",
        f"{ENGINE}/step.rs",
        ".map(|(&index, &counted)| kept(index) & u32::from(counted == 0));",
        ".map(|(&index, &counted)| (kept(index) | 1) & u32::from(counted == 0));",
        BY_HAND,
        "what is released beside the model is not what was signed for",
    ),
    Bug(
        "a sum that is not finite is released",
        f"{ENGINE}/step.rs",
        "if public(not_finite.into_inner(), Public::FiniteSums) > 0 {",
        "if false {",
        ("enclave/engine::a_sum_that_is_not_finite_is_fatal_and_not_counted",),
        "NaN survives clipping (Re:cord-play 2602.17454, Opacus among others)",
    ),
    Bug(
        "less noise than the plan says is run",
        f"{ENGINE}/engine.rs",
        "(1.0 + 1.0 / (1_u64 << 40) as f64) < claimed",
        "(1.0 + 1.0 / (1_u64 << 40) as f64) < 0.0 * claimed",
        ("enclave/engine::a_plan_whose_noise_is_less_than_it_says_is_refused",),
        "the accountant is fed another sigma than was run (Opacus 807)",
    ),
    Bug(
        "the certificate names another multiplier",
        f"{ENGINE}/engine.rs",
        "noise_multiplier_e9: plan.dp.noise_multiplier_e9,",
        "noise_multiplier_e9: plan.dp.noise_multiplier_e9 + 1,",
        ("enclave/engine::facts_are_the_plans",),
        "the accountant is fed another sigma than was run (Opacus 807)",
    ),
    Bug(
        "more steps than are accounted",
        f"{ENGINE}/engine.rs",
        ".min(self.plan.dp.steps);",
        ".min(self.plan.dp.steps.saturating_mul(2));",
        ("enclave/engine::sizes_and_order_are_checked",),
        "steps that are not accounted",
    ),
    Bug(
        "a model before the last step",
        f"{ENGINE}/engine.rs",
        "if !self.begun || self.steps_done < self.plan.dp.steps {",
        "if !self.begun {",
        ("enclave/engine::sizes_and_order_are_checked",),
        "intermediate models released and not accounted",
    ),
    Bug(
        "records outside of the schema are let in",
        f"{ENGINE}/dataset.rs",
        "Label::Class(classes) => u32::from_le_bytes(label) < classes,",
        "Label::Class(_) => true,",
        ("enclave/engine::bad_records_are_named_by_place_and_not_by_value",),
        "labels out of range read where they should not (Opacus 792: ignore_index)",
    ),
    Bug(
        "a label that is no number is let in",
        f"{ENGINE}/dataset.rs",
        "(value >= lower) & (value <= upper)",
        "!((value < lower) | (value > upper))",
        ("enclave/engine::a_number_as_label_is_checked_and_normalised",),
        "NaN passes every comparison that asks what is wrong",
    ),
    Bug(
        "a batch of fixed size instead of a Poisson draw",
        f"{MECHANISM}/sampler.rs",
        "let cut = find_cut(&words, threshold, capacity);",
        f"let cut = find_cut(&words, u64::MAX, {_EXPECTED} as u32);",
        ("enclave/mechanism::equals_the_plain_definition",),
        "shuffled batches of fixed size, accounted as Poisson (Chua 2024; FastDP, TF-Privacy)",
    ),
    Bug(
        "a draw too many keeps the first records that come",
        f"{MECHANISM}/sampler.rs",
        "let cut = find_cut(&words, threshold, capacity);",
        "let cut = Cut { word: threshold, index: 0 };",
        ("enclave/mechanism::equals_the_plain_definition",),
        "truncation that favours some records, accounted as uniform",
    ),
    Bug(
        "groups of records in which nobody was drawn are skipped",
        f"{MECHANISM}/compaction.rs",
        "let (packed, added) = to_front(chosen);",
        _SKIPPING,
        TRACES,
        "a branch in the sampler that depends on who is drawn (timing of samplers, 2112.05307: 99.65 %)",
    ),
    Bug(
        "a step more for every draw above zero",
        f"{MECHANISM}/noise.rs",
        "        group(stream, number, &mut reserve, out);\n",
        _POSITIVE,
        TRACES,
        "a branch in the noise that depends on the draw (timing of samplers, 2112.05307: 99.65 %)",
    ),
    Bug(
        "the enclave's noise without its light bits",
        f"{MECHANISM}/noise.rs",
        "out[l] = (coarse.wrapping_add(fine) as i32).wrapping_sub(FINE_MEAN);",
        "out[l] = coarse.wrapping_add(fine & 0) as i32;",
        (
            "enclave/mechanism::every_fine_bit_has_its_weight_and_no_other_counts",
            "enclave/mechanism::equal_to_the_references",
        ),
        "noise whose values tell the sum under it (floating-point Gaussians, 2112.05307; Mironov 2012)",
    ),
    Bug(
        "noise under a key that everybody knows",
        f"{MECHANISM}/noise.rs",
        "fill_chunk(&Keystream::new(key, step, number), within as usize, chunk);",
        "fill_chunk(&Keystream::new(&[key[0]; 32], step, number), within as usize, chunk);",
        ("enclave/mechanism::equal_to_the_references",),
        "a generator that can be guessed: SFC64 (JAX-Privacy's example), torch's (DEPA, in a TEE)",
    ),
    Bug(
        "every stream of the noise is the first",
        f"{MECHANISM}/noise.rs",
        "fill_chunk(&Keystream::new(key, step, number), within as usize, chunk);",
        "fill_chunk(&Keystream::new(key, step, number.min(0)), within as usize, chunk);",
        ("enclave/mechanism::equal_to_the_references",),
        "noise keyed the same across coordinates (jax 3646)",
    ),
    Bug(
        "noise on a sum that is not on its grid",
        f"{MECHANISM}/sum.rs",
        "let rounded = on_grid(kept * units);",
        "let rounded = kept * units;",
        ("enclave/mechanism::equals_the_library_rounding",),
        "floating-point noise (2112.05307: 92.56 % success against DP-SGD; Mironov 2012; Haney 2022)",
    ),
    Bug(
        "half of the noise",
        f"{MECHANISM}/sum.rs",
        "*out = ((rounded + f64::from(noise)) * scale) as f32;",
        "*out = ((rounded + f64::from(noise / 2)) * scale) as f32;",
        ("enclave/mechanism::rounds_ties_to_even_then_adds_then_scales",),
        "less noise than is accounted (Opacus 807)",
    ),
    Bug(
        "sums are added in float32",
        f"{MECHANISM}/sum.rs",
        "*total += f64::from(value);",
        "*total = f64::from(*total as f32 + value);",
        ("enclave/mechanism::accumulates_in_float64",),
        "rounding that is not in the sensitivity (Haney 2022)",
    ),
    Bug(
        "two parameters share a clipped sum",
        "enclave/plan/src/check.rs",
        '                if get(plan, "parameters", other)?.overlaps(tensor) {',
        '                if false && get(plan, "parameters", other)?.overlaps(tensor) {',
        WRONG_PLANS,
        "one gradient released twice for one noise",
    ),
    Bug(
        "what is released may be raw records",
        "enclave/plan/src/check.rs",
        '            if get(plan, "roles", kept)?.overlaps(tensor) {',
        '            if false && get(plan, "roles", kept)?.overlaps(tensor) {',
        WRONG_PLANS,
        "what is released did not come from clipping",
    ),
    Bug(
        "a plan may have less sensitivity than its clipping norm",
        "enclave/plan/src/mechanism.rs",
        "dp.sensitivity_e9 >= dp.clipping_norm_e9,",
        "true,",
        WRONG_PLANS,
        "wrong batch factor in the sensitivity (Tramèr 2022: ε above 2.79, claimed 0.21)",
    ),
    Bug(
        "a batch may write what all lanes share",
        "enclave/plan/src/check.rs",
        '"a batch writes it, and it is shared",\n        )?;',
        '"a batch writes it, and it is shared",\n        )\n        .ok();',
        WRONG_PLANS,
        "examples of different batches meet before clipping",
    ),
    Bug(
        "the update may write a constant",
        "enclave/plan/src/lifetimes.rs",
        "    kept.extend(plan.frozen());\n",
        "",
        WRONG_PLANS,
        "what is trained is not what is clipped (Opacus 820, LoRA)",
    ),
    Bug(
        "a processor that answers all ones is believed",
        "enclave/boundary/src/random.rs",
        ".filter(|&value| value != 0 && value != u64::MAX)",
        "",
        ("enclave/boundary::gives_up_after_a_bounded_number_of_tries",),
        "a product for TEEs without a secure generator (DEPA): fail closed",
    ),
    Bug(
        "a cipher of a round too few",
        AES,
        "for key in middle {\n            state = abreast(state.map(|block|",
        "for key in &middle[1..] {\n            state = abreast(state.map(|block|",
        ("enclave/boundary::block_of_the_standard",),
        "a generator that can be guessed: a cipher weakened for speed",
    ),
    Bug(
        "neighbouring blocks share a counter",
        AES,
        "_mm_set_epi32(counter.swap_bytes() as i32, c, b, a)",
        "_mm_set_epi32((counter & !1).swap_bytes() as i32, c, b, a)",
        ("enclave/boundary::counter_mode_of_the_standard",),
        "a key stream that is used twice",
    ),
    Bug(
        "a key schedule with another constant",
        AES,
        "double!(0x01 0x02 0x04 0x08 0x10 0x20 0x40);",
        "double!(0x01 0x02 0x04 0x08 0x10 0x20 0x80);",
        ("enclave/boundary::block_of_the_standard", "enclave/boundary::counter_mode_of_the_standard"),
        "a cipher that is none: nothing that is known of AES holds for it",
    ),
    Bug(
        "a block takes its neighbour's counter",
        AES,
        "for (counters, out) in groups.iter().zip(outs) {",
        "for (counters, out) in groups.iter().take(1).cycle().zip(outs) {",
        ("enclave/boundary::every_counter_has_its_block",),
        "a key stream that is used twice",
    ),
    Bug(
        "an image with wide AES runs on any processor",
        "loader/src/features.rs",
        '"x86-64-v3-vaes" => (3, true),',
        '"x86-64-v3-vaes" => (3, false),',
        ("loader::every_target_asks_for_what_its_images_are_compiled_with",),
        "a job that dies of an illegal instruction in the middle of its budget",
    ),
    Bug(
        "sampler and noise share a key",
        "enclave/seal/src/derive.rs",
        "noise: hkdf(job_key, transcript, NOISE_LABEL)?,",
        "noise: hkdf(job_key, transcript, SAMPLING_LABEL)?,",
        ("enclave/seal::run_keys_depend_on_everything",),
        "one key for two purposes (jax 3646)",
    ),
    Bug(
        "masks and noise share a key",
        "enclave/seal/src/derive.rs",
        "dropout: hkdf(job_key, transcript, DROPOUT_LABEL)?,",
        "dropout: hkdf(job_key, transcript, NOISE_LABEL)?,",
        ("enclave/seal::run_keys_depend_on_everything",),
        "one key for two purposes (jax 3646)",
    ),
    Bug(
        "an example's mask is its slot's",
        f"{ENGINE}/step.rs",
        "for (out, &record) in mask.chunks_mut(elements * plan.dp.views).zip(drawn) {",
        "for (out, record) in mask.chunks_mut(elements * plan.dp.views).zip(0..) {",
        ("enclave/engine::every_record_has_its_own_masks_of_every_step",),
        "a record moves the others' gradients: who is beside it decides their randomness",
    ),
    Bug(
        "a mask is a branch",
        f"{MECHANISM}/dropout.rs",
        "*out = f32::from_bits(ones_if_below(word, threshold) & scale.to_bits());",
        "*out = if black_box(word) < threshold { black_box(scale) } else { 0.0 };",
        TRACES,
        "time tells who was kept",
    ),
    Bug(
        "any scale of a mask is taken",
        "enclave/plan/src/masks.rs",
        "if role.scale.to_bits() != (inverse as f32).to_bits() {",
        "if role.scale.is_nan() {",
        WRONG_PLANS,
        "another function is trained than the plan's reader thinks",
    ),
)
