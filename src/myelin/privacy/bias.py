"""Rules of a bias: example i's gradient is the sum of its output gradient over positions."""

from __future__ import annotations

import math

from tvm import relax

from myelin.graph.relax_ir import shape_of

from .clipping import kept_norm
from .strategy import Rule, Site, batch_cost, kept_strategy, total_of

__all__ = ["RULE"]


def _sum(builder: relax.BlockBuilder, site: Site, first: int) -> relax.Expr:
    """Over every axis from ``first`` on but the bias's."""
    parts = []
    for use, gradient in zip(site.layer.uses, site.gradients, strict=True):
        others = [axis for axis in range(first, len(shape_of(gradient))) if axis != use.axis]
        if others:
            gradient = builder.emit(relax.op.sum(gradient, axis=others), name_hint="gradient")
        parts.append(gradient)
    return total_of(builder, parts)


def _flops(site: Site) -> int:
    return sum(math.prod(shape_of(g)[1:]) for g in site.gradients) if site.positions > 1 else 0


RULE = Rule(
    strategies=(kept_strategy(_flops, lambda builder, site: _sum(builder, site, 1), kept_norm),),
    example_gradient=lambda builder, site: _sum(builder, site, 1),
    batch_gradient=lambda builder, site: _sum(builder, site, 0),
    batch_cost=lambda site: batch_cost(site, site.values),
)
"""Keep: the gradient is smaller than what it is summed from, and for one position it is there already."""
