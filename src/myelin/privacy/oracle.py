"""The brute-force oracle: one private step in float64 NumPy, one example at a time, by the definition.

It shares nothing with the compiler but the forward function that it interprets: own derivatives, own
convolution, own clipping, no taps, no ghost norms, no batching. Slow by design.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from myelin.errors import BuildError
from myelin.graph.relax_ir import bindings_of, constant, op_name, shape_of
from myelin.model import SGD, Adam, Optimizer

__all__ = [
    "ClippedSums",
    "apply_update",
    "clipped_sums",
    "cross_entropy_gradient",
    "example_gradient",
    "noisy_mean",
]

Array = npt.NDArray[np.float64]
Pullback = Callable[[Array], tuple[Array | None, ...]]
"""Output gradient → gradient of each argument, None where it is a constant."""


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


def _windows(x: Array, size: tuple[int, int], strides: tuple[int, int]) -> Array:
    """View ``[…, rows, columns, *size]`` of every window of the last two axes."""
    view = np.lib.stride_tricks.sliding_window_view(x, size, axis=(-2, -1))
    return view[..., :: strides[0], :: strides[1], :, :]


def _pad(x: Array, padding: Sequence[int], fill: float = 0.0) -> Array:
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)


def _scatter(shape: tuple[int, ...], padding: Sequence[int], place: Callable[[Array], None]) -> Array:
    """Gradient of a padded input: ``place`` adds to the padded array, then the padding is cut off."""
    top, left, bottom, right = padding
    padded = np.zeros((*shape[:2], shape[2] + top + bottom, shape[3] + left + right))
    place(padded)
    return padded[:, :, top : top + shape[2], left : left + shape[3]]


def _conv2d(attrs: Any, x: Array, w: Array) -> tuple[Array, Pullback]:
    strides, padding = tuple(int(s) for s in attrs.strides), [int(p) for p in attrs.padding]
    groups, (out, group_in, *size) = int(attrs.groups), w.shape
    group_out = out // groups
    windows = _windows(_pad(x, padding), (size[0], size[1]), (strides[0], strides[1]))

    def part(array: Array, group: int, width: int) -> Array:
        return array[:, group * width : (group + 1) * width]

    y = np.concatenate(
        [
            np.einsum("ncyxuv,ocuv->noyx", part(windows, g, group_in), w[g * group_out : (g + 1) * group_out])
            for g in range(groups)
        ],
        axis=1,
    )

    def pullback(dy: Array) -> tuple[Array, Array]:
        dw = np.concatenate(
            [
                np.einsum("ncyxuv,noyx->ocuv", part(windows, g, group_in), part(dy, g, group_out))
                for g in range(groups)
            ]
        )

        def place(padded: Array) -> None:
            for row, column in np.ndindex(dy.shape[2:]):
                for g in range(groups):
                    kernel = w[g * group_out : (g + 1) * group_out]
                    patch = np.einsum("no,ocuv->ncuv", part(dy, g, group_out)[:, :, row, column], kernel)
                    top, left = row * strides[0], column * strides[1]
                    target = part(padded, g, group_in)
                    target[:, :, top : top + size[0], left : left + size[1]] += patch

        return _scatter(x.shape, padding, place), dw

    return y, pullback


def _pool2d(attrs: Any, x: Array, is_max: bool) -> tuple[Array, Pullback]:
    strides, size = tuple(int(s) for s in attrs.strides), tuple(int(s) for s in attrs.pool_size)
    padding = [int(p) for p in attrs.padding]
    windows = _windows(
        _pad(x, padding, -np.inf if is_max else 0.0), (size[0], size[1]), (strides[0], strides[1])
    )
    inside = _windows(_pad(np.ones_like(x), padding), (size[0], size[1]), (strides[0], strides[1]))
    flat = windows.reshape(*windows.shape[:4], -1)
    if is_max:
        share = flat.argmax(-1)[..., None] == np.arange(flat.shape[-1])
        y = flat.max(-1)
    else:
        weights = inside.reshape(flat.shape)
        share = weights / weights.sum(-1, keepdims=True)
        y = (flat * share).sum(-1)
    share = share.astype(np.float64).reshape(windows.shape)

    def pullback(dy: Array) -> tuple[Array]:
        def place(padded: Array) -> None:
            for row, column in np.ndindex(dy.shape[2:]):
                top, left = row * strides[0], column * strides[1]
                patch = dy[:, :, row, column, None, None] * share[:, :, row, column]
                padded[:, :, top : top + size[0], left : left + size[1]] += patch

        return (_scatter(x.shape, padding, place),)

    return y, pullback


def _unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``gradient`` over what was broadcast from ``shape``."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    axes = tuple(i for i, size in enumerate(shape) if size == 1 and gradient.shape[i] != 1)
    return np.asarray(gradient.sum(axis=axes, keepdims=True))


def _matmul(x: Array, w: Array) -> tuple[Array, Pullback]:
    return x @ w, lambda dy: (dy @ w.T, np.tensordot(x, dy, axes=(range(x.ndim - 1), range(x.ndim - 1))))


def _evaluate(call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    """Value of one operator on one example, and its pullback."""
    name, x = op_name(call), arguments[0]
    if name in ("add", "subtract", "multiply"):
        a, b = arguments
        y = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}[name](a, b)
        da, db = {"add": (1.0, 1.0), "subtract": (1.0, -1.0), "multiply": (b, a)}[name]
        return y, lambda dy: (_unbroadcast(dy * da, a.shape), _unbroadcast(dy * db, b.shape))
    if name == "matmul":
        return _matmul(x, arguments[1])
    if name == "nn.conv2d":
        return _conv2d(call.attrs, x, arguments[1])
    if name in ("nn.max_pool2d", "nn.avg_pool2d"):
        return _pool2d(call.attrs, x, name == "nn.max_pool2d")
    if name == "nn.relu":
        return np.maximum(x, 0.0), lambda dy: (np.where(x > 0, dy, 0.0),)
    if name == "tanh":
        return np.tanh(x), lambda dy: (dy * (1.0 - np.tanh(x) ** 2),)
    if name == "permute_dims":
        return x.T, lambda dy: (dy.T,)
    if name == "reshape":
        shape = (
            shape_of(call)
            if len(shape_of(call)) == 4 and shape_of(call)[0] == 1
            else (1, *shape_of(call)[1:])
        )
        return x.reshape(shape), lambda dy: (dy.reshape(x.shape), None)
    raise BuildError(f"the oracle has no rule for operator {name}")


def cross_entropy_gradient(logits: Array, label: int) -> Array:
    """Gradient of one example's softmax cross-entropy by its logits ``[1, classes]``."""
    exponentials = np.exp(logits - logits.max())
    gradient = exponentials / exponentials.sum()
    onehot = (np.arange(logits.shape[-1]) == label).astype(np.float64)
    return np.asarray(gradient - onehot)


def example_gradient(
    forward: relax.Function, parameters: Sequence[Array], features: Array, label: int
) -> tuple[Array, ...]:
    """Gradient of one example's cross-entropy by every parameter.

    Args:
        forward: ``(features, *parameters) → logits``, as ``TrainingGraph.module["forward"]``.
        parameters: values.
        features: of one example, without the batch axis.
        label: its class.
    """
    values: dict[relax.Var, Array] = {forward.params[0]: np.asarray(features, np.float64)[None]}
    values.update(zip(forward.params[1:], (np.asarray(p, np.float64) for p in parameters), strict=True))
    tape: list[tuple[relax.Var, list[relax.Expr], Pullback]] = []
    for binding in bindings_of(forward):
        value = binding.value
        if isinstance(value, relax.Var):
            values[binding.var] = values[value]
            tape.append((binding.var, [value], lambda dy: (dy,)))
            continue
        sources, arguments = [], []
        for source in value.args:
            argument = values[source] if isinstance(source, relax.Var) else constant(source)
            if argument is not None:
                sources.append(source)
                arguments.append(argument)
        values[binding.var], pullback = _evaluate(value, arguments)
        tape.append((binding.var, sources, pullback))
    output = forward.body.body
    gradients: dict[relax.Var, Array] = {output: cross_entropy_gradient(values[output], label)}
    for var, sources, pullback in reversed(tape):
        if var not in gradients:
            continue
        for source, gradient in zip(sources, pullback(gradients[var]), strict=False):
            if isinstance(source, relax.Var) and gradient is not None:
                gradients[source] = gradients[source] + gradient if source in gradients else gradient
    return tuple(gradients.get(p, np.zeros(shape_of(p))) for p in forward.params[1:])


def clipped_sums(
    forward: relax.Function,
    parameters: Sequence[Array],
    features: npt.ArrayLike,
    labels: Sequence[int],
    mask: Sequence[float],
    clipping_norm: float,
) -> ClippedSums:
    """Per-example gradients, norms, and the sum of the real and finite ones, each clipped."""
    rows = np.asarray(features, np.float64)
    sums = [np.zeros(np.shape(p)) for p in parameters]
    norms, contributing = np.zeros(len(rows)), np.zeros(len(rows), np.int32)
    gradients = []
    with np.errstate(all="ignore"):
        for i, row in enumerate(rows):
            gradient = example_gradient(forward, parameters, row, int(labels[i]))
            gradients.append(gradient)
            if not mask[i]:
                continue
            norms[i] = np.sqrt(sum(float((g**2).sum()) for g in gradient))
            if not np.isfinite(norms[i]):
                continue
            contributing[i] = 1
            scale = min(1.0, clipping_norm / norms[i]) if norms[i] > 0 else 1.0
            for total, g in zip(sums, gradient, strict=True):
                total += scale * g
    return ClippedSums(tuple(sums), norms, contributing, tuple(gradients))


def noisy_mean(
    sums: Sequence[Array], grid: float, noise: Sequence[npt.NDArray[np.int64]], divisor: int
) -> tuple[Array, ...]:
    """``(round(sum / grid) + z) · grid / divisor`` per coordinate, with the integer noise z as given."""
    return tuple((np.rint(s / grid) + z) * grid / divisor for s, z in zip(sums, noise, strict=True))


def apply_update(
    optimizer: Optimizer,
    step_number: int,
    parameters: Sequence[Array],
    state: Sequence[Array],
    gradients: Sequence[Array],
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """One step of ``optimizer``: new parameters, new state in the order of ``TrainingGraph.state_shapes``."""
    rate = optimizer.learning_rate
    if isinstance(optimizer, SGD):
        moves = (
            [optimizer.momentum * v + g for v, g in zip(state, gradients, strict=True)]
            if state
            else gradients
        )
        new = tuple(p - rate * v for p, v in zip(parameters, moves, strict=True))
        return new, tuple(moves) if state else ()
    assert isinstance(optimizer, Adam)
    beta1, beta2, count = optimizer.beta1, optimizer.beta2, len(parameters)
    first = [beta1 * m + (1 - beta1) * g for m, g in zip(state[:count], gradients, strict=True)]
    second = [beta2 * v + (1 - beta2) * g**2 for v, g in zip(state[count:], gradients, strict=True)]
    unbiased1, unbiased2 = 1 - beta1**step_number, 1 - beta2**step_number
    new = tuple(
        p - rate * (m / unbiased1) / (np.sqrt(v / unbiased2) + optimizer.epsilon)
        for p, m, v in zip(parameters, first, second, strict=True)
    )
    return new, (*first, *second)
