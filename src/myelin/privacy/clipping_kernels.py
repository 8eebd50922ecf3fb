"""Coefficients under every rule of :mod:`~myelin.privacy.clipping_rule`: from norms, what to multiply by.

*Guarantee*, for every rule. Let g be an example's whole gradient as :mod:`~myelin.privacy.clipping` has it,
and g' what the example adds in exact arithmetic: each parameter's part of g times that parameter's
coefficient. Then ``‖g'‖`` is at most the plan's clipping norm, whatever the values are, and an example that
is padding, or whose norm is not finite or above :data:`~myelin.privacy.clipping.LARGEST_NORM`, has
coefficients of 0.

- ``flat``: as :func:`~myelin.privacy.clipping.clip` proves.
- ``automatic``: with ``n >= ‖g‖`` the norm, C the clipping norm and γ the stability, the coefficient is
  ``C / (n + γ)`` lowered by 2⁻²², then rounded: four roundings of at most 2⁻²⁴ + 3·2⁻⁵³ in all, so it is
  below ``C / (n + γ)``. So ``‖g'‖ < C ‖g‖ / (‖g‖ + γ) < C``. A layer's norm below 2⁻¹²⁶ that became 0 makes n
  smaller than ``‖g‖`` by less than 2⁻¹¹⁴ for up to 2²⁴ layers, which is less than γ.
- ``per-layer``: each group's part of g' is at most as long as the group's bound, for its coefficient is made
  as ``flat`` makes it of a whole gradient's; and the bounds' squares add up to at most the clipping norm's.
  An example is left out of all groups if any layer's norm is not finite or the whole norm too large.
- ``adaptive``: :mod:`~myelin.privacy.adaptive`; what is added is in units of the clipping norm of the step.

A coefficient may be above 1, up to ``C / γ``. Nothing that uses it rests on its being below: the error bounds
of :func:`~myelin.privacy.sensitivity_bound` are of the products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tvm import relax, te, tirx

from myelin.errors import BuildError
from myelin.graph.relax_ir import call_family, family, shape_of, tensor
from myelin.graph.selection import selected
from myelin.model import Plan

from .adaptive import bounded_norm, count_below
from .clipping import (
    LOWERED,
    clip,
    clip_examples,
    flat_coefficient,
    norm_placeholders,
    norms_and_contributing,
    whole_norm,
)
from .clipping_rule import AdaptiveClipping, AutomaticClipping, FlatClipping, PerLayerClipping

__all__ = ["Clipped", "clip_adaptive", "clip_automatic", "clip_groups", "clipped"]

Clipped = tuple[relax.Expr, relax.Expr, list[relax.Expr], list[relax.Expr]]
"""Norms float32 ``[batch]``, contributing int32 ``[batch]``, each parameter's coefficients float32
``[batch]``, 0 exactly where nothing may be added, and sums of their own that the rule wants: none, or the
count of adaptive clipping."""


def clipped(
    builder: relax.BlockBuilder,
    plan: Plan,
    names: Sequence[str],
    layer_norms: Sequence[relax.Expr],
    mask: relax.Expr,
    norm_now: relax.Expr | None = None,
) -> Clipped:
    """Emit the plan's clipping rule on each parameter's norms, as :func:`~myelin.privacy.clipping.clip` does.

    ``names`` are those of the parameters; ``norm_now`` is the step's clipping norm, float32 ``[1]``, where it
    adapts.

    Raises:
        BuildError: a rule that is not known here.
    """
    rule = plan.clipping
    if isinstance(rule, FlatClipping):
        norms, contributing, shared = clip(builder, layer_norms, mask, plan.clipping_norm)
    elif isinstance(rule, AutomaticClipping):
        norms, contributing, shared = clip_automatic(
            builder, layer_norms, mask, plan.clipping_norm, rule.stability_e9 / 1e9
        )
    elif isinstance(rule, PerLayerClipping):
        bounds, groups = rule.bounds_e9(plan.clipping_norm_e9, names), rule.groups(names)
        norms, contributing, own = clip_groups(
            builder, layer_norms, mask, groups, {g: b / 1e9 for g, b in bounds.items()}
        )
        return norms, contributing, own, []
    elif isinstance(rule, AdaptiveClipping) and norm_now is not None:
        norms, contributing, shared = clip_adaptive(builder, layer_norms, mask, norm_now)
        count = count_below(builder, norms, contributing, norm_now, rule.half_weight(plan))
        return norms, contributing, [shared] * len(layer_norms), [count]
    else:
        raise BuildError(
            f"clipping: expected a rule of myelin.privacy, as FlatClipping(), got {type(rule).__name__}"
        )
    return norms, contributing, [shared] * len(layer_norms), []


def clip_automatic(
    builder: relax.BlockBuilder,
    layer_norms: Sequence[relax.Expr],
    mask: relax.Expr,
    clipping_norm: float,
    stability: float,
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """AUTO-S: every example's coefficient is ``clipping_norm / (norm + stability)``.

    Arguments and results are those of :func:`~myelin.privacy.clipping.clip`, but for coefficients above 1.
    """
    limit, added, lower = _wide(clipping_norm), _wide(stability), _wide(LOWERED)
    return clip_examples(
        builder,
        "clip.automatic",
        layer_norms,
        mask,
        lambda norm: (limit / (norm + added) * lower).astype("float32"),
    )


def clip_adaptive(
    builder: relax.BlockBuilder,
    layer_norms: Sequence[relax.Expr],
    mask: relax.Expr,
    clipping_norm: relax.Expr,
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Every example's coefficient is ``1 / max(norm, clipping_norm)``, with a clipping norm float32 ``[1]``.

    Other arguments and results are those of :func:`~myelin.privacy.clipping.clip`.
    """
    one, lower = _wide(1.0), _wide(LOWERED)
    limit = te.placeholder((1,), "float32", name="clipping_norm")

    def coefficient(norm: tirx.PrimExpr) -> tirx.PrimExpr:
        bound = bounded_norm(limit)
        return (one / selected(norm > bound, norm, bound) * lower).astype("float32")

    return clip_examples(builder, "clip.adaptive", layer_norms, mask, coefficient, [(limit, clipping_norm)])


def clip_groups(
    builder: relax.BlockBuilder,
    layer_norms: Sequence[relax.Expr],
    mask: relax.Expr,
    groups: Sequence[str],
    bounds: Mapping[str, float],
) -> tuple[relax.Expr, relax.Expr, list[relax.Expr]]:
    """Clip each group's part of a gradient to the group's bound.

    Args:
        builder: where to emit.
        layer_norms: upper bounds, float32 ``[batch]`` each.
        mask: float32 ``[batch]``, 1 for an example, 0 for padding.
        groups: the group of each layer.
        bounds: of each group.
    """
    norms, contributing = _whole(builder, layer_norms, mask)
    coefficients = {
        group: _group(
            builder,
            [norm for norm, of in zip(layer_norms, groups, strict=True) if of == group],
            contributing,
            math.nextafter(bound, 0.0),
        )
        for group, bound in bounds.items()
    }
    return norms, contributing, [coefficients[group] for group in groups]


def _whole(
    builder: relax.BlockBuilder, layer_norms: Sequence[relax.Expr], mask: relax.Expr
) -> tuple[relax.Expr, relax.Expr]:
    """The family ``clip.whole``: the whole gradient's norms, and who contributes."""
    parts, real = norm_placeholders(len(layer_norms), mask)
    function = family("clip.whole", [*parts, real, *norms_and_contributing(whole_norm(parts), real)])
    types = [tensor(shape_of(mask)), tensor(shape_of(mask), "int32")]
    norms, contributing = call_family(builder, function, [*layer_norms, mask], types, "clip")
    return norms, contributing


def _group(
    builder: relax.BlockBuilder, layer_norms: Sequence[relax.Expr], contributing: relax.Expr, bound: float
) -> relax.Expr:
    """The family ``clip.group``: a group's coefficients, of those who contribute."""
    shape = shape_of(contributing)
    parts, _ = norm_placeholders(len(layer_norms), contributing)
    counted = te.placeholder(shape, "int32", name="contributing")
    norm, zero, none = whole_norm(parts), tirx.const(0.0, "float32"), tirx.const(0, "int32")

    def coefficient(i: tirx.Var) -> tirx.PrimExpr:
        return selected(counted[i] > none, flat_coefficient(norm[i], bound), zero)

    coefficients = te.compute(shape, coefficient, name="coefficients")
    function = family("clip.group", [*parts, counted, coefficients])
    return call_family(builder, function, [*layer_norms, contributing], [tensor(shape)], "clip")[0]


def _wide(value: float) -> tirx.PrimExpr:
    return tirx.const(value, "float64")
