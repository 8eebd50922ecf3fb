"""The rule for records of several views: what a layer's gradient over a whole physical batch is, is clipped.

A physical batch is one record's views, and the loss's gradient was divided by their number where the backward
pass began (:func:`myelin.graph.loss.seed_of`). So what training without privacy computes, one contraction
over the batch, is the gradient of the mean of the views' losses: the record's.

*Guarantee.* What is kept is the record's whole gradient of the parameter, as computed in float32, and its
norm bounds it as any other kept gradient's (:mod:`myelin.privacy.clipping`); then it is scaled by the
record's coefficient, or selected away. So a record adds at most the clipping norm, whatever its views do to
each other, and one view that is not finite makes it contribute nothing. It holds for every layer that has a
rule, and rests on nothing but that the batch is one record: kernels of a batch's gradient may add its
examples up in any order.
"""

from __future__ import annotations

from tvm import relax

from myelin.graph.relax_ir import shape_of

from .clipping import kept_norm
from .strategy import Rule, Site, Strategy, kept_strategy

__all__ = ["of_all_views"]


def of_all_views(rule: Rule) -> Strategy:
    """Keep the gradient of a site's whole batch, the views of one record: float32 ``[1, *shape]``."""

    def gradient(builder: relax.BlockBuilder, site: Site) -> relax.Expr:
        whole = rule.batch_gradient(builder, site)
        return builder.emit(relax.op.reshape(whole, (1, *shape_of(whole))), name_hint="record_gradient")

    return kept_strategy(lambda site: site.batch * rule.batch_cost(site).flops, gradient, kept_norm)
