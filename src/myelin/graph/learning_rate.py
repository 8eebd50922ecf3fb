"""Numbers that an update takes from the number of its step: rates, powers, weights of an average.

Computed in float64 inside of the enclave, from a public int32, without a mathematics library and without a
table of steps. No product is added to or subtracted from anything but by an explicit ``fma``, so that nothing
is left for a code generator to fuse, or not: every target gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from tvm import relax, te, tirx

from myelin.model import Constant, CosineDecay, LearningRate, LinearWarmUp, StepDecay
from myelin.model.checks import MOST_STEPS

from .relax_ir import call_family, family, tensor

__all__ = ["constant_rate", "emit_numbers", "one_minus_power", "rate_at", "wide"]

_SINE_TERMS = 11
"""Of the Taylor series: the first one left out is below 2·10⁻¹⁸ on [0, π/2]."""


def wide(value: float) -> tirx.PrimExpr:
    """A float64 constant."""
    return tirx.const(float(value), "float64")


def constant_rate(rate: LearningRate) -> float | None:
    """The number that ``rate`` always is; None where it depends on the step."""
    if isinstance(rate, Constant):
        return rate.rate
    return None if isinstance(rate, CosineDecay | StepDecay | LinearWarmUp) else rate


def rate_at(rate: LearningRate, t: tirx.PrimExpr) -> tirx.PrimExpr:
    """``rate`` at step ``t`` (int32, from 1), float64."""
    fixed = constant_rate(rate)
    if fixed is not None:
        return wide(fixed)
    if isinstance(rate, LinearWarmUp):
        first = wide(_first(rate.then)) * (t.astype("float64") / wide(rate.steps))
        after = rate_at(rate.then, tirx.max(t - rate.steps, tirx.const(1, "int32")))
        return tirx.Select(t <= rate.steps, first, after)
    done = t - 1
    if isinstance(rate, StepDecay):
        times = tirx.truncdiv(done, tirx.const(rate.every, "int32"))
        factors = _power_factors(rate.factor, times, MOST_STEPS // rate.every)
        return wide(rate.initial) * _product(factors)
    assert isinstance(rate, CosineDecay)
    left = rate.steps - tirx.min(done, tirx.const(rate.steps, "int32"))
    share = left.astype("float64") / wide(rate.steps)
    # (1 + cos(π(1 − s))) / 2 is sin²(πs / 2): near the end, where cos is −1, no digits are lost.
    height, final = wide(rate.initial - rate.final), wide(rate.final)
    sine = _let("y", share * wide(math.pi / 2), _sine)
    return _let("sine", sine, lambda sine: tirx.op.fma(height, sine * sine, final))


def _first(rate: LearningRate) -> float:
    return rate.initial if isinstance(rate, CosineDecay | StepDecay) else float(constant_rate(rate) or 0.0)


def _let(name: str, value: tirx.PrimExpr, body: Callable[[tirx.Var], tirx.PrimExpr]) -> tirx.PrimExpr:
    """Name a subexpression, so that it is computed once."""
    variable = tirx.Var(name, "float64")
    return tirx.Let(variable, value, body(variable))


def _sine(y: tirx.Var) -> tirx.PrimExpr:
    """Of 0 to π/2, by its Taylor series."""

    def of_square(square: tirx.Var) -> tirx.PrimExpr:
        series = wide(0.0)
        for k in range(_SINE_TERMS - 1, 0, -1):
            series = tirx.op.fma(series, square, wide((-1) ** k / math.factorial(2 * k + 1)))
        return tirx.op.fma(series * square, y, y)

    return _let("square", y * y, of_square)


def _power_factors(base: float, exponent: tirx.PrimExpr, most: int) -> list[tirx.PrimExpr]:
    """What to multiply for ``base**exponent``, 0 ≤ exponent ≤ most: base^(2ᵏ) for the exponent's bits."""
    return [
        tirx.Select(((exponent >> bit) & tirx.const(1, "int32")) == 1, wide(base ** (2.0**bit)), wide(1.0))
        for bit in range(max(1, most.bit_length()))
    ]


def _product(factors: Sequence[tirx.PrimExpr]) -> tirx.PrimExpr:
    product = wide(1.0)
    for factor in factors:
        product = product * factor
    return product


def one_minus_power(base: float, t: tirx.PrimExpr) -> tirx.PrimExpr:
    """``1 − baseᵗ`` for a step number ``t``, float64, with one rounding after the power's factors."""
    *factors, last = _power_factors(base, t, MOST_STEPS)
    return tirx.op.fma(_product(factors) * wide(-1.0), last, wide(1.0))


def emit_numbers(
    builder: relax.BlockBuilder,
    step: relax.Expr,
    name: str,
    numbers: Mapping[str, Callable[[tirx.PrimExpr], tirx.PrimExpr]],
) -> dict[str, relax.Expr]:
    """Emit a kernel of family ``update.name`` that gives ``numbers``, each a float64 function of the step, as
    float32 ``[1]``."""
    t = te.placeholder((1,), "int32", name="step_number")

    def computed(key: str) -> te.Tensor:
        return te.compute((1,), lambda i: numbers[key](t[i]).astype("float32"), name=key)

    outputs = [computed(key) for key in numbers]
    function = family(f"update.{name}", [t, *outputs])
    values = call_family(builder, function, [step], [tensor((1,))] * len(outputs), name)
    return dict(zip(numbers, values, strict=True))
