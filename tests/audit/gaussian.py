"""Whether numbers are independent draws of N(0, sigma²): the checks, and how often they err.

False alarms, n = 40,000 coordinates: standard deviation off by more than 1.5 %, 2e-5 (its relative error is
1 / sqrt(2 n) = 0.35 %); Kolmogorov-Smirnov 1e-7; each correlation 6e-7 (five standard deviations). Power: a
sigma that is off by 3 % passes with a chance of 1e-5.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

SIGMA_TOLERANCE = 0.015
_KS_LEVEL = 1e-7
_DEVIATIONS = 5.0

Array = npt.NDArray[np.float64]


def sigma_error(values: Array, sigma: float) -> float:
    """Relative error of the standard deviation around 0, which is the mean."""
    return float(np.sqrt(np.mean(values**2))) / sigma - 1


def problems(values: Array, sigma: float) -> list[str]:
    """What speaks against `values` being independent N(0, sigma²); empty if nothing does."""
    found = []
    if abs(error := sigma_error(values, sigma)) > SIGMA_TOLERANCE:
        found.append(f"standard deviation off by {error:+.2%}")
    if (level := stats.kstest(values / sigma, "norm").pvalue) < _KS_LEVEL:
        found.append(f"not normal: Kolmogorov-Smirnov p = {level:.1e}")
    if abs(mean := values.mean()) > _DEVIATIONS * sigma / math.sqrt(values.size):
        found.append(f"mean {mean:+.2e}")
    # Neighbours; lanes, groups and streams of the generator.
    for lag in (1, 2, 16, 32, 256, 4096):
        if unlikely(values[:-lag], values[lag:]):
            found.append(f"coordinates {lag} apart are correlated")
    return found


def correlation(a: Array, b: Array) -> float:
    """Of the first coordinates, as many as both have; means are 0."""
    size = min(a.size, b.size)
    a, b = a[:size], b[:size]
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def unlikely(a: Array, b: Array) -> bool:
    """Whether the correlation is more than five standard deviations from 0."""
    return abs(correlation(a, b)) > _DEVIATIONS / math.sqrt(min(a.size, b.size))
