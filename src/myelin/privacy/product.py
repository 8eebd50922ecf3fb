"""Rules of the product ``y = x W`` with a weight [in, out]: a linear layer's, with the two factors exchanged.

Its gradient ``Σₜ aₜ bₜᵀ`` is the transposed one of a linear layer, so it is that of the linear layer whose
input is b and whose output gradient is a: the same norm, the same sum, the same bounds
(:mod:`myelin.privacy.linear`).

*Guarantee.* As there: a ghost norm is a product of the same two sums of squares, and in the clipped sum the
coefficient multiplies a in place of b. Step 3 of :func:`myelin.privacy.sensitivity_bound` has the two factors
of a term in either role: each is at most 2⁶⁰ where an example counts.
"""

from __future__ import annotations

import dataclasses

from .linear import RULE as LINEAR
from .strategy import Rule, Site, Strategy

__all__ = ["RULE"]


def _exchanged(site: Site) -> Site:
    layer = dataclasses.replace(site.layer, kind="linear")
    return Site(layer, site.gradients, site.inputs)


def _strategy(of: Strategy) -> Strategy:
    return Strategy(
        of.name,
        lambda site: of.fits(_exchanged(site)),
        lambda site: of.cost(_exchanged(site)),
        lambda builder, site: of.norm(builder, _exchanged(site)),
        lambda builder, site, part, coefficients: of.total(builder, _exchanged(site), part, coefficients),
    )


RULE = Rule(
    strategies=tuple(_strategy(strategy) for strategy in LINEAR.strategies),
    example_gradient=lambda builder, site: LINEAR.example_gradient(builder, _exchanged(site)),
    batch_gradient=lambda builder, site: LINEAR.batch_gradient(builder, _exchanged(site)),
    batch_cost=lambda site: LINEAR.batch_cost(_exchanged(site)),
)
"""Those of the linear layer."""
