"""Rules of a learned position, a value for each place of an example: its gradient is the output gradient."""

from __future__ import annotations

from tvm import relax

from .clipping import kept_norm
from .strategy import Rule, Site, batch_cost, kept_strategy, total_of

__all__ = ["RULE"]


def _batch_gradient(builder: relax.BlockBuilder, site: Site) -> relax.Expr:
    total = total_of(builder, list(site.gradients))
    return builder.emit(relax.op.sum(total, axis=[0]), name_hint="gradient")


RULE = Rule(
    strategies=(
        kept_strategy(
            lambda site: site.values - site.values // len(site.gradients),
            lambda builder, site: total_of(builder, list(site.gradients)),
            kept_norm,
        ),
    ),
    example_gradient=lambda builder, site: total_of(builder, list(site.gradients)),
    batch_gradient=_batch_gradient,
    batch_cost=lambda site: batch_cost(site, site.values),
)
"""Keep: every example's gradient is there already."""
