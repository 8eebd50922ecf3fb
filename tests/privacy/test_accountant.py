"""ε against dp_accounting, against closed forms and against brute force; budgets and calibration."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from scipy import optimize, stats

from myelin.errors import InputError
from myelin.privacy import Event, calibrate, compose, epsilon, total_variation_of
from myelin.privacy.noise import slack

REPLACE_SPECIAL = dp_accounting.NeighboringRelation.REPLACE_SPECIAL


def event(**changes: Any) -> Event:
    fields = {
        "dataset_size": 455,
        "sampling_threshold": (64 << 64) // 455,
        "capacity": 128,
        "noise_multiplier_e9": 3 * 10**9,
        "clipping_norm_e9": 10**9,
        "sensitivity_e9": 10**9,
        "expected_batch_size": 64,
        "steps": 50,
        "parameters": 1000,
    }
    return Event(**{**fields, **changes})


FULL = {"sampling_threshold": 2**64 - 1, "capacity": 455}


def gaussian_epsilon(multiplier: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8: the Gaussian mechanism's ε at δ."""

    def excess(eps: float) -> float:
        half, shift = 1 / (2 * multiplier), eps * multiplier
        return float(stats.norm.cdf(half - shift) - math.exp(eps) * stats.norm.cdf(-half - shift)) - delta

    return float(optimize.brentq(excess, 0, 100))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"capacity": 70},
        {"noise_multiplier_e9": 2 * 10**9, "steps": 20},
        {"dataset_size": 60_000, "sampling_threshold": (512 << 64) // 60_000, "capacity": 640, "steps": 300},
    ],
)
def test_is_never_below_a_finer_computation_and_close_to_it(changes: dict[str, Any]) -> None:
    accountant = PLDAccountant(REPLACE_SPECIAL, value_discretization_interval=1e-4)
    accountant.compose(compose(event(**changes)))
    fine = accountant.get_epsilon(1e-5)
    assert fine <= epsilon(event(**changes), 1e-5) <= fine * 1.002 + 5e-4


# Records, expected batch, room above it in standard deviations, multiplier, steps, δ.
GRID = [
    (455, 32, 8, 4.0, 100, 1e-5),
    (455, 128, 1, 3.0, 10, 1e-3),
    (8_000, 64, 0, 2.0, 40, 1e-5),
    (8_000, 800, 3, 6.0, 200, 1e-6),
    (60_000, 256, 4, 1.3, 200, 1e-5),
    (60_000, 1024, 6, 1.5, 1_000, 1e-5),
    (60_000, 4096, 2, 10.0, 2_000, 1e-7),
    (1_000_000, 500, 5, 1.2, 50, 1e-6),
    (1_000_000, 20_000, 4, 2.0, 100, 1e-8),
    (5_000, 5_000, 0, 12.0, 60, 1e-5),
]


@pytest.mark.parametrize(("records", "batch", "room", "multiplier", "steps", "delta"), GRID)
def test_is_within_a_hundredth_of_dp_accounting_and_never_below(
    records: int, batch: int, room: int, multiplier: float, steps: int, delta: float
) -> None:
    """Its accountant's grid is five times finer, and has no slack of noise and sampler."""
    made = event(
        dataset_size=records,
        sampling_threshold=min((batch << 64) // records, 2**64 - 1),
        capacity=min(records, batch + room * math.isqrt(batch)),
        noise_multiplier_e9=round(multiplier * 1e9),
        steps=steps,
    )
    accountant = PLDAccountant(REPLACE_SPECIAL)
    theirs = accountant.compose(compose(made)).get_epsilon(delta)
    assert theirs <= epsilon(made, delta) <= 1.01 * theirs


@pytest.mark.parametrize(("multiplier", "steps"), [(3.0, 1), (3.0, 9), (20.0, 100)])
def test_is_the_closed_form_where_everyone_is_drawn(multiplier: float, steps: int) -> None:
    got = epsilon(event(**FULL, noise_multiplier_e9=round(multiplier * 1e9), steps=steps), 1e-5)
    exact = gaussian_epsilon(multiplier / math.sqrt(steps), 1e-5)
    assert exact <= got <= exact * 1.002 + 1e-4


def _density(means: dict[float, float], sigma: float, x: np.ndarray) -> np.ndarray:
    return sum(weight * stats.norm.pdf(x, mean, sigma) for mean, weight in means.items())  # type: ignore[return-value]


def _sums(values: tuple[float, ...], rate: float, capacity: int) -> dict[float, float]:
    """Distribution of the sum over a truncated Poisson sample, by enumerating every draw and every subset."""
    means: dict[float, float] = {}
    for drawn in itertools.product((0, 1), repeat=len(values)):
        chance = math.prod(rate if one else 1 - rate for one in drawn)
        members = [value for value, one in zip(values, drawn, strict=True) if one]
        subsets = list(itertools.combinations(members, min(capacity, len(members))))
        for subset in subsets:
            total = float(sum(subset))
            means[total] = means.get(total, 0.0) + chance / len(subsets)
    return means


@pytest.mark.parametrize("others", [(1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (0.0, 0.0), (-1.0, 1.0, -1.0)])
@pytest.mark.parametrize("x", [1.0, -1.0])
@pytest.mark.parametrize(("rate", "capacity"), [(0.5, 1), (0.3, 2), (0.9, 2)])
def test_covers_a_truncated_mechanism_enumerated(
    others: tuple[float, ...], x: float, rate: float, capacity: int
) -> None:
    sigma, delta = 1.5, 1e-3
    spent = epsilon(
        event(
            dataset_size=len(others) + 1,
            sampling_threshold=int(rate * 2**64),
            capacity=capacity,
            noise_multiplier_e9=round(sigma * 1e9),
            steps=1,
        ),
        delta,
    )
    grid, width = np.linspace(-16, 16, 3201, retstep=True)
    with_x = _density(_sums((x, *others), rate, capacity), sigma, grid)
    without = _density(_sums(others, rate, capacity), sigma, grid)
    for p, q in ((with_x, without), (without, with_x)):
        assert np.maximum(p - math.exp(spent) * q, 0).sum() * width <= delta * (1 + 1e-6)


def test_an_event_that_ignored_truncation_would_fail_the_enumeration() -> None:
    # The same mechanism accounted as untruncated: the enumeration must be able to tell.
    sigma, delta, others, rate = 1.5, 1e-3, (-1.0, -1.0), 0.9
    untruncated = epsilon(
        event(
            dataset_size=3,
            sampling_threshold=int(rate * 2**64),
            capacity=3,
            noise_multiplier_e9=round(sigma * 1e9),
            steps=1,
        ),
        delta,
    )
    grid, width = np.linspace(-16, 16, 3201, retstep=True)
    p = _density(_sums((1.0, *others), rate, 1), sigma, grid)
    q = _density(_sums(others, rate, 1), sigma, grid)
    worst = max(np.maximum(a - math.exp(untruncated) * b, 0).sum() * width for a, b in ((p, q), (q, p)))
    assert worst > 1.01 * delta


@pytest.mark.parametrize(
    "costlier",
    [
        {"noise_multiplier_e9": 2 * 10**9},
        {"steps": 60},
        {"sampling_threshold": (70 << 64) // 455},
        {"capacity": 66},
        {"parameters": 2**40, "steps": 50},
    ],
)
def test_costs_more_for_less_noise_more_steps_more_drawn_less_room(costlier: dict[str, Any]) -> None:
    assert epsilon(event(**costlier), 1e-5) > epsilon(event(), 1e-5)


def test_composition_costs_less_than_the_sum_and_as_much_as_more_steps() -> None:
    one, two = epsilon(event(), 1e-5), epsilon([event(), event()], 1e-5)
    assert one < two < 2 * one
    assert two == pytest.approx(epsilon(event(steps=100), 1e-5), abs=2e-6)
    assert epsilon([event(), event(steps=3)], 1e-5) == epsilon([event(steps=3), event()], 1e-5)
    assert epsilon([], 1e-5) == 0.0
    assert epsilon(event().as_map(), 1e-5) == one


def test_the_noise_of_the_implementation_is_paid_from_delta() -> None:
    big = event(parameters=2**40)
    assert total_variation_of(big) == pytest.approx(slack(2**40, 50)[1] + 50 * 455 / 2**64)
    assert total_variation_of([big, big]) == 2 * total_variation_of(big)
    value = epsilon(big, 1e-5)
    share = (1 + math.exp(value)) * total_variation_of(big)
    assert epsilon(event(), 1e-5 - share) == pytest.approx(value, abs=2e-6)
    assert epsilon(big, 2e-7) == math.inf


def test_rounds_up_to_a_millionth() -> None:
    value = epsilon(event(), 1e-5)
    assert value * 1e6 == pytest.approx(round(value * 1e6), abs=1e-6)


@pytest.mark.parametrize("delta", [0, 1, -1e-5, float("nan"), "1e-5", True])
def test_refuses_a_delta_that_is_none(delta: Any) -> None:
    with pytest.raises(InputError, match="delta: expected a number above 0 and below 1"):
        epsilon(event(), delta)


def test_calibrates_to_the_smallest_sufficient_noise() -> None:
    sizes = {"dataset_size": 455, "expected_batch_size": 64, "capacity": 128, "steps": 50}
    multiplier = calibrate(1.5, 1e-5, **sizes, parameters=1000)
    at = [
        epsilon(event(noise_multiplier_e9=round(multiplier * 1000 - less) * 10**6), 1e-5) for less in (0, 1)
    ]
    assert at[0] <= 1.5 < at[1]
    with pytest.raises(InputError, match="no noise multiplier"):
        calibrate(1e-9, 1e-5, **sizes)
    with pytest.raises(InputError, match="target_epsilon"):
        calibrate(-1, 1e-5, **sizes)


def test_needs_no_compiler() -> None:
    code = (
        "import sys; from myelin.privacy import DpPlan, epsilon, calibrate, Event; "
        "import myelin.privacy.noise, myelin.privacy.sampling; sys.exit('tvm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier_e9": 1},
        {"noise_multiplier_e9": 10**7},
        {"noise_multiplier_e9": 5 * 10**7, "steps": 1000},
        {"noise_multiplier_e9": 10**9, "steps": 2**32 - 1},
    ],
)
def test_a_strangers_event_does_not_cost_minutes_or_all_memory(changes, monkeypatch):
    """A certificate or draft says any numbers; such a loss is not computed, and counts as unbounded."""

    def computed(*_: object) -> None:
        raise AssertionError("its loss was computed")

    monkeypatch.setattr("myelin.privacy.accountant._composed_loss", computed)
    assert epsilon(event(**changes), 1e-5) == math.inf
