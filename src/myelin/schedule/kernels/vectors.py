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
    TANH_POLYNOMIAL,
    TANH_SWITCH,
)
from .emit import Expr, constant, fma, hold, spread, vector

# Below this e**x is less than the smallest normal number.
_EXP_LOWEST = -87.336544
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


def magnitude(x: Expr, lanes: int) -> Expr:
    """Without its sign."""
    bits = tirx.reinterpret(vector(lanes, "int32"), x)
    kept = tirx.bitwise_and(bits, spread(tirx.IntImm("int32", 0x7FFFFFFF), lanes))
    return hold(tirx.reinterpret(vector(lanes), kept), lanes)


def with_sign(x: Expr, of: Expr, lanes: int) -> Expr:
    """``x``, which is not negative, with the sign of another vector."""
    sign = tirx.bitwise_and(
        tirx.reinterpret(vector(lanes, "int32"), of), spread(tirx.IntImm("int32", -0x80000000), lanes)
    )
    bits = tirx.bitwise_or(tirx.reinterpret(vector(lanes, "int32"), x), sign)
    return hold(tirx.reinterpret(vector(lanes), bits), lanes)


def exp_nonpositive(x: Expr, lanes: int) -> Expr:
    """e**x for x ≤ 0, at most 2 ulp from it; 0 where it is below the smallest normal number."""
    y = greatest(x, _EXP_LOWEST, lanes)
    rounded = hold(fma(y, constant(LOG2_E, lanes), constant(_ROUNDER, lanes), lanes), lanes)
    whole = hold(rounded - constant(_ROUNDER, lanes), lanes)
    rest = hold(fma(whole, constant(-LN2_HIGH, lanes), y, lanes), lanes)
    rest = hold(fma(whole, constant(-LN2_LOW, lanes), rest, lanes), lanes)
    series = _horner(EXP_POLYNOMIAL, rest, lanes)
    series = hold(fma(hold(series * rest, lanes), rest, rest, lanes), lanes)
    # The last bits of ``rounded`` are the exponent; what else is in it is shifted out.
    bits = tirx.reinterpret(vector(lanes, "int32"), rounded) + spread(tirx.IntImm("int32", 127), lanes)
    scale = tirx.reinterpret(vector(lanes), tirx.shift_left(bits, spread(tirx.IntImm("int32", 23), lanes)))
    power = hold(fma(series, scale, scale, lanes), lanes)
    return hold(tirx.Select(x < constant(_EXP_LOWEST, lanes), constant(0.0, lanes), power), lanes)


def sigmoid(x: Expr, lanes: int) -> Expr:
    """1 / (1 + e**−x), at most 3 ulp from it where it is a normal number."""
    power = exp_nonpositive(hold(constant(0.0, lanes) - magnitude(x, lanes), lanes), lanes)
    one = constant(1.0, lanes)
    above = tirx.Select(x < constant(0.0, lanes), power, one)
    return hold(above / (one + power), lanes)


def tanh(x: Expr, lanes: int) -> Expr:
    """The hyperbolic tangent, at most 2 ulp from it; its absolute value never exceeds 1."""
    size, one = magnitude(x, lanes), constant(1.0, lanes)
    power = exp_nonpositive(hold(size * constant(-2.0, lanes), lanes), lanes)
    large = with_sign(hold((one - power) / (one + power), lanes), x, lanes)
    square = hold(x * x, lanes)
    series = hold(_horner(TANH_POLYNOMIAL, square, lanes) * square, lanes)
    small = hold(fma(series, x, x, lanes), lanes)
    return hold(tirx.Select(size < constant(TANH_SWITCH, lanes), small, large), lanes)


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
