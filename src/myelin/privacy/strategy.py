"""What a rule is: how the norm of one layer's per-example gradient, and its clipped sum, are computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import relax, te, tirx

from myelin.graph import Layer
from myelin.graph.relax_ir import call_family, family, shape_of, tensor

from .cost import Cost

__all__ = ["Normed", "Site", "Strategy", "kept_cost", "kept_sum"]


@dataclass(frozen=True)
class Site:
    """A layer in the step, with the values that its gradient is made of.

    Attributes:
        layer: what it is.
        input: data input, float32 ``[batch, …]``; None for a bias.
        gradient: of the summed loss at the layer's output, float32 ``[batch, …]``.
    """

    layer: Layer
    input: relax.Expr | None
    gradient: relax.Expr

    @property
    def positions(self) -> int:
        """Places that one example uses the parameter at."""
        sizes = list(shape_of(self.gradient)[1:])
        axis = -1 if self.layer.kind == "linear" else self.layer.axis - 1
        return math.prod(sizes) // sizes[axis]


@dataclass(frozen=True)
class Normed:
    """A strategy's first half: norms, float32 ``[batch]``, and what its second half needs again."""

    norm: relax.Expr
    kept: relax.Expr | None = None


@dataclass(frozen=True)
class Strategy:
    """One way to clip a layer.

    Attributes:
        name: ``"ghost"`` or ``"keep"``.
        fits: whether it works at a site.
        cost: per example.
        norm: emits the upper bound of each example's norm.
        total: emits the sum of the examples' gradients, each times its coefficient; *selects* by coefficient
            > 0.
    """

    name: str
    fits: Callable[[Site], bool]
    cost: Callable[[Site], Cost]
    norm: Callable[[relax.BlockBuilder, Site], Normed]
    total: Callable[[relax.BlockBuilder, Site, Normed, relax.Expr], relax.Expr]


def kept_cost(site: Site, flops: int, inputs: int) -> Cost:
    """Cost of keeping: make the gradient by ``flops`` from ``inputs`` values, write it, read it twice."""
    size = math.prod(site.layer.shape)
    return Cost(flops=flops + 4 * size, bytes=4 * (inputs + 3 * size))


def kept_sum(builder: relax.BlockBuilder, gradient: relax.Expr, coefficients: relax.Expr) -> relax.Expr:
    """Sum of kept gradients ``[batch, *shape]``, each times its coefficient: float32 ``[*shape]``.

    An example whose coefficient is 0 is not looked at, so its NaN stays where it is.
    """
    batch, *shape = shape_of(gradient)
    g = te.placeholder((batch, *shape), "float32", name="gradient")
    c = te.placeholder((batch,), "float32", name="coefficients")
    example = te.reduce_axis((0, batch), name="example")
    zero = tirx.const(0.0, "float32")

    def value(*index: tirx.Var) -> tirx.PrimExpr:
        factor = c[example]
        return te.sum(tirx.Select(factor > zero, factor * g[(example, *index)], zero), axis=example)

    total = te.compute(tuple(shape), value, name="clipped_sum")
    function = family("sum.kept", [g, c, total])
    return call_family(builder, function, [gradient, coefficients], [tensor(shape)], "clipped_sum")[0]
