"""The noise: its exact distribution, its bound, and statistics that faulty noise fails.

Three kinds of evidence. *Exact*: probabilities of single draws, computed with integers, against the
Gaussian's to 60 digits; the bound of aliases against full enumerations of smaller constructions. *Bit for
bit*: the table in the enclave and known answers. *Statistical*: two million draws; honest ones stay within
``FAR`` standard deviations in every statistic, which chance breaks less than once in a hundred thousand keys;
planted faults do not, by the margin asserted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from myelin.errors import InputError
from myelin.privacy import noise
from myelin.privacy.noise import CONSTRUCTION, MAX_UNITS, SIGMA_UNITS, Construction

KEY = bytes(range(32))
FAR = 5.0
COUNT = 2**21
MP = mpmath.mp.clone()
MP.dps = 60

Noise = npt.NDArray[np.int64]

# --- the exact distribution


@lru_cache(maxsize=4)
def _binomials(uniforms: int) -> tuple[int, ...]:
    return tuple(math.comb(uniforms, k) for k in range(uniforms + 1))


def _fine(total: int, construction: Construction) -> Any:
    """Probability that the uniforms' sum is ``total``: inclusion and exclusion over integers."""
    spacing, uniforms = construction.spacing, construction.uniforms
    ways = 0
    for k, choose in enumerate(_binomials(uniforms)):
        rest = total - k * spacing
        if rest < 0:
            break
        ways += (-1) ** k * choose * math.comb(rest + uniforms - 1, uniforms - 1)
    return MP.mpf(ways) / spacing**uniforms


def _implemented(z: int, weights: Callable[[int], Any], construction: Construction = CONSTRUCTION) -> Any:
    """Probability of the draw ``z`` when the coarse part ``y`` has ``weights(y)``."""
    mean = construction.uniforms * (construction.spacing - 1) // 2
    top = (z + mean) // construction.spacing
    candidates = range(top - construction.uniforms, top + 1)
    return sum(
        (weights(y) * _fine(z + mean - y * construction.spacing, construction) for y in candidates), MP.mpf(0)
    )


def _rounded_gaussian(z: int, sigma: int) -> Any:
    """Probability that ``N(0, sigma²)`` rounds to ``z``."""
    scale = sigma * MP.sqrt(2)
    z = abs(z)
    return (MP.erfc((z - MP.mpf(1) / 2) / scale) - MP.erfc((z + MP.mpf(1) / 2) / scale)) / 2


def _table_weight(y: int) -> Any:
    steps = [0, *noise.thresholds(), 2**63]
    if abs(y) + 1 >= len(steps):
        return MP.mpf(0)
    return MP.mpf(steps[abs(y) + 1] - steps[abs(y)]) / 2**63 / (1 if y == 0 else 2)


def _ideal_weight(y: int) -> Any:
    ideal = noise.coarse_probabilities()
    return MP.mpf(ideal[abs(y)]) if abs(y) < len(ideal) else MP.mpf(0)


@pytest.mark.parametrize("deviations", [0, 0.25, 1, 2, 3.5, 5, 7])
def test_probabilities_are_the_rounded_gaussians(deviations: float) -> None:
    for z in (round(deviations * SIGMA_UNITS), -round(deviations * SIGMA_UNITS) + 12_345):
        exact = _rounded_gaussian(z, SIGMA_UNITS)
        # The alias term grows like the twelfth Hermite polynomial of z / σ.
        hermite = abs(MP.hermite(12, abs(z) / (SIGMA_UNITS * MP.sqrt(2)))) / 2**6 + 20_000
        allowed = 4 * hermite / (2 * MP.pi * CONSTRUCTION.coarse_sigma) ** 12
        assert abs(_implemented(z, _ideal_weight) / exact - 1) < allowed
        # The table's rounding: at most 2^-63 in each of thirteen weights, which the uniforms spread over the
        # spacing.
        assert abs(_implemented(z, _table_weight) - _implemented(z, _ideal_weight)) < MP.mpf(2) ** -75


def test_a_slightly_different_gaussian_is_told_from_it() -> None:
    # The exact comparison above has the power to see a standard deviation off by one part in 10^15.
    z = 2 * SIGMA_UNITS
    gaussian = _rounded_gaussian(z, SIGMA_UNITS)
    scale = SIGMA_UNITS * (1 + MP.mpf(10) ** -15) * MP.sqrt(2)
    other = (MP.erfc((z - MP.mpf("0.5")) / scale) - MP.erfc((z + MP.mpf("0.5")) / scale)) / 2
    assert abs(other / gaussian - 1) > 1e-15
    assert abs(_implemented(z, _ideal_weight) / gaussian - 1) < 1e-16


def test_draws_are_never_narrower_than_the_gaussian() -> None:
    # Var(round(N(0, σ²))) is σ² + 1/12, and the construction's is that of its coarse part plus its uniforms'.
    coarse = sum(2 * y * y * _ideal_weight(y) for y in range(1, 160))
    spacing, uniforms = CONSTRUCTION.spacing, CONSTRUCTION.uniforms
    variance = coarse * spacing**2 + MP.mpf(uniforms * (spacing**2 - 1)) / 12
    assert abs(variance - (SIGMA_UNITS**2 + MP.mpf(1) / 12)) < 1e-12


@pytest.mark.parametrize("construction", [Construction(4, 16, 4), Construction(5, 16, 6)])
def test_alias_bound_holds_for_small_constructions_enumerated(construction: Construction) -> None:
    ideal = noise.coarse_probabilities(construction)
    edge = 8 * construction.sigma
    exact = 2 * sum(
        abs(
            _implemented(z, lambda y: MP.mpf(ideal[abs(y)]), construction)
            - _rounded_gaussian(z, construction.sigma)
        )
        for z in range(edge + 1)
    )
    assert exact <= noise.alias_bound(construction) <= 4 * exact


def test_total_variation_is_at_most_what_is_published() -> None:
    table, aliases = noise.total_variation_bound()
    assert 0 < table + aliases <= noise.TOTAL_VARIATION < 2 * (table + aliases)


def test_the_bound_does_not_hold_for_a_worse_table(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = noise.thresholds()
    shifted = (honest[0] + 64, *honest[1:])
    monkeypatch.setattr(noise, "thresholds", lambda: shifted)
    assert sum(noise.total_variation_bound()) > noise.TOTAL_VARIATION
    monkeypatch.setattr(noise, "thresholds", lambda: honest[:-20])
    assert sum(noise.total_variation_bound()) > noise.TOTAL_VARIATION


def test_table_of_the_enclave_is_the_computed_one() -> None:
    source = Path(__file__).parents[2] / "enclave" / "mechanism" / "src" / "table.rs"
    body = source.read_text().split("count_reached!(level;")[1]
    numbers = re.findall(r"[0-9][0-9_]+", body)
    assert tuple(int(number.replace("_", "")) for number in numbers) == noise.thresholds()


# --- statistics of draws


def _statistics(z: Noise, other: Noise) -> dict[str, float]:
    """What honest noise keeps within a few standard deviations of 0. ``other``: another step's noise."""
    count = len(z)
    x = z / SIGMA_UNITS
    edges = stats.norm.ppf(np.linspace(0, 1, 257)[1:-1])
    bins = np.bincount(np.searchsorted(edges, x), minlength=256)
    low = np.bincount(z & 0xFFFF, minlength=65536)
    tail = float((np.abs(x) > 4).sum())
    expected_tail = 2 * count * float(stats.norm.sf(4))

    def chi2(observed: npt.NDArray[np.int64], expected: float) -> float:
        freedom = len(observed) - 1
        spread = 2 / (9 * freedom)
        total = float(((observed - expected) ** 2).sum() / expected)
        return float(((total / freedom) ** (1 / 3) - (1 - spread)) / np.sqrt(spread))

    def correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
        return float((a * b).sum() / np.sqrt(len(a)))

    return {
        "mean": float(x.sum() / np.sqrt(count)),
        "variance": float(((x * x).mean() - 1) * np.sqrt(count / 2)),
        "skewness": float((x**3).mean() * np.sqrt(count / 15)),
        "kurtosis": float(((x**4).mean() - 3) * np.sqrt(count / 96)),
        "signs": float((np.sign(z).sum()) / np.sqrt(count)),
        "shape": chi2(bins, count / 256),
        "low bits": chi2(low, count / 65536),
        "tail": (tail - expected_tail) / math.sqrt(expected_tail),
        "lag 1": correlation(x[1:], x[:-1]),
        "lag 16": correlation(x[16:], x[:-16]),
        "lag 4096": correlation(x[4096:], x[:-4096]),
        "steps": correlation(x, other / SIGMA_UNITS),
        "squares of steps": correlation(x * x - 1, (other / SIGMA_UNITS) ** 2 - 1) / 2,
    }


@pytest.fixture(scope="module")
def draws() -> tuple[Noise, Noise]:
    return noise.fill(KEY, 1, 0, COUNT), noise.fill(KEY, 2, 0, COUNT)


def test_draws_pass_every_statistic(draws: tuple[Noise, Noise]) -> None:
    statistics = _statistics(*draws)
    assert all(abs(value) < FAR for value in statistics.values()), statistics
    assert np.abs(draws[0]).max() <= MAX_UNITS
    # Kolmogorov–Smirnov sees what bins of equal probability hide.
    assert stats.kstest(draws[0][: 2**18] / SIGMA_UNITS, "norm").pvalue > 1e-6


def _flipped(z: Noise) -> Noise:
    """A sign that is positive with probability 0.503."""
    flip = (z < 0) & (np.random.default_rng(1).random(len(z)) < 0.006)
    return np.where(flip, -z, z)


def _clipped(z: Noise) -> Noise:
    """A table that ends at four standard deviations."""
    return np.clip(z, -4 * SIGMA_UNITS, 4 * SIGMA_UNITS)


def _periodic(z: Noise) -> Noise:
    """Every chunk from the same stream."""
    return np.tile(z[:4096], len(z) // 4096)


def _boxed(z: Noise) -> Noise:
    """One uniform in place of twelve: the coarse part's steps show."""
    coarse = np.round(z / 65536).astype(np.int64) * 65536
    return coarse + np.random.default_rng(2).integers(-65536 * 3, 65536 * 3, len(z))


@pytest.mark.parametrize(
    ("fault", "statistic"),
    [
        (lambda z: np.round(z * 1.005).astype(np.int64), "variance"),
        (lambda z: np.round(z * 0.995).astype(np.int64), "variance"),
        (lambda z: z + 6000, "mean"),
        (_flipped, "signs"),
        (_clipped, "tail"),
        (lambda z: np.round(z / 65536).astype(np.int64) * 65536, "low bits"),
        (lambda z: z & ~np.int64(1), "low bits"),
        (_boxed, "variance"),
        (_periodic, "lag 4096"),
        (lambda z: np.repeat(z[::2], 2), "lag 1"),
        (lambda z: np.where(np.abs(z) > 3 * SIGMA_UNITS, z // 2, z), "shape"),
    ],
)
def test_faulty_noise_fails(
    fault: Callable[[Noise], Noise], statistic: str, draws: tuple[Noise, Noise]
) -> None:
    # Two standard deviations past the limit: a fault of this size is missed at most once in 40 keys, most far
    # more rarely (a standard deviation off by 0.5 % is ten standard errors).
    assert abs(_statistics(fault(draws[0]), draws[1])[statistic]) > FAR + 2


def test_reused_or_mirrored_steps_fail(draws: tuple[Noise, Noise]) -> None:
    z, other = draws
    assert abs(_statistics(z, z)["steps"]) > FAR + 3
    assert abs(_statistics(z, -z)["steps"]) > FAR + 3
    mirrored = np.where(np.random.default_rng(3).random(len(z)) < 0.5, z, -z)
    assert abs(_statistics(z, mirrored)["squares of steps"]) > FAR + 3
    mixed = np.where(np.arange(COUNT) % 128 == 0, z, other)
    assert abs(_statistics(z, mixed)["steps"]) > FAR + 3


@pytest.mark.parametrize(("first", "count"), [(0, 1), (5, 40), (4095, 2), (4096, 4096), (10_000, 9_000)])
def test_any_range_is_part_of_the_whole(first: int, count: int, draws: tuple[Noise, Noise]) -> None:
    assert (noise.fill(KEY, 1, first, count) == draws[0][first : first + count]).all()


def test_refuses_coordinates_that_do_not_exist() -> None:
    assert len(noise.fill(KEY, 0, 4096 << 32, 0)) == 0
    for first, count in ((-1, 1), (0, -1), (4096 << 32, 1)):
        with pytest.raises(InputError, match="expected coordinates"):
            noise.fill(KEY, 0, first, count)


# --- scale


@pytest.mark.parametrize(
    ("multiplier_e9", "sensitivity_e9"),
    [(10**9, 10**9), (333_333_333, 1_000_000_007), (1, 1)],
)
def test_grid_gives_at_least_the_promised_deviation(multiplier_e9: int, sensitivity_e9: int) -> None:
    promised = MP.mpf(multiplier_e9) * sensitivity_e9 / 10**18
    reached = MP.mpf(noise.grid(multiplier_e9, sensitivity_e9)) * SIGMA_UNITS
    assert promised <= reached <= promised * (1 + MP.mpf(2) ** -51)


def test_slack_adds_over_coordinates_and_steps() -> None:
    assert noise.slack(26_010, 1_800) == (0.0, 26_010 * 1_800 * noise.TOTAL_VARIATION)
    assert noise.slack(26_010, 1_800)[1] < 1e-9
