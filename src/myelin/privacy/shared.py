"""Rules of a parameter that layers of several kinds use, such as a table that is the output's weight too.

*Guarantee.* The gradient is the sum of what each kind gives, and what is kept is that sum, as computed in
float32: its norm is the norm of what is added, whatever the parts do to each other. A norm from the parts'
norms would be too small wherever they point the same way, by up to √2 for two, and adding the norms too large
by any factor where they cancel.

The price is a gradient of the parameter's whole shape per example, for an embedding too: a vocabulary times
a width. The cross term that would avoid it, ``2·Σₜ ⟨Eₜ, Σₛ Dₛ[tokenₜ] Hₛ⟩``, bounds the norm but leaves a sum
of terms that may cancel within an example, as in :mod:`myelin.privacy.linear`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tvm import relax

from .clipping import kept_norm
from .strategy import Rule, Site, batch_cost, kept_strategy, total_of

__all__ = ["shared_rule"]


def _parts(site: Site) -> list[Site]:
    """The uses of each kind as a layer of that kind, in the order in which kinds come up."""
    inputs = iter(site.inputs)
    uses = [
        (use, next(inputs) if use.input is not None else None, gradient)
        for use, gradient in zip(site.layer.uses, site.gradients, strict=True)
    ]
    parts = []
    for kind in dict.fromkeys(use.kind for use in site.layer.uses):
        own = [part for part in uses if part[0].kind == kind]
        layer = dataclasses.replace(site.layer, kind=kind, uses=tuple(use for use, _, _ in own))
        data = tuple(value for _, value, _ in own if value is not None)
        parts.append(Site(layer, data, tuple(gradient for _, _, gradient in own)))
    return parts


def shared_rule(kinds: Mapping[str, Rule]) -> Rule:
    """The rule of a parameter whose uses are of several of ``kinds``: keep."""

    def gradient(builder: relax.BlockBuilder, site: Site, per_example: bool) -> relax.Expr:
        parts = []
        for part in _parts(site):
            rule = kinds[part.layer.kind]
            parts.append((rule.example_gradient if per_example else rule.batch_gradient)(builder, part))
        return total_of(builder, parts)

    def flops(site: Site) -> int:
        return sum(kinds[part.layer.kind].batch_cost(part).flops for part in _parts(site))

    def example_gradient(builder: relax.BlockBuilder, site: Site) -> relax.Expr:
        return gradient(builder, site, True)

    return Rule(
        strategies=(kept_strategy(flops, example_gradient, kept_norm),),
        example_gradient=example_gradient,
        batch_gradient=lambda builder, site: gradient(builder, site, False),
        batch_cost=lambda site: batch_cost(site, flops(site)),
    )
