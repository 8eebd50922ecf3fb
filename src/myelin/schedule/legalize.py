"""Operators that are lowered by this room's own rules instead of TVM's.

TVM's rules would call a mathematics library for the elementary functions and store constants; both are absent from
the image.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax, te, tirx
from tvm.ir import Call as IrCall

from . import elementary

Legalizer = Callable[[relax.BlockBuilder, IrCall], relax.Expr]


def _arange(builder: relax.BlockBuilder, call: IrCall) -> relax.Expr:
    """Compute the numbers instead of storing them: the plan holds no constant tensors."""
    start, _, stride = call.args
    length, dtype = int(call.ty.shape.values[0]), str(call.ty.dtype)

    def count() -> te.Tensor:
        first, step = (e.astype(dtype) for e in (start, stride))
        return te.compute((length,), lambda i: first + i.astype(dtype) * step, name="arange")

    return builder.call_te(count, primfunc_name_hint="arange")


def _elementwise(name: str, function: Callable[[object], object]) -> Legalizer:
    def legalize(builder: relax.BlockBuilder, call: IrCall) -> relax.Expr:
        def compute(x: te.Tensor) -> te.Tensor:
            return te.compute(x.shape, lambda *i: function(x(*i)), name=name)

        return builder.call_te(compute, call.args[0], primfunc_name_hint=name)

    return legalize


def _softmax(builder: relax.BlockBuilder, call: IrCall) -> relax.Expr:
    """Over the last axis: e**(x - max) over its sum."""
    if int(call.attrs.axis) not in (-1, len(call.ty.shape.values) - 1):
        return call

    def compute(x: te.Tensor) -> te.Tensor:
        *outer, length = x.shape
        k, n = (te.reduce_axis((0, length), name=name) for name in "kn")
        top = te.compute(outer, lambda *i: te.max(x(*i, k), axis=k), name="top")
        power = te.compute(x.shape, lambda *i: elementary.exp(x(*i) - top(*i[:-1])), name="power")
        total = te.compute(outer, lambda *i: te.sum(power(*i, n), axis=n), name="total")
        return te.compute(x.shape, lambda *i: power(*i) / total(*i[:-1]), name="softmax")

    return builder.call_te(compute, call.args[0], primfunc_name_hint="softmax")


def _relu(x: object) -> object:
    """max(x, 0), NaN for NaN."""
    zero = tirx.FloatImm("float32", 0.0)
    return tirx.Select(x < zero, zero, x)


LEGALIZERS: dict[str, Legalizer] = {
    "relax.arange": _arange,
    "relax.exp": _elementwise("exp", elementary.exp),
    "relax.nn.relu": _elementwise("relu", _relu),
    "relax.nn.softmax": _softmax,
    "relax.sigmoid": _elementwise("sigmoid", elementary.sigmoid),
    "relax.tanh": _elementwise("tanh", elementary.tanh),
}
