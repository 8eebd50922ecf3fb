"""The noise: statistics that faulty noise fails, and its scale. Its exact law is in ``test_noise_law.py``.

Two million draws; honest ones stay within ``FAR`` standard deviations in every statistic, which chance breaks
less than once in a hundred thousand keys; planted faults do not, by the margin asserted.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from myelin.errors import InputError
from myelin.privacy import noise
from myelin.privacy.noise import MAX_UNITS, SIGMA_UNITS
from myelin.privacy.noise_law import CONSTRUCTION

KEY = bytes(range(32))
FAR = 5.0
COUNT = 2**21
SPACING = CONSTRUCTION.spacing
MP = mpmath.mp.clone()
MP.dps = 60

Noise = npt.NDArray[np.int64]

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
    """One uniform in place of all bits: the coarse part's steps show."""
    coarse = np.round(z / SPACING).astype(np.int64) * SPACING
    return coarse + np.random.default_rng(2).integers(-SPACING * 3, SPACING * 3, len(z))


@pytest.mark.parametrize(
    ("fault", "statistic"),
    [
        (lambda z: np.round(z * 1.005).astype(np.int64), "variance"),
        (lambda z: np.round(z * 0.995).astype(np.int64), "variance"),
        (lambda z: z + SIGMA_UNITS // 128, "mean"),
        (_flipped, "signs"),
        (_clipped, "tail"),
        (lambda z: np.round(z / SPACING).astype(np.int64) * SPACING, "low bits"),
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
