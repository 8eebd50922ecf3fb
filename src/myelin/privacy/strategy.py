"""What a rule is: how the norm of one layer's per-example gradient, and its clipped sum, are computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import relax, te, tirx

from myelin.graph import Layer, Use
from myelin.graph.relax_ir import call_family, family, shape_of, tensor
from myelin.graph.selection import selected

from .cost import Cost

__all__ = [
    "Normed",
    "Rule",
    "Site",
    "Strategy",
    "batch_cost",
    "kept_cost",
    "kept_strategy",
    "kept_sum",
    "rule_at",
    "total_of",
]


@dataclass(frozen=True)
class Site:
    """A layer in the step, with the values that its gradient is made of.

    Attributes:
        layer: what it is.
        inputs: data input of each use, float32 ``[batch, …]``; none at all for a bias or a position.
        gradients: of the summed loss at the output of each use, float32 ``[batch, …]``.
    """

    layer: Layer
    inputs: tuple[relax.Expr, ...]
    gradients: tuple[relax.Expr, ...]

    @property
    def batch(self) -> int:
        """Examples of the step."""
        return shape_of(self.gradients[0])[0]

    def exchanged(self) -> Site:
        """The same with inputs for gradients and gradients for inputs."""
        return Site(self.layer, self.gradients, self.inputs)

    @property
    def positions(self) -> int:
        """Places that one example uses the parameter at."""
        return sum(
            math.prod(shape_of(gradient)[1:]) // self._width(use, gradient)
            for use, gradient in zip(self.layer.uses, self.gradients, strict=True)
        )

    def _width(self, use: Use, gradient: relax.Expr) -> int:
        sizes, kind = shape_of(gradient), self.layer.kind
        kind = use.kind if kind == "shared" else kind
        if kind == "position":
            return math.prod(sizes[1:])
        return sizes[-1] if kind in ("linear", "product", "embedding") else sizes[use.axis]

    @property
    def values(self) -> int:
        """Numbers per example that the gradient is made of."""
        return sum(math.prod(shape_of(value)[1:]) for value in (*self.inputs, *self.gradients))


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


@dataclass(frozen=True)
class Rule:
    """A family of layers.

    Attributes:
        strategies: the ways to clip it; the last one fits every site.
        example_gradient: emits each example's gradient, float32 ``[batch, *shape]``, whatever the strategies
            do: for a parameter that other families use as well.
        batch_gradient: emits the ordinary gradient, summed over the batch, of the parameter's shape: what
            training without privacy computes.
        batch_cost: of that, per example.
    """

    strategies: tuple[Strategy, ...]
    example_gradient: Callable[[relax.BlockBuilder, Site], relax.Expr]
    batch_gradient: Callable[[relax.BlockBuilder, Site], relax.Expr]
    batch_cost: Callable[[Site], Cost]


def rule_at(rule: Rule, place: Callable[[Site], Site]) -> Rule:
    """``rule`` applied to what ``place`` makes of a site, whose gradient must be the site's own."""

    def strategy(of: Strategy) -> Strategy:
        return Strategy(
            of.name,
            lambda site: of.fits(place(site)),
            lambda site: of.cost(place(site)),
            lambda builder, site: of.norm(builder, place(site)),
            lambda builder, site, part, coefficients: of.total(builder, place(site), part, coefficients),
        )

    return Rule(
        strategies=tuple(strategy(of) for of in rule.strategies),
        example_gradient=lambda builder, site: rule.example_gradient(builder, place(site)),
        batch_gradient=lambda builder, site: rule.batch_gradient(builder, place(site)),
        batch_cost=lambda site: rule.batch_cost(place(site)),
    )


def kept_cost(site: Site, flops: int, inputs: int) -> Cost:
    """Cost of keeping: make the gradient by ``flops`` from ``inputs`` values, write it, read it twice."""
    size = math.prod(site.layer.shape)
    return Cost(flops=flops + 4 * size, bytes=4 * (inputs + 3 * size))


def batch_cost(site: Site, flops: int) -> Cost:
    """Cost of one gradient for the whole batch: ``flops`` per example, the result written once."""
    return Cost(flops=flops, bytes=4 * (site.values + math.prod(site.layer.shape) // site.batch))


def kept_strategy(
    flops: Callable[[Site], int],
    gradient: Callable[[relax.BlockBuilder, Site], relax.Expr],
    norm: Callable[[relax.BlockBuilder, relax.Expr], relax.Expr],
) -> Strategy:
    """Keep each example's gradient, float32 ``[batch, *shape]``, until its coefficient is known."""

    def normed(builder: relax.BlockBuilder, site: Site) -> Normed:
        kept = gradient(builder, site)
        return Normed(norm(builder, kept), kept)

    return Strategy(
        "keep",
        lambda _site: True,
        lambda site: kept_cost(site, flops(site), site.values),
        normed,
        lambda builder, _site, part, coefficients: kept_sum(builder, part.kept, coefficients),
    )


def total_of(builder: relax.BlockBuilder, parts: list[relax.Expr]) -> relax.Expr:
    """The sum of the uses' parts, in their order."""
    total = parts[0]
    for part in parts[1:]:
        total = builder.emit(relax.op.add(total, part), name_hint="gradient")
    return total


def kept_sum(
    builder: relax.BlockBuilder, gradient: relax.Expr | None, coefficients: relax.Expr
) -> relax.Expr:
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
        return te.sum(selected(factor > zero, factor * g[(example, *index)], zero), axis=example)

    total = te.compute(tuple(shape), value, name="clipped_sum")
    function = family("sum.kept", [g, c, total])
    return call_family(builder, function, [gradient, coefficients], [tensor(shape)], "clipped_sum")[0]
