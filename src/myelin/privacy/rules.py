"""One rule per family of layers, one file per rule; this table joins them.

A family is added by writing its file and a line here: nothing else in this room names a family. The PrimFuncs
that the rules emit carry these families, operands in order, inputs first; m is the batch:

========================= ================================================================= ================
family                    operands                                                          attributes
========================= ================================================================= ================
``gradient.linear``       inputs [m, t, d], gradients [m, t, p], kept [m, p, d]
``gradient.conv2d``       data [m, i, …], gradient [m, o, …], kept [m, o, i / groups, u, v] strides, padding,
                                                                                            groups
``gradient.dilated_conv2d``, ``…_sum``: as those of conv2d                                   …, dilation
``gradient.scale``        values, gradients [m, …], kept [m, c]                             axis
``embedding.segment``     tokens [m, t], gradients, rows [m, t, d]                          vocabulary
``embedding.tables``      tokens [m, t], gradients [m, t, d], tables [m, v, d]
``embedding.sum``         tokens [m, t], rows [m, t, d], coefficients [m], total [v, d]
``norm.outer``            left [m, …], right [m, …], norm [m]
``norm.kept``             kept [m, …], norm [m]
``clip.flat``             a norm [m] per layer, mask [m], norms, contributing, coefficients
``clip.automatic``        as clip.flat
``clip.adaptive``         as clip.flat, clipping norm [1] behind the mask
``clip.count``            norms [m], contributing [m], clipping norm [1], count [1]
``clip.whole``            a norm [m] per layer, mask [m], norms, contributing
``clip.group``            a norm [m] per layer, contributing [m], coefficients
``sum.kept``              kept [m, …], coefficients [m], total […]
``gradient.linear_sum``   inputs [m, t, d], gradients [m, t, p], total [p, d]
``gradient.conv2d_sum``   as gradient.conv2d, total [o, i / groups, u, v]                   strides, padding,
                                                                                            groups
``gradient.scale_sum``    values, gradients [m, …], total [c]                               axis
``embedding.scatter``     tokens [m, t], gradients [m, t, d], total [v, d]
``plain.counted``         mask [m], norms [m], contributing [m]
========================= ================================================================= ================

All float32 but ``contributing`` (int32); those after ``sum.kept`` are of the step without privacy
(:mod:`myelin.privacy.plain_graph`). What each computes is said where it is defined.
"""

from __future__ import annotations

from collections.abc import Mapping

from myelin.errors import BuildError

from . import bias, conv2d, embedding, linear, position, product, scale
from .shared import shared_rule
from .strategy import Rule, Site, Strategy

__all__ = ["RULES", "rule_of", "strategies"]

_KINDS: Mapping[str, Rule] = {
    "bias": bias.RULE,
    "conv2d": conv2d.RULE,
    "conv2d_transpose": conv2d.TRANSPOSED,
    "embedding": embedding.RULE,
    "linear": linear.RULE,
    "position": position.RULE,
    "product": product.RULE,
    "scale": scale.RULE,
}
RULES: Mapping[str, Rule] = {**_KINDS, "shared": shared_rule(_KINDS)}
"""The rule of each kind of :class:`~myelin.graph.Layer`."""


def rule_of(site: Site) -> Rule:
    """The rule of a site's layer.

    Raises:
        BuildError: the layer's kind has none.
    """
    rule = RULES.get(site.layer.kind)
    if rule is None:
        raise BuildError(
            f"layer {site.layer.name} of kind {site.layer.kind} cannot be made private: no rule for its "
            f"per-example gradient; kinds with one are {', '.join(sorted(RULES))}"
        )
    return rule


def strategies(site: Site) -> tuple[Strategy, ...]:
    """The strategies that fit ``site``, at least one.

    Raises:
        BuildError: the layer's kind has no rule.
    """
    return tuple(strategy for strategy in rule_of(site).strategies if strategy.fits(site))
