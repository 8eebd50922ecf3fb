"""DpEvent maps: exactly their keys, exactly their ranges; rounded towards privacy for dp_accounting."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import dp_accounting
import pytest

from myelin.errors import InputError
from myelin.privacy import Event, to_dp_accounting

MAP: dict[str, Any] = {
    "type": "truncated-poisson-gaussian",
    "neighboring_relation": "replace-special",
    "dataset_size": 455,
    "sampling_threshold": (64 << 64) // 455,
    "capacity": 128,
    "noise_multiplier_e9": 3 * 10**9,
    "clipping_norm_e9": 10**9,
    "sensitivity_e9": 10**9 + 7,
    "expected_batch_size": 64,
    "steps": 200,
    "parameters": 1000,
    "clipping": ["flat"],
    "correlation": [],
    "augment": [],
    "views": 1,
}


def test_goes_through_and_back() -> None:
    assert Event.from_map(MAP).as_map() == MAP


def test_is_the_event_of_dp_accounting() -> None:
    event = to_dp_accounting(MAP)
    assert event.count == 200
    assert isinstance(event.event, dp_accounting.TruncatedSubsampledGaussianDpEvent)
    assert (event.event.dataset_size, event.event.truncated_batch_size) == (455, 128)
    assert event.event.noise_multiplier == 3.0
    assert Fraction(event.event.sampling_probability) >= Fraction(MAP["sampling_threshold"], 2**64)


@pytest.mark.parametrize("threshold", [1, 2**53 + 1, 2**63 + 1, 2**64 - 1, (64 << 64) // 455])
@pytest.mark.parametrize("multiplier_e9", [1, 333_333_333, 1_100_000_000, 2**63 - 1])
def test_rounds_towards_privacy_and_by_less_than_an_ulp(threshold: int, multiplier_e9: int) -> None:
    event = Event.from_map({**MAP, "sampling_threshold": threshold, "noise_multiplier_e9": multiplier_e9})
    rate, multiplier = Fraction(event.sampling_rate), Fraction(event.noise_multiplier)
    assert 0 <= rate - Fraction(threshold, 2**64) <= Fraction(threshold, 2**64) / 2**52
    assert 0 <= Fraction(multiplier_e9, 10**9) - multiplier <= Fraction(multiplier_e9, 10**9) / 2**52


@pytest.mark.parametrize("key", sorted(MAP))
def test_refuses_a_missing_key_and_names_it(key: str) -> None:
    with pytest.raises(InputError, match=key):
        Event.from_map({name: value for name, value in MAP.items() if name != key})


@pytest.mark.parametrize("key", sorted(MAP))
@pytest.mark.parametrize("value", [0, -1, 2**64, True, 1.0, "1", None, b"x" * 200, [1]])
def test_refuses_values_out_of_range_in_few_words(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=key) as refused:
        Event.from_map({**MAP, key: value})
    assert len(str(refused.value)) < 400


def test_refuses_unknown_keys_other_shapes_and_too_little_sensitivity() -> None:
    with pytest.raises(InputError, match="unknown: 'loss'"):
        Event.from_map({**MAP, "loss": 1})
    with pytest.raises(InputError, match="expected a map, got list"):
        Event.from_map([])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least the clipping norm"):
        Event.from_map({**MAP, "sensitivity_e9": 10**9 - 1})
