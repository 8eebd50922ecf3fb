"""DpPlan: what it accepts, what it derives, and what it says when it refuses."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import pytest

from myelin.errors import InputError
from myelin.privacy import DpPlan

GOOD: dict[str, Any] = {
    "dataset_size": 455,
    "expected_batch_size": 64,
    "capacity": 128,
    "microbatch": 64,
    "steps": 200,
    "noise_multiplier": 3.0,
    "clipping_norm": 1.0,
    "delta": 1e-5,
}


def plan(**changes: Any) -> DpPlan:
    return DpPlan(**{**GOOD, **changes})


def test_threshold_is_the_floor_of_the_sampling_rate() -> None:
    assert plan().sampling_threshold == (64 * 2**64) // 455
    assert Fraction(plan().sampling_threshold, 2**64) <= Fraction(64, 455)
    assert plan(expected_batch_size=455, capacity=455).sampling_threshold == 2**64 - 1
    assert plan(capacity=130).physical_batches == 3


@pytest.mark.parametrize(
    ("value", "down", "up"),
    [
        (1.0, 10**9, 10**9),
        (0.1, 10**8, 10**8),
        (1.1, 1_100_000_000, 1_100_000_000),
        (1 / 3, 333333333, 333333334),
    ],
)
def test_scaled_numbers_round_towards_privacy(value: float, down: int, up: int) -> None:
    made = plan(noise_multiplier=value, clipping_norm=value)
    assert (made.noise_multiplier_e9, made.clipping_norm_e9) == (down, up)


def test_event_is_the_map_of_the_protocol() -> None:
    assert plan().event(1_000, 1_000_000_123, dataset_size=450) == {
        "type": "truncated-poisson-gaussian",
        "neighboring_relation": "replace-special",
        "dataset_size": 450,
        "sampling_threshold": (64 * 2**64) // 455,
        "capacity": 128,
        "noise_multiplier_e9": 3 * 10**9,
        "clipping_norm_e9": 10**9,
        "sensitivity_e9": 1_000_000_123,
        "expected_batch_size": 64,
        "steps": 200,
        "parameters": 1_000,
        "clipping": ["flat"],
        "correlation": [],
        "augment": [],
        "views": 1,
    }
    with pytest.raises(InputError, match=r"sensitivity_e9\).*got 999999999"):
        plan().event(1_000, 999_999_999)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("dataset_size", 0, "expected 1 to 2147483648, got 0"),
        ("dataset_size", 2**31 + 1, "got 2147483649"),
        ("dataset_size", 455.0, "expected a whole number, got 455.0"),
        ("expected_batch_size", 456, "cannot draw more records than dataset_size"),
        ("expected_batch_size", True, "expected a whole number, got True"),
        ("capacity", 63, "try 96"),
        ("microbatch", 129, "Give at most the capacity"),
        ("microbatch", 0, "got 0"),
        ("steps", 0, "got 0"),
        ("noise_multiplier", 0, "calibrate"),
        ("noise_multiplier", float("nan"), "got nan"),
        ("noise_multiplier", "1", "got '1'"),
        ("clipping_norm", 0.0, "got 0.0"),
        ("clipping_norm", float("inf"), "got inf"),
        ("delta", 0, "above 0 and below 1"),
        ("delta", 1.0, "above 0 and below 1"),
        ("clipping", "flat", "Give FlatClipping(), Auto"),
    ],
)
def test_refuses_with_field_expected_got_and_advice(field: str, value: Any, says: str) -> None:
    with pytest.raises(InputError) as refused:
        plan(**{field: value})
    assert str(refused.value).startswith(f"DpPlan.{field}: expected ")
    assert says in str(refused.value)


def test_is_a_frozen_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan().steps = 3  # type: ignore[misc]
    assert DpPlan(**plan().as_dict()) == plan()  # type: ignore[arg-type]
