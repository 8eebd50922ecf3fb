"""The brute-force oracle: one private step in float64 NumPy, one example at a time, by the definition.

It shares nothing with the compiler but the forward function that it interprets: own derivatives, own
convolution, own clipping, no taps, no ghost norms, no batching. Slow by design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from myelin.graph.relax_ir import bindings_of, constant, shape_of
from myelin.model import Loss, as_loss

from .clipping_rule import ClippingRule, FlatClipping
from .oracle_clipping import scales
from .oracle_operators import Array, Pullback, evaluate
from .oracle_update import apply_update, loss_gradient

__all__ = [
    "ClippedSums",
    "apply_update",
    "clipped_sums",
    "example_gradient",
    "loss_gradient",
    "noisy_mean",
]


@dataclass(frozen=True)
class ClippedSums:
    """What one physical batch yields.

    Attributes:
        sums: per parameter.
        norms: of each example's whole gradient, 0 for padding; NaN or infinite where it was.
        contributing: 1 where the example was counted.
        gradients: per example and parameter, before clipping.
    """

    sums: tuple[Array, ...]
    norms: Array
    contributing: npt.NDArray[np.int32]
    gradients: tuple[tuple[Array, ...], ...]


def example_gradient(
    forward: relax.Function,
    parameters: Sequence[Array],
    features: Array,
    label: float,
    loss: Loss | str = "cross_entropy",
    frozen: Sequence[Array] = (),
    masks: Sequence[Array] = (),
) -> tuple[Array, ...]:
    """Gradient of one example's loss by every parameter but the frozen ones.

    Args:
        forward: ``(features, *parameters, *frozen, *masks) → outputs``, as
            ``TrainingGraph.trained_forward``.
        parameters: values.
        features: of one example, without the batch axis.
        label: its class, or the number as the loss sees it.
        loss: as a job's.
        frozen: values of the constants.
        masks: the example's of each dropout layer, without the batch axis.
    """
    given = [np.asarray(value, np.float64) for value in (*parameters, *frozen)]
    given += [np.asarray(mask, np.float64)[None] for mask in masks]
    values: dict[relax.Var, Any] = {forward.params[0]: np.asarray(features, np.float64)[None]}
    values.update(zip(forward.params[1:], given, strict=True))
    tape: list[tuple[relax.Var, list[relax.Expr], Pullback]] = []
    for binding in bindings_of(forward):
        value = binding.value
        if isinstance(value, relax.Var):
            values[binding.var] = values[value]
            tape.append((binding.var, [value], lambda dy: (dy,)))
            continue
        if isinstance(value, relax.TupleGetItem):
            whole, field = values[value.tuple_value], int(value.index)
            values[binding.var] = whole[field]
            tape.append((binding.var, [value.tuple_value], _of_field(whole, field)))
            continue
        sources, arguments = [], []
        for source in value.args:
            argument = values[source] if isinstance(source, relax.Var) else constant(source)
            if argument is not None:
                sources.append(source)
                arguments.append(argument)
        values[binding.var], pullback = evaluate(value, arguments)
        tape.append((binding.var, sources, pullback))
    output = forward.body.body
    gradients: dict[relax.Var, Any] = {output: loss_gradient(as_loss(loss), values[output], label)}
    for var, sources, pullback in reversed(tape):
        if var not in gradients:
            continue
        for source, gradient in zip(sources, pullback(gradients[var]), strict=False):
            if isinstance(source, relax.Var) and gradient is not None:
                gradients[source] = _added(gradients[source], gradient) if source in gradients else gradient
    trained = forward.params[1 : 1 + len(parameters)]
    return tuple(gradients.get(p, np.zeros(shape_of(p))) for p in trained)


def _of_field(whole: tuple[Array, ...], field: int) -> Pullback:
    """One value of a tuple: zeros for the others."""
    return lambda dy: (tuple(dy if i == field else np.zeros_like(v) for i, v in enumerate(whole)),)


def _added(left: Any, right: Any) -> Any:
    """Sum of two gradients, of a tuple value by value."""
    if isinstance(left, tuple):
        return tuple(a + b for a, b in zip(left, right, strict=True))
    return left + right


def clipped_sums(
    forward: relax.Function,
    parameters: Sequence[Array],
    features: npt.ArrayLike,
    labels: Sequence[float],
    mask: Sequence[float],
    clipping_norm: float,
    loss: Loss | str = "cross_entropy",
    frozen: Sequence[Array] = (),
    rule: ClippingRule | None = None,
    names: Sequence[str] = (),
    masks: Sequence[npt.ArrayLike] = (),
    views: int = 1,
) -> ClippedSums:
    """Per-example gradients, norms, and the sum of the real and finite ones, each clipped.

    ``names`` are those of the parameters, for a rule that groups them; ``masks`` those of the dropout layers,
    ``[batch · views, …]`` as the features are. Where a record has several views, one after the other, its
    gradient is the mean of theirs.
    """
    rows = np.asarray(features, np.float64)
    sums = [np.zeros(np.shape(p)) for p in parameters]
    count = len(rows) // views
    norms, contributing = np.zeros(count), np.zeros(count, np.int32)
    gradients = []

    def of_view(i: int) -> tuple[Array, ...]:
        own = [np.asarray(mask)[i] for mask in masks]
        return example_gradient(forward, parameters, rows[i], labels[i // views], loss, frozen, own)

    with np.errstate(all="ignore"):
        for i in range(count):
            each = [of_view(view) for view in range(i * views, (i + 1) * views)]
            gradient = tuple(np.mean(parts, axis=0) for parts in zip(*each, strict=True))
            gradients.append(gradient)
            if not mask[i]:
                continue
            norms[i] = np.sqrt(sum(float((g**2).sum()) for g in gradient))
            if not np.isfinite(norms[i]):
                continue
            contributing[i] = 1
            parts = [float(np.sqrt((g**2).sum())) for g in gradient]
            factors = scales(rule or FlatClipping(), clipping_norm, names, parts)
            for total, g, factor in zip(sums, gradient, factors, strict=True):
                total += factor * g
    return ClippedSums(tuple(sums), norms, contributing, tuple(gradients))


def noisy_mean(
    sums: Sequence[Array], grid: float, noise: Sequence[npt.NDArray[np.int64]], divisor: int
) -> tuple[Array, ...]:
    """``(round(sum / grid) + z) · grid / divisor`` per coordinate, with the integer noise z as given."""
    return tuple((np.rint(s / grid) + z) * grid / divisor for s, z in zip(sums, noise, strict=True))
