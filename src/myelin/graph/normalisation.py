"""Normalisation within an example, without scale and bias: over the last axis, or groups of channels.

``normal = (x − mean) · rstd``, ``rstd = 1 / √(variance + epsilon)``, the variance biased and of the centred
values, so that a large mean costs no digits. The gradient needs ``normal`` and ``rstd`` only (Ba, Kiros and
Hinton 2016; Wu and He 2018)::

    dx = rstd · (g − mean(g) − normal · mean(g · normal))

By the root of the mean square (Zhang and Sennrich 2019) it is the same without the means of x and of g.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import relax, te, tirx

from myelin.model.operators import call

from .relax_ir import call_family, family, shape_of, tensor

__all__ = ["GRADIENTS", "LOWER"]

_Index = tuple[tirx.Var, ...]


class _Groups:
    """How the places of a value fall into groups that are normalised together.

    For a value [..., n] a group is a row; for an image [m, c, h, w] it is c / groups channels of an example.
    """

    def __init__(self, shape: tuple[int, ...], groups: int | None) -> None:
        self.shape, self.groups = shape, groups
        self.channels = 1 if groups is None else shape[1] // groups
        self.outer = shape[:-1] if groups is None else (shape[0], groups)
        self.count = shape[-1] if groups is None else self.channels * math.prod(shape[2:])

    def of(self, index: _Index) -> tuple[tirx.PrimExpr, ...]:
        """The group that a place is in."""
        return index[:-1] if self.groups is None else (index[0], index[1] // self.channels)

    def mean(self, name: str, value: Callable[..., tirx.PrimExpr]) -> te.Tensor:
        """Mean of ``value(*place)`` over each group."""
        sizes = self.shape[-1:] if self.groups is None else (self.channels, *self.shape[2:])
        axes = [te.reduce_axis((0, size)) for size in sizes]

        def places(index: _Index) -> _Index:
            if self.groups is None:
                return (*index, axes[0])
            return (index[0], index[1] * self.channels + axes[0], *axes[1:])

        total = te.compute(self.outer, lambda *i: te.sum(value(*places(i)), axis=axes), name=f"{name}_sum")
        share = tirx.const(1.0 / self.count, "float32")
        return te.compute(self.outer, lambda *i: total(*i) * share, name=name)


def _normalise(builder: relax.BlockBuilder, value: relax.Call, name: str) -> tuple[relax.Expr, ...]:
    shape, attrs = shape_of(value.args[0]), value.attrs
    groups = int(attrs["groups"]) if "group" in name else None
    cut, is_centred = _Groups(shape, groups), "rms" not in name
    x = te.placeholder(shape, "float32", name="x")
    epsilon = tirx.const(float(attrs["epsilon"]), "float32")
    centred = x
    if is_centred:
        mean = cut.mean("mean", lambda *i: x(*i))
        centred = te.compute(shape, lambda *i: x(*i) - mean(*cut.of(i)), name="centred")
    variance = cut.mean("variance", lambda *i: centred(*i) * centred(*i))
    one = tirx.const(1.0, "float32")
    rstd = te.compute(cut.outer, lambda *i: one / tirx.sqrt(variance(*i) + epsilon), name="rstd")
    normal = te.compute(shape, lambda *i: centred(*i) * rstd(*cut.of(i)), name="normal")
    attributes = {"epsilon": float(attrs["epsilon"]), **({} if groups is None else {"groups": groups})}
    function = family(name, [x, normal, rstd], attributes)
    return call_family(builder, function, list(value.args), [tensor(shape), tensor(cut.outer)], "normal")


def _normalise_gradient(builder: relax.BlockBuilder, value: relax.Call, name: str) -> tuple[relax.Expr, ...]:
    shape = shape_of(value.args[0])
    groups = int(value.attrs["groups"]) if "group" in name else None
    cut = _Groups(shape, groups)
    g, normal = (te.placeholder(shape, "float32", name=n) for n in ("gradient", "normal"))
    rstd = te.placeholder(cut.outer, "float32", name="rstd")
    first = None if "rms" in name else cut.mean("first", lambda *i: g(*i))
    second = cut.mean("second", lambda *i: g(*i) * normal(*i))

    def at(*i: tirx.Var) -> tirx.PrimExpr:
        group = cut.of(i)
        of_mean = g(*i) if first is None else g(*i) - first(*group)
        return rstd(*group) * (of_mean - normal(*i) * second(*group))

    result = te.compute(shape, at, name="result")
    function = family(name, [g, normal, rstd, result], {} if groups is None else {"groups": groups})
    return call_family(builder, function, list(value.args), [tensor(shape)], "normal_gradient")


def _gradient(name: str) -> Callable[..., list[relax.Expr]]:
    def rule(
        output: relax.Var, value: relax.Call, gradient: relax.Var, _context: relax.BlockBuilder
    ) -> list[relax.Expr]:
        attributes = {"groups": int(value.attrs["groups"])} if "group" in name else {}
        first, normal, rstd = (
            relax.TupleGetItem(gradient, 0),
            relax.TupleGetItem(output, 0),
            relax.TupleGetItem(output, 1),
        )
        return [call(f"{name}_gradient", [first, normal, rstd], **attributes)]

    return rule


GRADIENTS = {name: _gradient(name) for name in ("normalise", "group_normalise", "rms_normalise")}
"""Gradient of each operator that a model is traced to."""

LOWER = {
    "normalise": lambda b, v: _normalise(b, v, "norm.normalise"),
    "normalise_gradient": lambda b, v: _normalise_gradient(b, v, "norm.normalise_gradient"),
    "rms_normalise": lambda b, v: _normalise(b, v, "norm.rms_normalise"),
    "rms_normalise_gradient": lambda b, v: _normalise_gradient(b, v, "norm.rms_normalise_gradient"),
    "group_normalise": lambda b, v: _normalise(b, v, "norm.group_normalise"),
    "group_normalise_gradient": lambda b, v: _normalise_gradient(b, v, "norm.group_normalise_gradient"),
}
"""Lowering of each operator, gradients included."""
