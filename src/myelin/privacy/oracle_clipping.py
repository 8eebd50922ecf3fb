"""The oracle's clipping rules: their definitions in float64, no rounding up or down."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .clipping_rule import AdaptiveClipping, AutomaticClipping, ClippingRule, PerLayerClipping

__all__ = ["next_clipping_norm", "scales", "share_below"]


def scales(
    rule: ClippingRule, clipping_norm: float, names: Sequence[str], norms: Sequence[float]
) -> list[float]:
    """What each parameter's part of an example's gradient is multiplied by.

    Args:
        rule: of the plan.
        clipping_norm: of the plan; of the step for adaptive clipping, which sums in units of it.
        names: of the parameters.
        norms: of the parts, all finite.
    """
    norm = math.sqrt(sum(part**2 for part in norms))
    if isinstance(rule, AutomaticClipping):
        return [clipping_norm / (norm + rule.stability)] * len(norms)
    if isinstance(rule, PerLayerClipping):
        groups = rule.groups(names)
        shares = dict(rule.shares) if rule.shares else dict.fromkeys(groups, 1.0)
        unit = clipping_norm / math.sqrt(sum(share**2 for share in shares.values()))
        inside = {
            group: math.sqrt(sum(n**2 for n, g in zip(norms, groups, strict=True) if g == group))
            for group in groups
        }
        return [min(1.0, unit * shares[g] / inside[g]) if inside[g] > 0 else 1.0 for g in groups]
    if isinstance(rule, AdaptiveClipping):
        return [1 / max(norm, clipping_norm)] * len(norms)
    return [min(1.0, clipping_norm / norm) if norm > 0 else 1.0] * len(norms)


def share_below(clipping_norm: float, norms: Sequence[float], half_weight: float) -> float:
    """Adaptive clipping's count: ``half_weight`` for a norm at most the clipping norm, else its negative."""
    return sum(half_weight if norm <= clipping_norm else -half_weight for norm in norms)


def next_clipping_norm(
    rule: AdaptiveClipping, clipping_norm: float, noisy_count: float, half_weight: float
) -> float:
    """Adaptive clipping's next norm, from the noisy count over the expected batch size."""
    share = noisy_count / (2 * half_weight) + 0.5
    moved = clipping_norm * math.exp(-rule.rate * (share - rule.quantile))
    return min(max(moved, 2.0**-20), 2.0**20)
