"""The integer Gaussian noise of the enclave, bit for bit in NumPy, and what it costs.

A draw is ``z = 2^18 y + fine − mean``, in units of the grid: ``y`` from tables of cumulative probabilities,
and a sum of 104 random bits with weights from 1 to 2^17. It is the *rounded* Gaussian ``round(N(0,
SIGMA_UNITS²))`` but for a divergence that :mod:`myelin.privacy.noise_law` derives and computes.

*Guarantee*: ``integer + round(Y)`` is ``round(integer + Y)``. The clipped sum is on the grid before noise is
added, so noise ``round(Y)`` with ``Y ~ N(0, SIGMA_UNITS²)`` gives a rounded, that is post-processed, output
of the continuous Gaussian mechanism with standard deviation ``SIGMA_UNITS × grid``, exactly. :func:`slack`
says how far the draws of all coordinates and steps together are from that.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from myelin.errors import InputError

from .keystream import LANES, block_collisions, groups
from .noise_law import (
    CONSTRUCTION,
    DIVERGENCE,
    HEAD_BITS,
    RESERVE,
    TOTAL_VARIATION,
    head,
    reserve,
)

__all__ = [
    "CHUNK_COORDINATES",
    "MAX_UNITS",
    "SIGMA_UNITS",
    "fill",
    "grid",
    "slack",
]

SIGMA_UNITS: Final = CONSTRUCTION.sigma
"""Standard deviation of the noise, in grid units: 2^20."""

CHUNK_COORDINATES: Final = 4096
"""Coordinates that share one stream of the generator: coordinate ``i`` is in stream ``i // 4096``."""

_RESERVE_ROWS: Final = 40
MAX_UNITS: Final = _RESERVE_ROWS * CONSTRUCTION.spacing + CONSTRUCTION.fine_mean
"""Largest draw in magnitude."""

_GROUP_DRAWS: Final = 4 * LANES


def fill(key: bytes, step: int, first_coordinate: int, count: int) -> npt.NDArray[np.int64]:
    """Noise of ``count`` coordinates from ``first_coordinate`` on at ``step``: int64 ``[count]``, in grid
    units.

    Coordinate ``i`` is draw ``d = i mod 4096`` of stream ``i div 4096``. Draw ``64 g + 16 q + l`` uses the
    words at place ``l`` of rows ``4 q`` to ``4 q + 3`` of group ``g + 1``; ``l`` is its *lane*. Bit 31 of the
    first word is the sign of y, bits 8 to 30 go to the head's table; all other bits are fine (:func:`_fine`).
    The first group has the reserves: the words at place ``l`` of rows ``2 r`` and ``2 r + 1``, low half
    first, without the lowest bit, give the magnitude that the r-th draw of lane ``l`` takes which needs one.

    Errors: :class:`myelin.errors.InputError` for a negative range or one past the last stream.
    """
    if first_coordinate < 0 or count < 0 or first_coordinate + count > CHUNK_COORDINATES << 32:
        raise InputError(
            f"noise: expected coordinates from 0 to 2^44, got {first_coordinate} and {count} of them."
        )
    first, last = first_coordinate // CHUNK_COORDINATES, -(-(first_coordinate + count) // CHUNK_COORDINATES)
    chunks = [_chunk(key, step, stream) for stream in range(first, last)]
    start = first_coordinate - first * CHUNK_COORDINATES
    return np.concatenate([np.empty(0, np.int64), *chunks])[start : start + count]


def _chunk(key: bytes, step: int, stream: int) -> npt.NDArray[np.int64]:
    rows = groups(key, step, stream, 0, 1 + CHUNK_COORDINATES // _GROUP_DRAWS)
    pairs = rows[0, : 2 * RESERVE].astype(np.uint64)  # row, lane
    reserved = np.searchsorted(
        np.array(reserve(), np.uint64),
        (pairs[0::2] | (pairs[1::2] << np.uint64(32))) >> np.uint64(1),
        "right",
    )
    words = rows[1:].reshape(-1, 4, LANES).transpose(1, 0, 2).astype(np.int64)  # word, turn, lane
    table = np.array(head(), np.int64)
    level = (words[0] >> 8) & (2**HEAD_BITS - 1)
    undecided = level >= table[-1]
    turn = np.minimum(np.cumsum(undecided, axis=0) - undecided, RESERVE - 1)
    decided = np.searchsorted(table, level, "right")
    magnitude = np.where(undecided, np.take_along_axis(reserved, turn, axis=0), decided)
    coarse = np.where(words[0] >> 31 == 1, -magnitude, magnitude) * CONSTRUCTION.spacing
    drawn: npt.NDArray[np.int64] = coarse + _fine(words) - CONSTRUCTION.fine_mean
    return drawn.reshape(-1)


_NUMBERS: Final = (
    *((word, 14, 18) for word in (1, 2, 3)),
    *((1, 3, 11), (1, 0, 3), (2, 6, 8), (2, 0, 6)),
    *((3, 2 * pair, 2) for pair in range(7)),
    *((0, 4, 4), (0, 1, 3)),
)
"""Word, lowest bit and width of the numbers that fine bits are read as. Each is shifted so that its highest
bit has weight 2^17. Together with the lowest bit of word 0, of weight 1, they are the bits of
:attr:`myelin.privacy.noise_law.Construction.orders`."""


def _fine(words: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    places = len(CONSTRUCTION.orders)
    total: npt.NDArray[np.int64] = words[0] & 1
    for word, lowest, width in _NUMBERS:
        total = total + (((words[word] >> lowest) & (2**width - 1)) << (places - width))
    return total


def slack(parameters: int, steps: int) -> tuple[float, float]:
    """What the noise's distance from the rounded Gaussian costs: ``(epsilon_slack, delta_slack)``.

    ``delta_slack`` bounds the total variation distance of all draws of a run from the ideal
    (:mod:`myelin.privacy.noise_law`; and that AES, taken for a random permutation, makes no block twice); at
    privacy loss ε it takes ``(1 + e^ε) delta_slack`` off δ, which :func:`myelin.privacy.epsilon` does.
    ``epsilon_slack`` is 0: nothing is added to ε.
    """
    draws = parameters * steps
    from_law = draws * TOTAL_VARIATION + math.sqrt(draws * DIVERGENCE / 2)
    # A draw is one block. Each stream that has one has at most 32 more, of the reserve.
    return (0.0, from_law + block_collisions(33 * draws))


def grid(noise_multiplier_e9: int, sensitivity_e9: int) -> float:
    """Width of a grid unit: ``noise_multiplier × sensitivity / SIGMA_UNITS`` as float64, rounded up.

    So the noise's standard deviation is never below ``noise_multiplier × sensitivity``.
    """
    numerator, denominator = noise_multiplier_e9 * sensitivity_e9, 10**18 * SIGMA_UNITS
    value = numerator / denominator
    top, bottom = value.as_integer_ratio()
    return math.nextafter(value, math.inf) if top * denominator < numerator * bottom else value
