"""Correlated noise: the matrix, its sensitivity by brute force, the event and its ε, and what is refused."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from small_jobs import CASES, plan, small_job

from myelin.errors import BuildError, InputError
from myelin.graph import differentiate
from myelin.model import DPAdamBC
from myelin.privacy import (
    AdaptiveClipping,
    BandedNoise,
    Event,
    calibrate,
    epsilon,
    make_private,
    to_dp_accounting,
)
from myelin.privacy import sensitivity_e9 as sensitivity_e9_of
from myelin.privacy.banded import BandedRelease, batch_of, participations
from myelin.privacy.banded_sensitivity import banded_sensitivity_bound
from myelin.privacy.noise import SIGMA_UNITS


def turns(bands: int = 3, **changes: Any) -> Any:
    values = {"dataset_size": 100, "expected_batch_size": 20, "capacity": 20, "steps": 12}
    return plan(7, correlation=BandedNoise(bands), **{**values, **changes})


def matrix(coefficients: tuple[int, ...], steps: int) -> np.ndarray[Any, Any]:
    wide = np.zeros((steps, steps))
    for place, number in enumerate(coefficients):
        wide += np.diag(np.full(steps - place, number / 1e9), -place)
    return wide


def test_the_coefficients_are_the_square_root_of_prefix_sums() -> None:
    wide = matrix(BandedNoise(12).coefficients_e9, 12)
    np.testing.assert_allclose(wide @ wide, np.tril(np.ones((12, 12))), atol=1e-8)
    assert BandedNoise(1).coefficients_e9 == (10**9,)


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_what_is_released_is_the_matrix_times_the_sums_plus_noise_divided_by_it(bands: int) -> None:
    steps, grid, random = 9, 0.25, np.random.default_rng(3)
    noise_of = BandedNoise(bands)
    banded, wide = BandedRelease(noise_of.coefficients_e9, grid, 4), matrix(noise_of.coefficients_e9, steps)
    sums, noise = random.normal(0, 100, (steps, 4)), random.integers(-50, 50, (steps, 4))
    encoded, found = [], []
    for total, z in zip(sums, noise, strict=True):
        found.append(banded.step(total, z))
        encoded.append(banded.encoded)
    np.testing.assert_array_equal(np.rint(wide @ sums / grid), encoded)
    np.testing.assert_allclose(found, np.linalg.solve(wide, np.array(encoded) + noise), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("bands", "batches", "steps"), [(1, 1, 3), (2, 2, 5), (3, 4, 10), (4, 4, 12), (3, 5, 2)]
)
def test_the_sensitivity_is_the_largest_that_any_pattern_of_turns_has(
    bands: int, batches: int, steps: int
) -> None:
    """All patterns with turns at least as far apart as the bands: none moves the encoded sums further."""
    numbers = BandedNoise(bands).coefficients_e9
    wide = matrix(numbers, steps)
    length = math.sqrt(sum((n / 1e9) ** 2 for n in numbers))
    allowed = math.sqrt(participations(20 * batches, 20, steps)) * length
    worst = 0.0
    for size in range(steps + 1):
        for pattern in itertools.combinations(range(steps), size):
            if all(b - a >= batches for a, b in itertools.pairwise(pattern)):
                worst = max(worst, float(np.linalg.norm(wide[:, list(pattern)].sum(axis=1))))
    assert worst <= allowed * (1 + 1e-12)
    if (steps - bands) // batches + 1 == participations(20 * batches, 20, steps):
        assert worst == pytest.approx(allowed, rel=1e-12)


def test_the_bound_covers_the_coefficients_and_every_rounding() -> None:
    the_plan = turns(4, clipping_norm=0.5)
    numbers = the_plan.correlation.coefficients_e9
    length = math.sqrt(sum((n / 1e9) ** 2 for n in numbers))
    bound = banded_sensitivity_bound(the_plan, 10_000, 7, SIGMA_UNITS)
    assert 0.5 * length < float(bound) < 0.5 * length * 1.002
    # Rounding alone: half a unit on both sides, in each coordinate of four steps.
    unit = Fraction(the_plan.noise_multiplier_e9, 10**9) * bound / SIGMA_UNITS
    assert bound >= Fraction(length) * Fraction(0.5) + Fraction(math.isqrt(4 * 10_000)) * unit
    assert sensitivity_e9_of(the_plan, 10_000, 7, SIGMA_UNITS) == math.ceil(bound * 10**9)
    with pytest.raises(BuildError, match="4 bands"):
        banded_sensitivity_bound(turns(4, noise_multiplier=100.0), 10**7, 7, SIGMA_UNITS)


def test_everyone_has_one_turn_in_as_many_steps_as_there_are_batches() -> None:
    key = bytes(range(32))
    for first in (1, 2, 6):
        drawn = np.concatenate([batch_of(key, step, 94, 20) for step in range(first, first + 5)])
        assert sorted(drawn) == list(range(94))
    assert sorted(batch_of(key, 1, 94, 20)) == sorted(batch_of(key, 6, 94, 20))
    assert not np.array_equal(batch_of(key, 1, 94, 20), batch_of(bytes(32), 1, 94, 20))
    assert not np.array_equal(batch_of(key, 1, 94, 20), range(20))


def event(**changes: Any) -> Event:
    the_plan = turns()
    return Event.from_map({**the_plan.event(100, 2 * 10**9), **changes})


@pytest.mark.parametrize(("steps", "times"), [(1, 1), (5, 1), (6, 2), (12, 3)])
def test_a_run_is_one_gaussian_mechanism(steps: int, times: int) -> None:
    made = event(noise_multiplier_e9=6 * 10**9, steps=steps)
    assert made.participations == times
    assert Event.from_map(made.as_map()) == made
    ideal = to_dp_accounting(made)
    assert isinstance(ideal, dp_accounting.GaussianDpEvent)
    assert ideal.noise_multiplier <= 6 / math.sqrt(times) <= ideal.noise_multiplier * (1 + 1e-9)
    stranger = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    exact = stranger.compose(dp_accounting.GaussianDpEvent(6 / math.sqrt(times))).get_epsilon(1e-5)
    assert exact * 0.9999 <= epsilon(made, 1e-5) <= 1.01 * exact
    drawn = plan(20, dataset_size=100, capacity=20, steps=steps, noise_multiplier=6.0).event(100, 10**9)
    assert epsilon([made.as_map(), drawn], 1e-5) > max(epsilon(made, 1e-5), epsilon(drawn, 1e-5))


def test_calibrate_finds_its_multiplier() -> None:
    sizes = {"dataset_size": 100, "expected_batch_size": 20, "capacity": 20, "steps": 12}
    found = calibrate(2.0, 1e-5, **sizes, parameters=100, correlation=BandedNoise(3))
    for multiplier, fits in ((found, True), (found - 0.001, False)):
        assert (epsilon(event(noise_multiplier_e9=round(multiplier * 1e9)), 1e-5) <= 2.0) == fits


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"correlation": [10**9] * 6}, "no more than 5"),
        ({"correlation": [10**9 - 1]}, "1000000000 first"),
        ({"correlation": [10**9, 1, 2]}, "ever less"),
        ({"correlation": [10**9, 0]}, "whole numbers from 1"),
        ({"correlation": [10**9] * 65, "dataset_size": 10**6}, "at most 64"),
        ({"correlation": "1"}, "an array"),
        ({"sampling_threshold": 5}, "expected 0"),
        ({"sensitivity_e9": 1_100_000_000}, "correlation"),
        ({"type": "truncated-poisson-gaussian"}, "type"),
        ({"correlation": []}, "at least 1"),
        ({"correlation": [], "sampling_threshold": 5}, "type"),
    ],
)
def test_an_event_that_is_none_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        event(**changes)


def test_what_a_plan_refuses() -> None:
    for changes, says in (
        ({"capacity": 21}, "expected the batch size, 20"),
        ({"bands": 6}, "at most 5 bands"),
        ({"clipping": AdaptiveClipping(count_noise=10.0)}, "expected None with AdaptiveClipping"),
    ):
        with pytest.raises(InputError, match=says):
            turns(**changes)
    for bands in (0, 65, 2.0, True):
        with pytest.raises(InputError, match="expected 1 to 64"):
            BandedNoise(bands)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Give BandedNoise"):
        plan(5, correlation=8)
    job = small_job(*CASES["logistic"], turns(), DPAdamBC(0.1))
    with pytest.raises(BuildError, match="noise is correlated"):
        make_private(differentiate(job), job.plan)
