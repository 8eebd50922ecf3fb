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

A coefficient may be above 1, up to ``C / γ``. Nothing that uses it rests on its being below: the error bounds
of :func:`~myelin.privacy.sensitivity_bound` are of the products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import relax, te, tirx

from myelin.errors import BuildError
from myelin.graph.relax_ir import call_family, family, shape_of, tensor
from myelin.model import Plan

from .clipping import LARGEST_NORM, clip
from .clipping_rule import AutomaticClipping, FlatClipping

__all__ = ["Clipped", "clip_automatic", "clipped"]

_LOWERED = 1.0 - 2.0**-22
"""Factor on coefficients: further below 1 than their roundings take them up."""

Clipped = tuple[relax.Expr, relax.Expr, list[relax.Expr]]
"""Norms float32 ``[batch]``, contributing int32 ``[batch]``, and each parameter's coefficients float32
``[batch]``, 0 exactly where nothing may be added."""


def clipped(
    builder: relax.BlockBuilder, plan: Plan, layer_norms: Sequence[relax.Expr], mask: relax.Expr
) -> Clipped:
    """Emit the plan's clipping rule on each parameter's norms, as :func:`~myelin.privacy.clipping.clip` does.

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
    else:
        raise BuildError(
            f"clipping: expected a rule of myelin.privacy, as FlatClipping(), got {type(rule).__name__}"
        )
    return norms, contributing, [shared] * len(layer_norms)


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
    limit, added, lower = _wide(clipping_norm), _wide(stability), _wide(_LOWERED)
    return _examples(
        builder,
        "clip.automatic",
        layer_norms,
        mask,
        lambda norm: (limit / (norm + added) * lower).astype("float32"),
    )


def _examples(
    builder: relax.BlockBuilder,
    name: str,
    layer_norms: Sequence[relax.Expr],
    mask: relax.Expr,
    coefficient: Callable[[tirx.PrimExpr], tirx.PrimExpr],
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """The family ``name``: norms, contributing, and a coefficient made of the whole norm, float64."""
    shape = shape_of(mask)
    parts = [te.placeholder(shape, "float32", name=f"norm{i}") for i in range(len(layer_norms))]
    real = te.placeholder(shape, "float32", name="mask")
    zero, half = tirx.const(0.0, "float32"), tirx.const(0.5, "float32")

    def total(i: tirx.Var) -> tirx.PrimExpr:
        squares = _wide(0.0)
        for part in parts:
            squares = squares + part[i].astype("float64") * part[i].astype("float64")
        return tirx.sqrt(squares) * _wide(1.0 + 2.0**-40)

    norm = te.compute(shape, total, name="norm")

    def counted(i: tirx.Var) -> tirx.PrimExpr:
        return tirx.all(real[i] > half, norm[i] <= _wide(LARGEST_NORM))

    def shown(i: tirx.Var) -> tirx.PrimExpr:
        return tirx.Select(real[i] > half, (norm[i] * _wide(1.0 + 2.0**-22)).astype("float32"), zero)

    one, none = tirx.const(1, "int32"), tirx.const(0, "int32")
    norms = te.compute(shape, shown, name="norms")
    contributing = te.compute(shape, lambda i: tirx.Select(counted(i), one, none), name="contributing")
    coefficients = te.compute(
        shape, lambda i: tirx.Select(counted(i), coefficient(norm[i]), zero), name="coefficients"
    )
    function = family(name, [*parts, real, norms, contributing, coefficients])
    outputs = [tensor(shape), tensor(shape, "int32"), tensor(shape)]
    a, b, c = call_family(builder, function, [*layer_norms, mask], outputs, "clip")
    return a, b, c


def _wide(value: float) -> tirx.PrimExpr:
    return tirx.const(value, "float64")
