"""Elementary functions of whole vectors: no branch, no conversion, few selections.

The same polynomials as :mod:`~myelin.schedule.elementary`, for kernels that know the sign of what they are
given. NaN gives NaN.
"""

from __future__ import annotations

import math

from tvm import tirx

from ..elementary import (
    ERF_DENOMINATOR,
    ERF_LIMIT,
    ERF_NUMERATOR,
    EXP_POLYNOMIAL,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
)
from .emit import Expr, constant, fma, hold, spread, vector

# Below this e**x is less than the smallest normal number.
_EXP_LOWEST = -87.336544
# Up to here e**x is 2**127 times what the polynomial is for.
_EXP_HIGHEST = 88.37
# From here on the hyperbolic tangent is ±1 in float32.
_TANH_LIMIT = 9.02
# Adding this to a number of small magnitude leaves the nearest integer in the last bits.
_ROUNDER = 12582912.0


def _horner(coefficients: tuple[float, ...], x: Expr, lanes: int) -> Expr:
    total = constant(coefficients[0], lanes)
    for coefficient in coefficients[1:]:
        total = hold(fma(total, x, constant(coefficient, lanes), lanes), lanes)
    return total


def least(a: Expr, limit: float, lanes: int) -> Expr:
    """The smaller of a and a limit; a if it is NaN."""
    bound = constant(limit, lanes)
    return hold(tirx.Select(a > bound, bound, a), lanes)


def greatest(a: Expr, limit: float, lanes: int) -> Expr:
    """The greater of a and a limit; a if it is NaN."""
    bound = constant(limit, lanes)
    return hold(tirx.Select(a < bound, bound, a), lanes)


def _exp_parts(y: Expr, lanes: int) -> tuple[Expr, Expr]:
    """``e**r − 1`` and ``2**n`` with y = n·ln 2 + r, for y from the lowest to the highest."""
    rounded = hold(fma(y, constant(LOG2_E, lanes), constant(_ROUNDER, lanes), lanes), lanes)
    whole = hold(rounded - constant(_ROUNDER, lanes), lanes)
    rest = hold(fma(whole, constant(-LN2_HIGH, lanes), y, lanes), lanes)
    rest = hold(fma(whole, constant(-LN2_LOW, lanes), rest, lanes), lanes)
    series = _horner(EXP_POLYNOMIAL, rest, lanes)
    series = hold(fma(hold(series * rest, lanes), rest, rest, lanes), lanes)
    # The last bits of ``rounded`` are the exponent; what else is in it is shifted out.
    bits = tirx.reinterpret(vector(lanes, "int32"), rounded) + spread(tirx.IntImm("int32", 127), lanes)
    scale = tirx.reinterpret(vector(lanes), tirx.shift_left(bits, spread(tirx.IntImm("int32", 23), lanes)))
    return series, hold(scale, lanes)


def exp_nonpositive(x: Expr, lanes: int) -> Expr:
    """e**x for x ≤ 0, at most 2 ulp from it; 0 where it is below the smallest normal number."""
    series, scale = _exp_parts(greatest(x, _EXP_LOWEST, lanes), lanes)
    power = hold(fma(series, scale, scale, lanes), lanes)
    return hold(tirx.Select(x < constant(_EXP_LOWEST, lanes), constant(0.0, lanes), power), lanes)


def _exp_less_one(y: Expr, lanes: int) -> Expr:
    """``e**y − 1``, as exact for a small y as for others."""
    series, scale = _exp_parts(y, lanes)
    return hold(fma(series, scale, hold(scale - constant(1.0, lanes), lanes), lanes), lanes)


def _of_sigmoid(x: Expr, lanes: int) -> Expr:
    """−x, as far as float32 goes."""
    inner = least(greatest(x, -_EXP_HIGHEST, lanes), -_EXP_LOWEST, lanes)
    return hold(constant(0.0, lanes) - inner, lanes)


def _of_tanh(x: Expr, lanes: int) -> Expr:
    """−2x, until nothing changes."""
    inner = least(greatest(x, -_TANH_LIMIT, lanes), _TANH_LIMIT, lanes)
    return hold(inner * constant(-2.0, lanes), lanes)


def _sigmoid_from(power: Expr, lanes: int) -> Expr:
    return hold(constant(1.0, lanes) / (power + constant(2.0, lanes)), lanes)


def _tanh_from(power: Expr, lanes: int) -> Expr:
    opposite = hold(constant(0.0, lanes) - power, lanes)
    return hold(opposite / (power + constant(2.0, lanes)), lanes)


def sigmoid(x: Expr, lanes: int) -> Expr:
    """1 / (1 + e**−x), at most 3 ulp from it where it is a normal number; ``1 / (p + 2)``, p = e**−x − 1."""
    return _sigmoid_from(_exp_less_one(_of_sigmoid(x, lanes), lanes), lanes)


def tanh(x: Expr, lanes: int) -> Expr:
    """The hyperbolic tangent, at most 3 ulp from it; its absolute value never exceeds 1.

    ``−p / (p + 2)`` with ``p = e**−2x − 1``.
    """
    return _tanh_from(_exp_less_one(_of_tanh(x, lanes), lanes), lanes)


def lstm_gates(gates: list[Expr], lanes: int) -> list[Expr]:
    """:func:`sigmoid` of the first, second and fourth, :func:`tanh` of the third: the same bits.

    In one vector of four times the lanes, so that the four chains go side by side and share constants.
    """
    inner = [(_of_tanh if i == 2 else _of_sigmoid)(x, lanes) for i, x in enumerate(gates)]
    if lanes == 1:
        powers = [_exp_less_one(y, lanes) for y in inner]
    else:
        joined = hold(tirx.Shuffle(inner, list(range(4 * lanes))), 4 * lanes)
        power = _exp_less_one(joined, 4 * lanes)
        powers = [
            hold(tirx.Shuffle([power], list(range(i * lanes, (i + 1) * lanes))), lanes) for i in range(4)
        ]
    return [(_tanh_from if i == 2 else _sigmoid_from)(p, lanes) for i, p in enumerate(powers)]


def erf(x: Expr, lanes: int) -> Expr:
    """The error function, at most 8 ulp from it for |x| > 10⁻³⁵; its absolute value never exceeds 1."""
    inner = least(greatest(x, -ERF_LIMIT, lanes), ERF_LIMIT, lanes)
    square = hold(inner * inner, lanes)
    above = hold(inner * _horner(ERF_NUMERATOR, square, lanes), lanes)
    ratio = hold(above / _horner(ERF_DENOMINATOR, square, lanes), lanes)
    return least(greatest(ratio, -1.0, lanes), 1.0, lanes)


def normal_below(x: Expr, lanes: int) -> Expr:
    """Φ(x), the standard normal distribution function, as ``(1 + erf(x / √2)) / 2``."""
    half = constant(0.5, lanes)
    return hold(fma(erf(hold(x * constant(math.sqrt(0.5), lanes), lanes), lanes), half, half, lanes), lanes)
