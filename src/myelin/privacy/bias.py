"""Rules of a bias: example i's gradient is the sum of its output gradient over positions."""

from __future__ import annotations

import math

from tvm import relax

from myelin.graph.relax_ir import shape_of

from .clipping import kept_norm
from .cost import Cost
from .strategy import Normed, Site, Strategy, kept_cost, kept_sum

__all__ = ["STRATEGIES"]


def _cost(site: Site) -> Cost:
    values = math.prod(shape_of(site.gradient)[1:])
    return kept_cost(site, values if site.positions > 1 else 0, values)


def _norm(builder: relax.BlockBuilder, site: Site) -> Normed:
    others = [axis for axis in range(1, len(shape_of(site.gradient))) if axis != site.layer.axis]
    kept = site.gradient
    if others:
        kept = builder.emit(relax.op.sum(kept, axis=others), name_hint="example_gradient")
    return Normed(kept_norm(builder, kept), kept)


def _total(builder: relax.BlockBuilder, _site: Site, normed: Normed, coefficients: relax.Expr) -> relax.Expr:
    return kept_sum(builder, normed.kept, coefficients)


STRATEGIES = (Strategy("keep", lambda _site: True, _cost, _norm, _total),)
"""Keep: the gradient is smaller than what it is summed from, and for one position it is there already."""
