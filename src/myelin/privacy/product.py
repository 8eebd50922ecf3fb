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
from .strategy import Site, rule_at

__all__ = ["RULE"]


def _as_linear(site: Site) -> Site:
    return dataclasses.replace(site.exchanged(), layer=dataclasses.replace(site.layer, kind="linear"))


RULE = rule_at(LINEAR, _as_linear)
"""Those of the linear layer."""
