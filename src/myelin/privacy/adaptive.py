"""Adaptive clipping: a clipping norm that follows a quantile of the norms (Andrew et al., NeurIPS 2021,
arXiv:1905.03871), as one more coordinate of the mechanism.

Write Cₜ for the clipping norm of step t, n for an example's norm, and b = 1 where ``n <= Cₜ``, else 0. The
step sums, of each example, its gradient clipped to Cₜ *in units of Cₜ*, and ``h`` where b is 1, ``−h`` where
it is 0. Both parts are one vector of norm at most ``√(1 + h²)``, whatever Cₜ is; it gets the noise of any
other sum, and the clipping norm is a parameter like any other, whose noisy gradient is that of the count:

- the optimizer takes the noisy gradient times Cₜ;
- ``b̃ = noisy count / (2 h · expected batch) + 1/2``, and ``Cₜ₊₁ = Cₜ · exp(−rate · (b̃ − quantile))``, kept
  between :data:`LEAST_NORM` and :data:`LARGEST_CLIPPING_NORM`.

*Guarantee*. Cₜ depends on released values and public numbers only. So given what was released before, a step
is the Gaussian mechanism on one vector of fixed sensitivity, with the event's one noise multiplier z, and all
else is post-processing. This is the paper's mechanism: the count of ``b − 1/2`` gets noise of ``σ_b = z
√(1 + h²) / (2 h)``, the gradients noise of ``z_Δ = z √(1 + h²)`` clipping norms, and ``1/z² = 1/z_Δ² +
1/(2 σ_b)²``, its theorem 1. :attr:`~myelin.privacy.AdaptiveClipping` computes h from σ_b.

In exact arithmetic on the values that are added: the coefficient of a gradient is ``1 / max(n, Cₜ)`` lowered
by 2⁻²², then rounded, so the gradient's part is at most 1; the count's part is h, a float32, exactly. An
example that is padding or whose norm is not finite adds nothing to either. A clipping norm that were below
:data:`LEAST_NORM`, or NaN, would be taken for that: no value of it makes a part longer.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from tvm import relax, te, tirx

from myelin.errors import BuildError
from myelin.graph import TrainingGraph
from myelin.graph.relax_ir import (
    bindings_of,
    call_family,
    copy_bindings,
    emit_function,
    family,
    shape_of,
    substitute,
    tensor,
)
from myelin.graph.selection import selected
from myelin.model import Plan

from .clipping_rule import LARGEST_CLIPPING_NORM, LEAST_NORM, AdaptiveClipping

__all__ = ["CLIPPING_NORM", "bounded_norm", "count_below", "with_clipping_norm"]

CLIPPING_NORM = "myelin.clipping_norm"
"""Name of the clipping norm among the parameters; in the released model it has its last value."""


def with_clipping_norm(graph: TrainingGraph, plan: Plan) -> TrainingGraph:
    """``graph`` with the clipping norm as its last parameter, float32 ``[1]``, and an update that adapts it.

    Any other rule than :class:`~myelin.privacy.AdaptiveClipping` leaves it as it is.

    Raises:
        BuildError: the optimizer counts on noise of one size, or a parameter has the clipping norm's name.
    """
    rule = plan.clipping
    if not isinstance(rule, AdaptiveClipping):
        return graph
    if graph.noise_deviation is not None:
        raise BuildError(
            "the job's optimizer takes the noise's variance off its moments, and with adaptive clipping the "
            "noise follows the clipping norm; use Adam, or another clipping rule"
        )
    if CLIPPING_NORM in graph.parameter_names:
        raise BuildError(f"parameter {CLIPPING_NORM}: the name is the clipping norm's; rename the parameter")
    count = len(graph.parameter_names)
    functions = {v: f for v, f in graph.module.functions.items() if v.name_hint != "update"}
    builder = relax.BlockBuilder(type(graph.module)(functions))
    _adapting_update(builder, graph.module["update"], count, plan, rule)
    initial = np.array([plan.clipping_norm], np.float32)
    return dataclasses.replace(
        graph,
        module=builder.get(),
        parameter_names=(*graph.parameter_names, CLIPPING_NORM),
        parameter_values=(*graph.parameter_values, initial),
        released=(*(r if r < count else r + 1 for r in graph.released), count),
    )


def _adapting_update(
    builder: relax.BlockBuilder, update: relax.Function, count: int, plan: Plan, rule: AdaptiveClipping
) -> None:
    """Add ``update``: the old one on gradients times the clipping norm, and the next clipping norm."""
    op = relax.op
    old = [relax.Var(var.name, var.ty) for var in update.params]
    norm = relax.Var("clipping_norm", tensor((1,)))
    counted = relax.Var("clipping_norm_gradient", tensor((1,)))
    split = len(old) - count

    def number(value: float) -> relax.Expr:
        return relax.const(value, "float32")

    def body() -> list[relax.Expr]:
        new: dict[relax.Var, relax.Expr] = dict(zip(update.params, old, strict=True))
        for var, gradient in zip(update.params[split:], old[split:], strict=True):
            new[var] = builder.emit(op.multiply(gradient, norm), name_hint="gradient")
        *bindings, output = bindings_of(update)
        copy_bindings(builder, bindings, new)
        results = [substitute(field, new) for field in output.value.fields]
        share = op.add(op.multiply(counted, number(1 / (2 * rule.half_weight(plan)))), number(0.5))
        step = op.multiply(op.subtract(number(rule.quantile), share), number(rule.rate))
        moved = op.multiply(norm, op.exp(step))
        kept = op.minimum(op.maximum(moved, number(LEAST_NORM)), number(LARGEST_CLIPPING_NORM))
        return [*results[:count], builder.emit(kept, name_hint="clipping_norm"), *results[count:]]

    emit_function(builder, "update", [*old[: 1 + count], norm, *old[1 + count :], counted], body)


def bounded_norm(norm: te.Tensor) -> tirx.PrimExpr:
    """The clipping norm as the step takes it, float64: at least :data:`LEAST_NORM` whatever is there."""
    least = tirx.const(LEAST_NORM, "float32")
    return tirx.Select(norm[0] > least, norm[0], least).astype("float64")


def count_below(
    builder: relax.BlockBuilder,
    norms: relax.Expr,
    contributing: relax.Expr,
    clipping_norm: relax.Expr,
    half_weight: float,
) -> relax.Expr:
    """The sum over the batch of ``half_weight`` where a norm is at most the clipping norm, else of its
    negative: float32 ``[1]``. Who does not contribute adds nothing.

    Args:
        builder: where to emit.
        norms: float32 ``[batch]``.
        contributing: int32 ``[batch]``.
        clipping_norm: float32 ``[1]``.
        half_weight: h, a float32.
    """
    shape = shape_of(norms)
    n = te.placeholder(shape, "float32", name="norms")
    counted = te.placeholder(shape, "int32", name="contributing")
    limit = te.placeholder((1,), "float32", name="clipping_norm")
    example = te.reduce_axis((0, shape[0]), name="example")
    zero, below, above = (tirx.const(v, "float32") for v in (0.0, half_weight, -half_weight))

    def value(_place: tirx.Var) -> tirx.PrimExpr:
        part = selected(n[example].astype("float64") <= bounded_norm(limit), below, above)
        return te.sum(selected(counted[example] > tirx.const(0, "int32"), part, zero), axis=example)

    total = te.compute((1,), value, name="count")
    function = family("clip.count", [n, counted, limit, total])
    return call_family(builder, function, [norms, contributing, clipping_norm], [tensor((1,))], "count")[0]
