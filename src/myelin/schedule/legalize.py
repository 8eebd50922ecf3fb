"""Operators that are lowered by this room's own rules instead of TVM's.

TVM's rules would call a mathematics library for the elementary functions and store constants; both are
absent from the image.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax, te, tirx
from tvm.ir import Call as IrCall
from tvm.ir import GenericConst

from ..graph.selection import dtype_of, fenced
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
    return tirx.Select(x < zero, zero, fenced(x))


def _where(builder: relax.BlockBuilder, call: IrCall) -> relax.Expr:
    """Selection, with scalar constants written into the kernel."""
    fixed = {place: _scalar(arg) for place, arg in enumerate(call.args) if _scalar(arg) is not None}
    tensors = [arg for place, arg in enumerate(call.args) if place not in fixed]
    shape = [int(size) for size in call.ty.shape.values]

    def compute(*given: te.Tensor) -> te.Tensor:
        rest = iter(given)
        arguments = [fixed[place] if place in fixed else next(rest) for place in range(3)]

        def at(source: object, index: tuple[object, ...]) -> object:
            if not isinstance(source, te.Tensor):
                return source
            own = index[len(index) - len(source.shape) :]
            return source(*(0 if int(n) == 1 else i for i, n in zip(own, source.shape, strict=True)))

        def choose(*index: object) -> object:
            condition, *values = (at(a, index) for a in arguments)
            return tirx.Select(condition, *(fenced(v) if dtype_of(v) == "float32" else v for v in values))

        return te.compute(shape, choose, name="where")

    return builder.call_te(compute, *tensors, primfunc_name_hint="where")


def _scalar(value: relax.Expr) -> object | None:
    """The TIR constant that a scalar Relax constant is; None for any other expression."""
    if not isinstance(value, GenericConst) or len(value.ty.shape.values):
        return None
    number: object = tirx.const(value.value.numpy().item(), str(value.ty.dtype))
    return number


LEGALIZERS: dict[str, Legalizer] = {
    "relax.arange": _arange,
    "relax.exp": _elementwise("exp", elementary.exp),
    "relax.nn.relu": _elementwise("relu", _relu),
    "relax.nn.softmax": _softmax,
    "relax.sigmoid": _elementwise("sigmoid", elementary.sigmoid),
    "relax.where": _where,
    "relax.tanh": _elementwise("tanh", elementary.tanh),
}
