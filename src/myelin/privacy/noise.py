"""The integer Gaussian noise of the enclave, bit for bit in NumPy, and the bound of its distance from the
ideal.

A draw is ``z = 2^16 y + u_1 + … + u_12 − 6 (2^16 − 1)``: ``y`` from a table of 64-bit cumulative
probabilities, and twelve independent uniform integers below 2^16, which cost nothing but random bits. The sum
of the uniforms has a B-spline's shape, and its transform vanishes to order twelve at every multiple of the
table's frequency; the table's weights are the Gaussian's, deconvolved (:func:`coarse_probabilities`). So the
draw is the *rounded* Gaussian ``round(N(0, SIGMA_UNITS²))`` but for two errors, which
:func:`total_variation_bound` computes: the aliases that the B-spline leaves, and the table's rounding to 63
bits.

*Guarantee*: ``integer + round(Y)`` is ``round(integer + Y)``. The clipped sum is on the grid before noise is
added, so noise ``round(Y)`` with ``Y ~ N(0, SIGMA_UNITS²)`` gives a rounded, that is post-processed, output
of the continuous Gaussian mechanism with standard deviation ``SIGMA_UNITS × grid``, exactly. Every draw is
within :data:`TOTAL_VARIATION` of that; :func:`slack` adds this up over coordinates and steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from myelin.errors import InputError

from .keystream import groups

__all__ = [
    "CHUNK_COORDINATES",
    "CONSTRUCTION",
    "MAX_UNITS",
    "SIGMA_UNITS",
    "TOTAL_VARIATION",
    "Construction",
    "alias_bound",
    "coarse_probabilities",
    "fill",
    "grid",
    "slack",
    "thresholds",
    "total_variation_bound",
]


@dataclass(frozen=True)
class Construction:
    """Coarse part with standard deviation ``coarse_sigma``, ``spacing`` units apart, plus ``uniforms``
    uniforms below it.

    The enclave has :data:`CONSTRUCTION`. Smaller ones let tests hold the bound against a full enumeration.
    """

    coarse_sigma: int
    spacing: int
    uniforms: int

    @property
    def sigma(self) -> int:
        """Standard deviation of a draw, in grid units."""
        return self.coarse_sigma * self.spacing


_FINE_BITS: Final = 16

CONSTRUCTION: Final = Construction(coarse_sigma=12, spacing=1 << _FINE_BITS, uniforms=12)
"""What the enclave draws with."""

SIGMA_UNITS: Final = CONSTRUCTION.sigma
"""Standard deviation of the noise, in grid units: 786,432."""

CHUNK_COORDINATES: Final = 4096
"""Coordinates that share one stream of the generator: coordinate ``i`` is in stream ``i // 4096``."""

TOTAL_VARIATION: Final = 2.0**-58
"""One draw is within this total variation distance of the rounded Gaussian (a test computes the bound)."""

_TABLE_ROWS: Final = 109
_UNIFORM_MEAN: Final = CONSTRUCTION.uniforms * (CONSTRUCTION.spacing - 1) // 2
MAX_UNITS: Final = (_TABLE_ROWS << _FINE_BITS) + _UNIFORM_MEAN
"""Largest draw in magnitude."""

_GROUP_DRAWS: Final = 32
_PRECISION_DIGITS: Final = 60
_TRANSFORM_POINTS: Final = 1024


def _arithmetic(digits: int = _PRECISION_DIGITS) -> Any:
    """High-precision arithmetic of its own, so that no other user's precision is changed."""
    import mpmath  # type: ignore[import-untyped]

    context = mpmath.mp.clone()
    context.dps = digits
    return context


@lru_cache(maxsize=4)
def coarse_probabilities(construction: Construction = CONSTRUCTION) -> tuple[Any, ...]:
    """Ideal weights of ``y = 0, 1, 2, …`` (``−y`` has the weight of ``y``), as high-precision numbers.

    Their transform on ``|φ| <= π`` is that of the rounded Gaussian divided by that of the twelve uniforms,
    both at ``φ / 2^16``. It is far below 1e-100 at ``π``, so an equidistant sum inverts it to the precision
    of the arithmetic.
    """
    mp = _arithmetic()
    coarse, spacing = construction.coarse_sigma, construction.spacing

    def transform(k: int) -> Any:
        if k == 0:
            return mp.mpf(1)
        phi = 2 * mp.pi * k / _TRANSFORM_POINTS
        half = phi / (2 * spacing)
        gaussian = mp.exp(-(coarse**2) * phi * phi / 2) * mp.sin(half) / half
        return gaussian * (spacing * mp.sin(half) / mp.sin(phi / 2)) ** construction.uniforms

    half_points = _TRANSFORM_POINTS // 2
    # Past 1e-80 a term is below the precision of the sum.
    terms = [(k, value) for k in range(half_points) if (value := transform(k)) > mp.mpf(10) ** -80]
    cosines = [mp.cos(2 * mp.pi * k / _TRANSFORM_POINTS) for k in range(_TRANSFORM_POINTS)]
    return tuple(
        sum((1 if k == 0 else 2) * value * cosines[k * y % _TRANSFORM_POINTS] for k, value in terms)
        / _TRANSFORM_POINTS
        for y in range(160)
    )


@lru_cache(maxsize=1)
def thresholds() -> tuple[int, ...]:
    """The table: ``|y|`` is the number of thresholds that the upper 63 bits of the draw's word reach.

    Threshold ``j`` is ``2^63 P(|y| <= j)``, rounded; those that round to 2^63 are left out.
    """
    mp = _arithmetic()
    table, total = [], mp.mpf(0)
    for y, weight in enumerate(coarse_probabilities()):
        total += weight if y == 0 else 2 * weight
        value = int(mp.nint(total * 2**63))
        if value >= 2**63:
            break
        table.append(value)
    return tuple(table)


@lru_cache(maxsize=4)
def alias_bound(construction: Construction = CONSTRUCTION) -> Any:
    """Bound of ``Σ_z |e(z)|``, e the difference of mass that the B-spline's aliases make with ideal weights.

    At frequency ``φ + 2πl / 2^16``, ``|φ| <= π / 2^16``, e has transform ``g(φ) r_l(φ)^12`` for ``l ≠ 0``,
    with g the rounded Gaussian's and ``r_l = sin(φ/2) / sin(φ/2 + πl / 2^16)``, and 0 for ``l = 0``, up to
    terms below 1e-300. By Cauchy–Schwarz, ``(Σ|e|)² <= Σ 1 / (1 + z²/σ²) · Σ (1 + z²/σ²) e²``; the first
    factor is ``πσ coth(πσ)``, the second by Parseval the mean over the circle of ``|E|² + |E'|² / σ²``.
    Aliases past the eighth are bounded with ``sin x >= 2x/π``, in closed form.
    """
    mp = _arithmetic(25)
    sigma, spacing, order = mp.mpf(construction.sigma), mp.mpf(construction.spacing), construction.uniforms
    coarse = construction.coarse_sigma

    def density(t: Any, alias: int) -> Any:
        # In t = σ φ; the squares of the transform and of its derivative divided by σ.
        phi = t / sigma
        near, far = phi / 2, phi / 2 + mp.pi * alias / spacing
        ratio = mp.sin(near) / mp.sin(far)
        value = mp.exp(-t * t / 2) * (mp.sin(near) / near) * ratio**order
        slope = -t + (mp.cot(near) / 2 - 1 / phi + order * (mp.cot(near) - mp.cot(far)) / 2) / sigma
        return value * value * (1 + slope * slope)

    edge = mp.pi * coarse
    pieces = [mp.mpf(x) for x in (1e-6, 1, 2, 3, 4, 5, 6, 8, 12, 20) if x < edge] + [edge]
    points = [-x for x in reversed(pieces)], pieces
    total = mp.mpf(0)
    for alias in range(1, 9):  # both signs of an alias are one sum over both signs of t
        total += 2 * sum(mp.quad(lambda t, a=alias: density(t, a), side) for side in points)
    # |r_l| <= |t| / (4 s (l − 1/2)), s the coarse sigma; slope² <= 2 t² + 2 (order / |t| + order)²,
    # generously, for |t| <= edge.
    later = mp.nsum(lambda alias: (4 * coarse * (alias - mp.mpf(1) / 2)) ** (-2 * order), [9, mp.inf])
    moment = mp.quad(
        lambda t: t ** (2 * order) * mp.exp(-t * t) * (1 + 2 * t * t + 2 * (order / t + order) ** 2),
        [0, 5, 10, edge],
    )
    total += 4 * later * moment
    mean = total / (2 * mp.pi * sigma)
    return mp.sqrt(mp.pi * sigma * mp.coth(mp.pi * sigma) * mean)


def total_variation_bound() -> tuple[float, float]:
    """Bounds of one draw's total variation distance from ``round(N(0, SIGMA_UNITS²))``, both rounded up.

    Returns:
        The part of the table's rounding and end, and the part of the B-spline's aliases. Their sum is the
        bound: adding the uniforms to two different ``y`` brings them no further apart.
    """
    mp = _arithmetic()
    table, ideal = thresholds(), coarse_probabilities()
    steps = [0, *table, 2**63]
    difference = mp.mpf(0)
    for y, weight in enumerate(ideal):
        implemented = mp.mpf(steps[y + 1] - steps[y]) / 2**63 if y + 1 < len(steps) else mp.mpf(0)
        difference += abs(implemented - (weight if y == 0 else 2 * weight))
    # Past the last weight computed the tail falls faster than geometrically by half.
    difference += 4 * abs(ideal[-1])
    parts = (difference / 2, alias_bound() / 2)
    return (math.nextafter(float(parts[0]), 1.0), math.nextafter(float(parts[1]), 1.0))


def fill(key: bytes, step: int, first_coordinate: int, count: int) -> npt.NDArray[np.int64]:
    """Noise of ``count`` coordinates from ``first_coordinate`` on at ``step``: int64 ``[count]``, in grid
    units.

    Coordinate ``i`` is draw ``d = i mod 4096`` of stream ``i div 4096``. Draw ``32 g + 16 h + b`` uses words
    ``8 h`` to ``8 h + 7`` of block ``16 g + b``: the first two, low half first, are the table's word (its
    lowest bit is the sign), the two halves of each of the other six are the uniforms.

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
    rows = groups(key, step, stream, 0, CHUNK_COORDINATES // _GROUP_DRAWS)
    halves = rows.reshape(-1, 2, 8, 16).astype(np.uint64)  # group, half, word, block
    word = halves[:, :, 0, :] | (halves[:, :, 1, :] << np.uint64(32))
    magnitude = np.searchsorted(np.array(thresholds(), np.uint64), word >> np.uint64(1), side="right").astype(
        np.int64
    )
    sign = 1 - 2 * (word & np.uint64(1)).astype(np.int64)
    fine = halves[:, :, 2:, :]
    uniform = ((fine & np.uint64(0xFFFF)) + (fine >> np.uint64(16))).sum(axis=2).astype(np.int64)
    drawn: npt.NDArray[np.int64] = (sign * magnitude << _FINE_BITS) + uniform - _UNIFORM_MEAN
    return drawn.reshape(-1)


def slack(parameters: int, steps: int) -> tuple[float, float]:
    """What the noise's distance from the rounded Gaussian costs: ``(epsilon_slack, delta_slack)``.

    ``delta_slack`` is the total variation distance of all draws of a run from the ideal, ``parameters ×
    steps`` times :data:`TOTAL_VARIATION`; at privacy loss ε it takes ``(1 + e^ε) delta_slack`` off δ, which
    :func:`myelin.privacy.epsilon` does. ``epsilon_slack`` is 0: nothing is added to ε.
    """
    return (0.0, parameters * steps * TOTAL_VARIATION)


def grid(noise_multiplier_e9: int, sensitivity_e9: int) -> float:
    """Width of a grid unit: ``noise_multiplier × sensitivity / SIGMA_UNITS`` as float64, rounded up.

    So the noise's standard deviation is never below ``noise_multiplier × sensitivity``.
    """
    numerator, denominator = noise_multiplier_e9 * sensitivity_e9, 10**18 * SIGMA_UNITS
    value = numerator / denominator
    top, bottom = value.as_integer_ratio()
    return math.nextafter(value, math.inf) if top * denominator < numerator * bottom else value
