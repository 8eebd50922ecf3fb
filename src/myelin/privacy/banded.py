"""Noise that is correlated over steps by a banded matrix, for records that take turns: no compiler in here.

Choquette-Choo et al. 2023 (arXiv:2306.08153), without amplification. Records are put in an order once and cut
into batches of the plan's capacity; step t takes batch ``(t − 1) mod batches``. Write x_t for the sum of a
step, in units of the noise's grid, and ``c_0 = 1 ≥ c_1 ≥ … > 0`` for the coefficients, as many as there are
bands. The mechanism is the Gaussian one on ``v_t = round(Σ_j c_j x_{t−j})``, a banded Toeplitz matrix times
the sums: it outputs ``y_t = v_t + z_t``, with fresh integer noise z_t. The optimizer gets ``o_t = y_t −
Σ_{j ≥ 1} c_j o_{t−j}``, the matrix's inverse times y: post-processing, in which what earlier steps' noise
adds up to is mostly taken off again. That it is made of v, rounded, and not of x plus noise that was combined
before, keeps the argument exact: everything that leaves is a function of integers plus rounded Gaussians.

*Guarantee*, for the relation *replace-special*. A record's neighbour adds nothing, in its own slots. Given
what was released before, only steps in which the record takes part, and the ``bands − 1`` after each, have
another v. Turns come ``batches ≥ bands`` steps apart, so these windows do not overlap, and in each v moves by
at most the event's sensitivity, in L2 over steps and coordinates
(:mod:`myelin.privacy.banded_sensitivity`). There are at most ``ceil(steps / batches)`` windows. A sequence of
Gaussian mechanisms whose squared shifts add up to at most ``k S²``, however they depend on what was released,
is as private as one with a shift of ``√k S`` (Denisov et al. 2022, arXiv:2202.08312, theorem 2.1; rounding is
post-processing). So the whole run is one Gaussian mechanism of multiplier ``z / √k``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from myelin.errors import InputError

from .sampling import words

__all__ = ["MOST_BANDS", "BandedNoise", "BandedRelease", "batch_of", "check_correlation", "participations"]

MOST_BANDS: Final = 64
"""Most bands."""

_E9: Final = 10**9


@dataclass(frozen=True)
class BandedNoise:
    """Correlated noise, for a job whose records take turns instead of being drawn.

    Args:
        bands: how many steps a step's sum is combined of, 1 to 64. More bands take off more noise, and need
            as many batches; each keeps 16 bytes a parameter. The coefficients are the first ones of the
            square root of the matrix of prefix sums, ``Π (2 i − 1) / (2 i)``, which is close to the best
            there is. One band is independent noise.
    """

    bands: int = 8

    def __post_init__(self) -> None:
        """Check the range."""
        right = isinstance(self.bands, int) and not isinstance(self.bands, bool)
        if not right or not 1 <= self.bands <= MOST_BANDS:
            raise InputError(
                f"BandedNoise.bands: expected 1 to {MOST_BANDS}, got {self.bands!r}. 8 is a fair choice."
            )

    @property
    def coefficients_e9(self) -> tuple[int, ...]:
        """The coefficients in units of 1e-9, to the nearest: what the mechanism runs with."""
        made, value = [], 1.0
        for place in range(self.bands):
            value *= (2 * place - 1) / (2 * place) if place else 1.0
            made.append(round(value * _E9))
        return tuple(made)


def check_correlation(
    correlation: object, dataset_size: int, capacity: int, sampling_threshold: int
) -> tuple[int, ...]:
    """Read the coefficients of a stranger's document: none where records are drawn.

    Errors: :class:`myelin.errors.InputError` says what is not as it must be.
    """
    if not isinstance(correlation, Sequence) or isinstance(correlation, str | bytes):
        raise InputError(f"correlation: expected an array of numbers, got {type(correlation).__name__}.")
    numbers = tuple(correlation)
    if len(numbers) > MOST_BANDS or any(type(n) is not int or not 1 <= n <= _E9 for n in numbers):
        raise InputError(
            f"correlation: expected at most {MOST_BANDS} whole numbers from 1 to {_E9}, got "
            f"{repr(correlation)[:80]}."
        )
    if not numbers:
        if sampling_threshold < 1:
            raise InputError("sampling_threshold: expected at least 1 where records are drawn, got 0.")
        return ()
    if numbers[0] != _E9 or any(a < b for a, b in pairwise(numbers)):
        raise InputError(
            f"correlation: expected {_E9} first, and then ever less, got {repr(correlation)[:80]}."
        )
    if sampling_threshold != 0:
        raise InputError(
            f"sampling_threshold: expected 0, since records take turns, got {sampling_threshold}."
        )
    batches = -(-dataset_size // capacity)
    if batches < len(numbers):
        raise InputError(
            f"correlation: expected no more than {batches} coefficients, the batches that {dataset_size} "
            f"records make, got {len(numbers)}. A record would take part again too soon."
        )
    return numbers


def participations(dataset_size: int, capacity: int, steps: int) -> int:
    """Most steps of a run that a record takes part in."""
    return -(-steps // -(-dataset_size // capacity))


def batch_of(key: bytes, step: int, dataset_size: int, capacity: int) -> npt.NDArray[np.uint32]:
    """The records whose turn it is in ``step``, 1 at the first: what the enclave puts in its slots.

    The order is that of the records' words of step 0 under the sampling key, equal ones by index.
    """
    word = words(key, 0, dataset_size)
    order = np.lexsort((np.arange(dataset_size), word)).astype(np.uint32)
    start = (step - 1) % -(-dataset_size // capacity) * capacity
    return order[start : start + capacity]


class BandedRelease:
    """What the enclave makes of sums and noise, bit for bit: one step after the other."""

    def __init__(self, coefficients_e9: Sequence[int], grid: float, coordinates: int) -> None:
        """Begin with nothing released."""
        self.coefficients = [number / 1e9 for number in coefficients_e9]
        self.grid = grid
        self.sums = [np.zeros(coordinates) for _ in self.coefficients]
        self.released = [np.zeros(coordinates) for _ in self.coefficients]
        self.encoded = np.zeros(coordinates)

    def step(self, sums: npt.NDArray[np.float64], noise: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The gradient, in units of the grid; :attr:`encoded` is then what the noise was added to."""
        units = sums * (1 / self.grid)
        encoded, taken = units.copy(), np.zeros_like(units)
        for coefficient, before, gone in zip(
            self.coefficients[1:], self.sums[-1:0:-1], self.released[-1:0:-1], strict=True
        ):
            encoded += coefficient * before
            taken += coefficient * gone
        limit = 2.0**51
        self.encoded = np.rint(np.clip(encoded, -limit, limit))
        gradient: npt.NDArray[np.float64] = (self.encoded + noise) - taken
        self.sums, self.released = [*self.sums[1:], units], [*self.released[1:], gradient]
        return gradient


def effective_multiplier(noise_multiplier_e9: int, times: int) -> float:
    """``noise multiplier / √times``, rounded down to float64."""
    square = noise_multiplier_e9**2 * 2**64 // times
    return math.nextafter(math.isqrt(square) / 2**32 / 1e9, 0.0)
