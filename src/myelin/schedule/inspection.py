"""One private step's numbers before noise, for tests and audits: compiled kernels, outside any enclave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..graph import differentiate, forward_function, label_dtype
from ..model import SGD, Job, Loss, Plan, as_loss
from ..model.nn import Module
from ..privacy import make_private
from ..privacy.augment import views_from_seed
from ..privacy.dropout import masks_from_seed
from .native import NativeProgram
from .scheduler import schedule

__all__ = ["StepInspection", "inspect_step"]


@dataclass(frozen=True)
class StepInspection:
    """What one step computes of a batch before noise is added.

    Attributes:
        per_example_norms: upper bound of the L2 norm of each example's whole gradient, float32 ``[batch]``;
            infinite where the gradient is not finite, and then the example adds nothing.
        clipped_sum: by the parameter's name, the sum of the clipped gradients, float64: physical batches are
            added as the enclave adds them.
        per_layer_norms: by the parameter's name, the same bound of its part of the gradient.
    """

    per_example_norms: NDArray[np.float32]
    clipped_sum: Mapping[str, NDArray[np.float64]]
    per_layer_norms: Mapping[str, NDArray[np.float32]]


def inspect_step(
    model: Any,
    params: Sequence[ArrayLike] | None,
    x: ArrayLike,
    y: ArrayLike,
    plan: Plan,
    target: str = "x86-64-v3",
    loss: Loss | str = "cross_entropy",
    masks: Sequence[ArrayLike] | int = 0,
    views: ArrayLike | int = 0,
) -> StepInspection:
    """Run the compiled private step on one batch and show what it is made of.

    Nothing is secret here and nothing is noised: it is for data that may be seen.

    Args:
        model: an ``nn.Module``, or what makes one.
        params: values of the parameters in the model's order, or None for the initial ones of seed 0.
        x: features, ``[batch, …]``; any number of examples, in physical batches of ``plan.microbatch``.
        y: labels, ``[batch]``: whole numbers, or real ones for a loss that takes them.
        plan: the mechanism, of which clipping, microbatch, augmentations and views count.
        target: micro-architecture level, one of those that kernels are built for.
        loss: as a job's.
        masks: of each dropout layer ``[batch, …]``, or the seed that they are drawn from; where examples have
            several views, ``[batch, plan.views, …]``.
        views: of each example, ``[batch, plan.views, …]``, or the seed that the plan's augmentations are
            drawn from; nothing without augmentations.

    Raises:
        InputError: the arrays do not fit the model or each other.
        BuildError: the model cannot be made private.
    """
    features, labels = np.asarray(x, np.float32), np.asarray(y)
    if features.ndim < 2 or labels.shape != features.shape[:1] or not len(labels):
        raise InputError(
            f"x and y: expected features [batch, …] and as many labels, got shapes {features.shape} and "
            f"{labels.shape}"
        )
    dtype = label_dtype(as_loss(loss))
    if not np.issubdtype(labels.dtype, np.integer) and (dtype == "int32" or labels.dtype.kind != "f"):
        raise InputError(f"y: expected {'whole' if dtype == 'int32' else 'real'} numbers, got {labels.dtype}")
    make = (lambda: model) if isinstance(model, Module) else model
    job = _job(make, features.shape[1:], plan, loss)
    private = make_private(differentiate(job), plan, layer_norms=True)
    program = NativeProgram(schedule(private, target))
    values = _values(private, params)
    drawn = _masks(program, masks, len(labels), plan.views)
    features = _views(features, plan, views)
    return _run(program, private.parameter_names, values, features, labels.astype(dtype), plan, drawn)


def _job(make: Callable[[], Any], shape: tuple[int, ...], plan: Plan, loss: Loss | str) -> Job:
    forward, _ = forward_function(make(), 1, shape, None)
    # One logit is that of the second of two classes.
    classes = [str(number) for number in range(max(2, int(forward.ret_ty.shape.values[1])))]
    label = SimpleNamespace(classes=classes) if label_dtype(as_loss(loss)) == "int32" else SimpleNamespace()
    return Job("inspected", make, loss, SGD(1.0), plan, SimpleNamespace(shape=shape, label=label))


def _values(private: Any, params: Sequence[ArrayLike] | None) -> list[NDArray[np.float32]]:
    if params is None:
        return list(private.parameter_values)
    if len(params) != len(private.parameter_names):
        names = ", ".join(private.parameter_names)
        raise InputError(
            f"params: expected {len(private.parameter_names)} arrays ({names}), got {len(params)}"
        )
    values = []
    for name, value, own in zip(private.parameter_names, params, private.parameter_values, strict=True):
        array = np.asarray(value, np.float32)
        if array.shape != own.shape:
            raise InputError(f"params: {name}: expected shape {own.shape}, got {array.shape}")
        values.append(array)
    return values


def _masks(
    program: NativeProgram, masks: Sequence[ArrayLike] | int, count: int, views: int
) -> list[NDArray[np.float32]]:
    """A row for each view of each example."""
    if isinstance(masks, int):
        return masks_from_seed(masks, range(count), program.dropout, views)
    many = (count,) if views == 1 else (count, views)
    expected = [(*many, *layer.shape) for layer in program.dropout]
    given = [np.asarray(mask, np.float32) for mask in masks]
    if [mask.shape for mask in given] != expected:
        raise InputError(f"masks: expected shapes {expected}, got {[mask.shape for mask in given]}")
    rows = [(count * views, *layer.shape) for layer in program.dropout]
    return [mask.reshape(shape) for mask, shape in zip(given, rows, strict=True)]


def _views(features: NDArray[np.float32], plan: Plan, views: ArrayLike | int) -> NDArray[np.float32]:
    """A row for each view of each example."""
    if isinstance(views, int):
        return views_from_seed(views, range(len(features)), features, plan.augment, plan.views)
    given = np.asarray(views, np.float32)
    expected = (len(features), plan.views, *features.shape[1:])
    if given.shape != expected:
        raise InputError(f"views: expected shape {expected}, got {given.shape}")
    return given.reshape(-1, *features.shape[1:])


def _run(
    program: NativeProgram,
    names: Sequence[str],
    values: Sequence[NDArray[np.float32]],
    features: NDArray[np.float32],
    labels: NDArray[Any],
    plan: Plan,
    masks: Sequence[NDArray[np.float32]],
) -> StepInspection:
    """All physical batches; the last one is padded. Features and masks have a row for each view."""
    size, views = plan.microbatch, plan.views
    sums = [np.zeros(value.shape) for value in values]
    parts = []
    for start in range(0, len(labels), size):
        count = min(size, len(labels) - start)
        x, *padded = [
            _rows(value, start * views, count * views, size * views) for value in (features, *masks)
        ]
        y = np.repeat(_rows(labels, start, count, size), views)
        mask = _rows(np.ones(len(labels), np.float32), start, count, size)
        found, norms, _ = program.run_step(x, y, mask, list(values), padded)
        parts.append(norms[:, :count])
        for total, part in zip(sums, found, strict=True):
            total += part
    whole, *layers = np.concatenate(parts, axis=1)
    return StepInspection(whole, dict(zip(names, sums, strict=True)), dict(zip(names, layers, strict=True)))


def _rows(values: NDArray[Any], start: int, count: int, size: int) -> NDArray[Any]:
    """``count`` rows from ``start`` on, then zeros: ``size`` in all."""
    rows = np.zeros((size, *values.shape[1:]), values.dtype)
    rows[:count] = values[start : start + count]
    return rows
