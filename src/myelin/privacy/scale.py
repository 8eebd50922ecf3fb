"""Rules of a scale ``y = x · γ`` along one axis: a gradient is the sum of ``b · x`` over positions."""

from __future__ import annotations

from tvm import relax, te, tirx

from myelin.graph.relax_ir import call_family, family, shape_of, tensor

from .clipping import kept_norm
from .strategy import Rule, Site, batch_cost, kept_strategy, total_of

__all__ = ["RULE"]


def _product(
    builder: relax.BlockBuilder, values: relax.Expr, gradient: relax.Expr, axis: int, per_example: bool
) -> relax.Expr:
    """``Σ values · gradient`` over all axes but ``axis`` and, per example, the first."""
    shape = shape_of(values)
    x, b = (te.placeholder(shape, "float32", name=name) for name in ("values", "gradients"))
    kept = [0, axis] if per_example else [axis]
    reduced = {place: te.reduce_axis((0, size)) for place, size in enumerate(shape) if place not in kept}

    def value(*index: tirx.Var) -> tirx.PrimExpr:
        own = dict(zip(kept, index, strict=True))
        place = [own[i] if i in own else reduced[i] for i in range(len(shape))]
        product = x[tuple(place)] * b[tuple(place)]
        return te.sum(product, axis=list(reduced.values())) if reduced else product

    result_shape = tuple(shape[place] for place in kept)
    result = te.compute(result_shape, value, name="scale_gradient")
    name = "gradient.scale" if per_example else "gradient.scale_sum"
    function = family(name, [x, b, result], {"axis": axis})
    return call_family(builder, function, [values, gradient], [tensor(result_shape)], "gradient")[0]


def _gradient(builder: relax.BlockBuilder, site: Site, per_example: bool) -> relax.Expr:
    uses = zip(site.layer.uses, site.inputs, site.gradients, strict=True)
    return total_of(builder, [_product(builder, x, b, use.axis, per_example) for use, x, b in uses])


RULE = Rule(
    strategies=(
        kept_strategy(
            lambda site: site.values, lambda builder, site: _gradient(builder, site, True), kept_norm
        ),
    ),
    example_gradient=lambda builder, site: _gradient(builder, site, True),
    batch_gradient=lambda builder, site: _gradient(builder, site, False),
    batch_cost=lambda site: batch_cost(site, site.values),
)
"""Keep: the gradient is a vector."""
