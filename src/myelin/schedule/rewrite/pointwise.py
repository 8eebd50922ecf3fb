"""Elementwise operators, sums and norms: they keep the order of axes of what they read."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tvm import relax, tirx
from tvm.relax import op

from ...graph.relax_ir import shape_of
from ...privacy.clipping import upper_norm, upper_outer_norm
from ...privacy.strategy import kept_sum
from .. import kernels
from .rewriter import CHANNEL_LAST, FamilyRule, Rule, Site, inverse_order

_ELEMENTWISE = (
    *("abs", "add", "divide", "exp", "greater", "less", "maximum", "minimum", "multiply", "negative"),
    *("nn.relu", "sigmoid", "sqrt", "subtract", "tanh", "where"),
)


def _elementwise(site: Site) -> bool:
    """Stay channel-last if an argument is, and all others can be."""
    r, rank = site.rewriter, len(site.shape)
    arguments = list(site.call.args)
    if rank not in CHANNEL_LAST or not any(
        r.is_last(a) and shape_of(a) == site.shape for a in arguments if isinstance(a, relax.Var)
    ):
        return False
    new: list[relax.Expr] = []
    for argument in arguments:
        if not shape_of(argument):
            new.append(argument)
        elif isinstance(argument, relax.Var) and len(shape_of(argument)) == rank:
            new.append(r.get_last(argument))
        else:
            return False
    r.last[site.var] = r.emit(relax.Call(site.call.op, new, site.call.attrs, site.call.ty_args))
    return True


def _sum(site: Site) -> bool:
    r, (data,), attrs = site.rewriter, site.call.args, site.call.attrs
    if not r.is_last(data) or attrs.axis is None or bool(attrs.keepdims):
        return False
    order = CHANNEL_LAST[len(shape_of(data))]
    axes = [order.index(int(axis) % len(order)) for axis in attrs.axis]
    left = [axis for place, axis in enumerate(order) if place not in axes]
    if left != sorted(left):
        return False
    r.plain[site.var] = r.emit(op.sum(r.get_last(data), axis=axes))
    return True


def _kept_norm(site: Site, _function: tirx.PrimFunc) -> bool:
    r, (kept,) = site.rewriter, site.call.args[1].fields
    if kept in r.norms:
        r.plain[site.var] = r.norms[kept]()
        return True
    value = r.get_last(kept) if r.is_last(kept) else r.get_plain(kept)
    shape = shape_of(value)
    terms = math.prod(shape[1:])
    kernel = kernels.kept_norm(shape, lambda squares: upper_norm(squares, terms))
    r.plain[site.var] = r.call(kernel, [value])
    return True


def _outer_norm(site: Site, _function: tirx.PrimFunc) -> bool:
    r, factors = site.rewriter, [site.rewriter.get_plain(factor) for factor in site.call.args[1].fields]
    left, right = (shape_of(factor) for factor in factors)
    r.plain[site.var] = r.call(kernels.outer_norm(left, right, upper_outer_norm), factors)
    return True


def _kept_sum(site: Site, _function: tirx.PrimFunc) -> bool:
    r, (kept, coefficients) = site.rewriter, site.call.args[1].fields
    if not r.is_last(kept):
        return False
    total = kept_sum(r.builder, r.get_last(kept), r.get_plain(coefficients))
    if len(shape_of(kept)) == 5:
        r.plain[site.var] = r.call(kernels.weight_order(r.machine, shape_of(total)), [total])
        return True
    order = [axis - 1 for axis in inverse_order(CHANNEL_LAST[len(shape_of(kept))])[1:]]
    r.plain[site.var] = r.reorder(total, order)
    return True


OPERATORS: Mapping[str, Rule] = {"sum": _sum, **dict.fromkeys(_ELEMENTWISE, _elementwise)}
"""Rules of Relax operators, by name."""

FAMILIES: Mapping[str, FamilyRule] = {
    "norm.kept": _kept_norm,
    "norm.outer": _outer_norm,
    "sum.kept": _kept_sum,
}
"""Rules of families, by name."""
