"""Rules of the linear layer ``y = x Wᵀ``: a gradient is ``Σₜ bₜ aₜᵀ``, a the input, b the output gradient."""

from __future__ import annotations

from tvm import relax

from myelin.graph.relax_ir import shape_of

from .clipping import kept_norm, outer_norm
from .cost import Cost
from .strategy import Normed, Site, Strategy, kept_cost, kept_sum

__all__ = ["STRATEGIES"]


def _ghost_cost(site: Site) -> Cost:
    outputs, inputs = site.layer.shape
    size = inputs + outputs
    batch = shape_of(site.gradient)[0]
    return Cost(flops=3 * size + 2 * inputs * outputs, bytes=4 * (3 * size + inputs * outputs // batch))


def _ghost_norm(builder: relax.BlockBuilder, site: Site) -> Normed:
    assert site.input is not None
    return Normed(outer_norm(builder, site.input, site.gradient))


def _ghost_total(
    builder: relax.BlockBuilder, site: Site, _normed: Normed, coefficients: relax.Expr
) -> relax.Expr:
    """One matrix product ``(c·b)ᵀ a``; both factors are 0, by selection, where an example does not count."""
    op, zero = relax.op, relax.const(0.0, "float32")
    column = builder.emit(op.reshape(coefficients, (shape_of(coefficients)[0], 1)), name_hint="coefficient")
    counts = builder.emit(op.greater(column, zero), name_hint="counts")
    scaled = builder.emit(op.where(counts, op.multiply(site.gradient, column), zero), name_hint="scaled")
    inputs = builder.emit(op.where(counts, site.input, zero), name_hint="inputs")
    return builder.emit(op.matmul(op.permute_dims(scaled), inputs), name_hint="clipped_sum")


def _keep_cost(site: Site) -> Cost:
    outputs, inputs = site.layer.shape
    flops = 2 * site.positions * inputs * outputs
    return kept_cost(site, flops, site.positions * (inputs + outputs))


def _keep_norm(builder: relax.BlockBuilder, site: Site) -> Normed:
    op, batch = relax.op, shape_of(site.gradient)[0]
    outputs, inputs = site.layer.shape
    right = builder.emit(op.reshape(site.input, (batch, site.positions, inputs)), name_hint="inputs")
    left = builder.emit(op.reshape(site.gradient, (batch, site.positions, outputs)), name_hint="outputs")
    kept = builder.emit(op.matmul(op.permute_dims(left, (0, 2, 1)), right), name_hint="example_gradient")
    return Normed(kept_norm(builder, kept), kept)


def _keep_total(
    builder: relax.BlockBuilder, _site: Site, normed: Normed, coefficients: relax.Expr
) -> relax.Expr:
    return kept_sum(builder, normed.kept, coefficients)


def _is_vector(site: Site) -> bool:
    return len(shape_of(site.gradient)) == 2


STRATEGIES = (
    Strategy("ghost", _is_vector, _ghost_cost, _ghost_norm, _ghost_total),
    Strategy("keep", lambda _site: True, _keep_cost, _keep_norm, _keep_total),
)
"""Ghost for one position per example, where nothing cancels in the norm; keep for any."""
