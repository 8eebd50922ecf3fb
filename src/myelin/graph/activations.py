"""GELU and softmax, with their gradients as operators of their own."""

from __future__ import annotations

import math

from tvm import relax, te, tirx

from myelin.model.operators import call

from .relax_ir import call_family, family, shape_of, tensor

__all__ = ["GRADIENTS", "LOWER"]

_TANH_SCALE, _TANH_CUBE = math.sqrt(2.0 / math.pi), 0.044715


def _f(value: float) -> tirx.PrimExpr:
    return tirx.const(value, "float32")


def _gelu(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    """``x·(1 + erf(x/√2)) / 2``, or ``x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2``."""
    shape, approximate = shape_of(value.args[0]), str(value.attrs["approximate"])
    x = te.placeholder(shape, "float32", name="x")

    def at(*i: tirx.Var) -> tirx.PrimExpr:
        v = x(*i)
        if approximate == "tanh":
            inner = _f(_TANH_SCALE) * (v + _f(_TANH_CUBE) * v * v * v)
            return _f(0.5) * v * (_f(1.0) + tirx.tanh(inner))
        return _f(0.5) * v * (_f(1.0) + tirx.erf(v * _f(math.sqrt(0.5))))

    y = te.compute(shape, at, name="gelu")
    function = family("activation.gelu", [x, y], {"approximate": approximate})
    return call_family(builder, function, list(value.args), [tensor(shape)], "gelu")


def _gelu_gradient(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    """``g·(Φ(x) + x·φ(x))``, or the derivative of the tanh form."""
    shape, approximate = shape_of(value.args[0]), str(value.attrs["approximate"])
    g, x = (te.placeholder(shape, "float32", name=n) for n in ("gradient", "x"))

    def at(*i: tirx.Var) -> tirx.PrimExpr:
        v = x(*i)
        if approximate == "tanh":
            t = tirx.tanh(_f(_TANH_SCALE) * (v + _f(_TANH_CUBE) * v * v * v))
            slope = _f(_TANH_SCALE) * (_f(1.0) + _f(3.0 * _TANH_CUBE) * v * v)
            return g(*i) * _f(0.5) * ((_f(1.0) + t) + v * (_f(1.0) - t * t) * slope)
        below = _f(0.5) * (_f(1.0) + tirx.erf(v * _f(math.sqrt(0.5))))
        # Where x² overflows, e⁻ˣ² is 0 and x·0 is 0: no NaN comes up.
        density = _f(1.0 / math.sqrt(2.0 * math.pi)) * tirx.exp(_f(-0.5) * v * v)
        return g(*i) * (below + v * density)

    result = te.compute(shape, at, name="gelu_gradient")
    function = family("activation.gelu_gradient", [g, x, result], {"approximate": approximate})
    return call_family(builder, function, list(value.args), [tensor(shape)], "gelu_gradient")


def _softmax(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    """Over the last axis: e**(x − max) over its sum."""
    shape = shape_of(value.args[0])
    x = te.placeholder(shape, "float32", name="x")
    k, n = (te.reduce_axis((0, shape[-1]), name=name) for name in "kn")
    top = te.compute(shape[:-1], lambda *i: te.max(x(*i, k), axis=k), name="top")
    power = te.compute(shape, lambda *i: tirx.exp(x(*i) - top(*i[:-1])), name="power")
    total = te.compute(shape[:-1], lambda *i: te.sum(power(*i, n), axis=n), name="total")
    y = te.compute(shape, lambda *i: power(*i) / total(*i[:-1]), name="softmax")
    return call_family(builder, family("softmax", [x, y]), list(value.args), [tensor(shape)], "softmax")


def _softmax_gradient(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    """``y·(g − Σ g·y)``."""
    shape = shape_of(value.args[0])
    g, y = (te.placeholder(shape, "float32", name=n) for n in ("gradient", "y"))
    k = te.reduce_axis((0, shape[-1]), name="k")
    inner = te.compute(shape[:-1], lambda *i: te.sum(g(*i, k) * y(*i, k), axis=k), name="inner")
    result = te.compute(shape, lambda *i: y(*i) * (g(*i) - inner(*i[:-1])), name="result")
    function = family("softmax_gradient", [g, y, result])
    return call_family(builder, function, list(value.args), [tensor(shape)], "softmax_gradient")


def _of_gelu(
    _output: relax.Var, value: relax.Call, gradient: relax.Var, _context: relax.BlockBuilder
) -> list[relax.Expr]:
    return [call("gelu_gradient", [gradient, value.args[0]], approximate=str(value.attrs["approximate"]))]


def _of_softmax(
    output: relax.Var, _value: relax.Call, gradient: relax.Var, _context: relax.BlockBuilder
) -> list[relax.Expr]:
    return [call("softmax_gradient", [gradient, output])]


GRADIENTS = {"gelu": _of_gelu, "softmax": _of_softmax}
"""Gradient of each operator that a model is traced to."""

LOWER = {
    "gelu": _gelu,
    "gelu_gradient": _gelu_gradient,
    "softmax": _softmax,
    "softmax_gradient": _softmax_gradient,
}
"""Lowering of each operator, gradients included."""
