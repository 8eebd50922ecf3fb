"""The law of a draw: its probabilities by other means, and that worse constructions are found out.

The enumeration (:func:`noise_law.distance`) is held against exact integer arithmetic where that is feasible,
at a few places of the enclave's law and at all of a small construction's, and against the closed form that
explains it.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest

from myelin.privacy import noise, noise_law
from myelin.privacy.noise_law import CONSTRUCTION, HEAD_BITS, RESERVE_BITS, Construction

SMALL = Construction(4, (4, 3, 4, 5, 7, 9, 16, 16))
SIGMA = CONSTRUCTION.sigma
MP = mpmath.mp.clone()
MP.dps = 60


@lru_cache(maxsize=4)
def _ways(orders: tuple[int, ...]) -> tuple[int, ...]:
    """In how many ways the bits add up to 0, 1, 2, …"""
    ways = [1]
    for place, order in enumerate(orders):
        for _ in range(order):
            ways = [a + b for a, b in zip(ways + [0] * (1 << place), [0] * (1 << place) + ways, strict=True)]
    return tuple(ways)


def _rounded_gaussian(z: int, sigma: int) -> Any:
    """Probability that ``N(0, sigma²)`` rounds to ``z``."""
    scale = sigma * MP.sqrt(2)
    z = abs(z)
    return (MP.erfc((z - MP.mpf(1) / 2) / scale) - MP.erfc((z + MP.mpf(1) / 2) / scale)) / 2


def _drawn(z: int, weights: tuple[Any, ...], construction: Construction) -> Any:
    """Probability of the draw ``z``, in exact arithmetic but for the weights."""
    ways, spacing = _ways(construction.orders), construction.spacing
    total = MP.mpf(0)
    for y in range(1 - len(weights), len(weights)):
        place = z + construction.fine_mean - y * spacing
        if 0 <= place < len(ways):
            total += MP.mpf(weights[abs(y)]) * ways[place]
    return total / 2 ** sum(construction.orders)


@pytest.fixture(scope="module")
def weights() -> tuple[Any, ...]:
    return noise_law.implemented_probabilities()


@pytest.fixture(scope="module")
def distance(weights: tuple[Any, ...]) -> tuple[float, float]:
    return noise_law.distance(weights)


def test_published_bounds_are_the_computed_ones(distance: tuple[float, float]) -> None:
    divergence, outside = distance
    assert divergence <= noise_law.DIVERGENCE < 2 * divergence
    apart = outside + noise_law.exhaustion()
    assert apart <= noise_law.TOTAL_VARIATION < 2 * apart


def test_enumeration_is_the_closed_form(distance: tuple[float, float]) -> None:
    # Rounding of tables, the ends, and what is not leading order: a few percent.
    assert distance[0] == pytest.approx(noise_law.alias_divergence(), rel=0.05)
    ideal = noise_law.coarse_probabilities(SMALL)[:45]
    assert noise_law.distance(ideal, SMALL)[0] == pytest.approx(noise_law.alias_divergence(SMALL), rel=1e-3)


def test_enumeration_is_exact_arithmetic() -> None:
    ideal = noise_law.coarse_probabilities(SMALL)[:45]
    scale = SMALL.sigma * MP.sqrt(2)
    last = int(noise_law.BODY * SMALL.sigma)
    beyond = [MP.erfc((MP.mpf(z) - MP.mpf(1) / 2) / scale) / 2 for z in range(last + 2)]
    exact = MP.mpf(0)
    for z in range(last + 1):
        gaussian, drawn = beyond[z] - beyond[z + 1], _drawn(z, ideal, SMALL)
        exact += (1 if z == 0 else 2) * (drawn - gaussian) ** 2 / gaussian
    divergence, outside = noise_law.distance(ideal, SMALL)
    assert divergence == pytest.approx(float(exact), rel=1e-5)
    assert float(2 * beyond[-1]) <= outside <= 1.1 * float(2 * beyond[-1])


@pytest.mark.parametrize("deviations", [0, 1, 3.5, 7])
def test_probabilities_are_the_rounded_gaussians(deviations: float, weights: tuple[Any, ...]) -> None:
    fine = noise_law.fine_probabilities()
    for z in (round(deviations * SIGMA), -round(deviations * SIGMA) + 12_345):
        drawn = MP.mpf(0)
        for y in range(1 - len(weights), len(weights)):
            place = z + CONSTRUCTION.fine_mean - y * CONSTRUCTION.spacing
            if 0 <= place < len(fine):
                drawn += MP.mpf(weights[abs(y)]) * MP.mpf(
                    np.format_float_scientific(fine[place], precision=25)
                )
        # The images' terms grow like Hermite polynomials of z / σ: at seven deviations, by 2^20 and more.
        allowed = 2.0**-41 if deviations < 4 else 2.0**-25
        assert abs(drawn / _rounded_gaussian(z, SIGMA) - 1) < allowed


def test_the_bits_probabilities_are_counts() -> None:
    ways = _ways(SMALL.orders)
    law = noise_law.fine_probabilities(SMALL)
    assert len(law) == len(ways) == 2 * SMALL.fine_mean + 1
    exact = [float(Fraction(way, 2 ** sum(SMALL.orders))) for way in ways]
    assert np.allclose(law.astype(np.float64), exact, rtol=1e-15, atol=0)


def test_draws_are_never_narrower_than_the_gaussian() -> None:
    # Var(round(N(0, σ²))) is σ² + 1/12, and the construction's is that of its coarse part plus its bits'.
    ideal = noise_law.coarse_probabilities()
    coarse = sum(2 * y * y * ideal[y] for y in range(1, 45))
    bits = sum(MP.mpf(order) * 4**place / 4 for place, order in enumerate(CONSTRUCTION.orders))
    variance = MP.mpf(coarse) * CONSTRUCTION.spacing**2 + bits
    assert abs(variance / (SIGMA**2 + MP.mpf(1) / 12) - 1) < 1e-25


def _changed(place: int, by: int) -> tuple[int, ...]:
    orders = list(CONSTRUCTION.orders)
    orders[place] += by
    return tuple(orders)


@pytest.mark.parametrize("place", range(1, 16))
def test_with_one_bit_fewer_of_a_weight_the_bound_does_not_hold(place: int) -> None:
    assert noise_law.alias_divergence(Construction(4, _changed(place, -1))) > noise_law.DIVERGENCE


def test_a_worse_table_is_found_out(
    monkeypatch: pytest.MonkeyPatch, weights: tuple[Any, ...], distance: tuple[float, float]
) -> None:
    """On a small construction the same faults show, so they would in the enclave's."""
    ideal = noise_law.coarse_probabilities(SMALL)[:45]
    base = noise_law.distance(ideal, SMALL)
    shifted = (ideal[0] + MP.mpf(2) ** -28, ideal[1] - MP.mpf(2) ** -29, *ideal[2:])
    assert noise_law.distance(shifted, SMALL)[0] > 1.5 * base[0]
    cut = ideal[:30]
    assert noise_law.distance(cut, SMALL)[0] > 1.5 * base[0]


def test_tables_give_the_ideal_weights(weights: tuple[Any, ...]) -> None:
    ideal = noise_law.coarse_probabilities()
    total = weights[0] + 2 * sum(weights[1:])
    assert abs(total - 1) < MP.mpf(2) ** -180
    # A reserve's threshold is off by 2^-64 at most, of the reserve's share.
    allowed = 2 * MP.mpf(noise_law.reserve_share()) * MP.mpf(2) ** -(RESERVE_BITS + 1)
    assert all(abs(w - i) <= allowed for w, i in zip(weights, ideal, strict=False))
    largest = (len(weights) - 1) * CONSTRUCTION.spacing + CONSTRUCTION.fine_mean
    assert largest == noise.MAX_UNITS


def test_a_lane_hardly_ever_wants_more_than_its_reserve() -> None:
    share, draws = noise_law.reserve_share(), noise_law.LANE_DRAWS
    exact = MP.mpf(1) - sum(
        MP.binomial(draws, k) * MP.mpf(share) ** k * (1 - MP.mpf(share)) ** (draws - k)
        for k in range(noise_law.RESERVE + 1)
    )
    assert exact <= noise_law.exhaustion() * draws <= 1.01 * exact
    assert 16 * draws == noise.CHUNK_COORDINATES


def _numbers(function: str) -> tuple[int, ...]:
    source = Path(__file__).parents[2] / "enclave" / "mechanism" / "src" / "table.rs"
    body = source.read_text().split(f"fn {function}(")[1].split("count_reached!")[1].split(")")[0]
    return tuple(int(number.replace("_", "")) for number in re.findall(r"\b[0-9][0-9_]+\b", body))


def test_tables_of_the_enclave_are_the_computed_ones() -> None:
    assert _numbers("head_reached") == tuple(row << 8 for row in noise_law.head())
    assert _numbers("reserve_reached") == noise_law.reserve()
    assert noise_law.head()[-1] < 2**HEAD_BITS


# --- what it costs a run


def test_slack_is_the_sum_of_masses_and_the_root_of_divergences() -> None:
    draws = 26_010 * 1_800
    expected = draws * noise_law.TOTAL_VARIATION + math.sqrt(draws * noise_law.DIVERGENCE / 2)
    expected += (33 * draws) ** 2 / 2**129
    assert noise.slack(26_010, 1_800) == (0.0, expected)
    assert expected < 1e-9


def test_two_runs_slacks_cover_the_run_of_both() -> None:
    one, both = noise.slack(10**6, 500)[1], noise.slack(10**6, 1000)[1]
    assert one < both < 2 * one


def test_slack_stays_far_below_delta_for_large_models() -> None:
    assert noise.slack(2**21, 2**10)[1] < 2.0**-29
