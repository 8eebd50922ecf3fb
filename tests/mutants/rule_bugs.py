"""Bugs in clipping rules and in correlated noise."""

from __future__ import annotations

from bug import Bug

P = "src/myelin/privacy"
T = "tests/privacy"

RULES = (
    Bug(
        "every layer may have the whole clipping norm",
        f"{P}/clipping_rule.py",
        "math.isqrt(math.floor(clipping_norm_e9**2 * square / total))",
        "math.isqrt(math.floor(clipping_norm_e9**2 * square))",
        (f"{T}/test_clipping_rules.py::test_groups_are_modules_and_their_bounds_squared_add_up",),
        "per-layer clipping accounted with one layer's bound",
    ),
    Bug(
        "a rule's coefficients are rounded to the nearest",
        f"{P}/clipping.py",
        "LOWERED = 1.0 - _SLACK",
        "LOWERED = 1.0",
        (
            f"{T}/test_clipping_rules.py::test_automatic_coefficients_never_let_more_than_the_clipping_norm_pass",
        ),
        "rounding that takes a clipped gradient above its bound",
    ),
    Bug(
        "adaptive clipping adds in units that the sensitivity does not know",
        f"{P}/clipping_kernels.py",
        "return (one / selected(norm > bound, norm, bound) * lower)",
        "return (bound / selected(norm > bound, norm, bound) * lower)",
        (f"{T}/test_adaptive_clipping.py::test_no_example_adds_more_than_one_norm_whatever_the_norm_is",),
        "the accountant is fed another clipping norm than was run (Opacus 807)",
    ),
    Bug(
        "the count of adaptive clipping is free",
        f"{P}/clipping_rule.py",
        "return math.isqrt(_E9**2 + self.half_weight_e9(plan) ** 2 - 1) + 1",
        "return _E9",
        (f"{T}/test_adaptive_clipping.py::test_gradients_and_count_share_the_noise_as_in_the_paper",),
        "a query of its own that is not accounted",
    ),
    Bug(
        "records that take turns are accounted for one",
        f"{P}/banded.py",
        "return -(-steps // -(-dataset_size // capacity))",
        "return 1",
        (f"{T}/test_banded.py::test_a_run_is_one_gaussian_mechanism",),
        "several epochs accounted as one (Chua 2024, multi-epoch)",
    ),
    Bug(
        "the sensitivity of correlated noise is that of one step",
        f"{P}/banded_sensitivity.py",
        "return (length * single + steps * float64)",
        "return (single + steps * float64)",
        (f"{T}/test_banded.py::test_the_bound_covers_the_coefficients_and_every_rounding",),
        "sensitivity bugs of matrix mechanisms (JAX-Privacy 2026-05-15)",
    ),
    Bug(
        "an event may take turns closer than its bands",
        f"{P}/banded.py",
        "    if batches < len(numbers):",
        "    if False:",
        (f"{T}/test_banded.py::test_an_event_that_is_none_is_refused",),
        "a matrix mechanism whose participation pattern is another than the accounted one",
    ),
    Bug(
        "the enclave takes turns closer than the bands",
        "enclave/engine/src/turns.rs",
        "if batches < bands {",
        "if batches + bands < bands {",
        ("enclave/engine::a_turn_that_would_come_again_too_soon_is_refused",),
        "a matrix mechanism whose participation pattern is another than the accounted one",
    ),
    Bug(
        "correlated steps all have the noise of the first",
        "enclave/engine/src/turns.rs",
        "u64::from(step),",
        "u64::from(step.min(1)),",
        (
            "tests/audit/test_turns.py::test_the_model_is_the_mechanism_to_the_bit_and_the_certificate_says_so",
        ),
        "noise that is the same in every step",
    ),
)
