"""The oracle's operators on one example, in float64: value and pullback of each, by its definition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from myelin.errors import BuildError
from myelin.graph.relax_ir import op_name, shape_of

from .oracle_gated import gru
from .oracle_images import Pullback, conv2d, conv2d_transpose, pool2d

__all__ = ["Array", "Pullback", "evaluate"]

Array = npt.NDArray[np.float64]

Operator = Callable[[relax.Call, list[Array]], tuple[Any, Pullback]]
"""``(call, arguments) → value, pullback``; a value may be a tuple."""


def _unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``gradient`` over what was broadcast from ``shape``."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    axes = tuple(i for i, size in enumerate(shape) if size == 1 and gradient.shape[i] != 1)
    return np.asarray(gradient.sum(axis=axes, keepdims=True))


def _arithmetic(call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    a, b = arguments
    name = op_name(call)
    y = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}[name](a, b)
    da, db = {"add": (1.0, 1.0), "subtract": (1.0, -1.0), "multiply": (b, a)}[name]
    return y, lambda dy: (_unbroadcast(dy * da, a.shape), _unbroadcast(dy * db, b.shape))


def _matmul(_call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    x, w = arguments

    def pullback(dy: Array) -> tuple[Array, Array]:
        dx, dw = dy @ np.swapaxes(w, -1, -2), np.swapaxes(x, -1, -2) @ dy
        return _unbroadcast(dx, x.shape), _unbroadcast(dw, w.shape)

    return x @ w, pullback


def _relu(_call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    x = arguments[0]
    return np.maximum(x, 0.0), lambda dy: (np.where(x > 0, dy, 0.0),)


def _tanh(_call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    y = np.tanh(arguments[0])
    return y, lambda dy: (dy * (1.0 - y**2),)


def _logistic(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _sigmoid(_call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    y = _logistic(arguments[0])
    return y, lambda dy: (dy * y * (1.0 - y),)


def _gelu(call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    x = arguments[0]
    if str(call.attrs["approximate"]) == "tanh":
        scale, cube = math.sqrt(2.0 / math.pi), 0.044715
        t = np.tanh(scale * (x + cube * x**3))
        slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t**2) * scale * (1.0 + 3.0 * cube * x**2)
        return 0.5 * x * (1.0 + t), lambda dy: (dy * slope,)
    below = 0.5 * np.vectorize(math.erfc)(-x / math.sqrt(2.0))
    density = np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)
    return x * below, lambda dy: (dy * (below + x * density),)


def _softmax(_call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    x = arguments[0]
    power = np.exp(x - x.max(-1, keepdims=True))
    y = power / power.sum(-1, keepdims=True)

    def pullback(dy: Array) -> tuple[Array]:
        jacobian = y[..., :, None] * (np.eye(y.shape[-1]) - y[..., None, :])
        return (np.einsum("...i,...ij->...j", dy, jacobian),)

    return y, pullback


def _normal_rows(x: Array, epsilon: float) -> tuple[Array, Array, Callable[[Array], Array]]:
    """Rows of ``[rows, n]`` normalised, 1 / standard deviation, and the pullback by the whole Jacobian."""
    n = x.shape[-1]
    centre = np.eye(n) - 1.0 / n
    centred = x @ centre
    rstd = 1.0 / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    y = centred * rstd

    def pullback(dy: Array) -> Array:
        of_rstd = (dy * centred).sum(-1, keepdims=True) * (-(rstd**3)) * centred / n
        return np.asarray((dy * rstd + of_rstd) @ centre)

    return y, rstd[:, 0], pullback


def _normalise(call: relax.Call, arguments: list[Array]) -> tuple[tuple[Array, Array], Pullback]:
    x, attrs = arguments[0], call.attrs
    width = x.shape[-1]
    outer = x.shape[:-1]
    if op_name(call).endswith("group_normalise"):
        outer = (1, int(attrs["groups"]))
        width = math.prod(x.shape) // outer[1]
    y, rstd, back = _normal_rows(x.reshape(-1, width), float(attrs["epsilon"]))
    return (y.reshape(x.shape), rstd.reshape(outer)), lambda dy: (
        back(dy[0].reshape(-1, width)).reshape(x.shape),
    )


def _rms_normalise(call: relax.Call, arguments: list[Array]) -> tuple[tuple[Array, Array], Pullback]:
    x, width = arguments[0], arguments[0].shape[-1]
    rstd = 1.0 / np.sqrt((x**2).mean(-1) + float(call.attrs["epsilon"]))
    y = x * rstd[..., None]

    def pullback(dy: tuple[Array, Array]) -> tuple[Array]:
        rows, slopes = x.reshape(-1, width), dy[0].reshape(-1, width)
        dx = []
        for row, slope, scale in zip(rows, slopes, rstd.ravel(), strict=True):
            jacobian = scale * np.eye(width) - scale**3 / width * np.outer(row, row)
            dx.append(slope @ jacobian)
        return (np.array(dx).reshape(x.shape),)

    return (y, rstd), pullback


def _row_numbers(tokens: Array, vocabulary: int) -> npt.NDArray[np.int64]:
    return np.trunc(np.clip(np.nan_to_num(tokens, nan=0.0), 0, vocabulary - 1)).astype(np.int64)


def _without_token(call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    x, tokens = arguments
    rows = _row_numbers(tokens, int(call.attrs["vocabulary"]))
    is_out = (rows == int(call.attrs["token"]))[..., None]
    return np.where(is_out, 0.0, x), lambda dy: (np.where(is_out, 0.0, dy), None)


def _embedding(_call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    weight, tokens = arguments
    rows = _row_numbers(tokens, len(weight))

    def pullback(dy: Array) -> tuple[Array, None]:
        table = np.zeros_like(weight)
        np.add.at(table, rows, dy)
        return table, None

    return weight[rows], pullback


def _lstm(_call: relax.Call, arguments: list[Array]) -> tuple[tuple[Array, ...], Pullback]:
    """One step after the other, and back: the example's states as they are."""
    gates, weight = arguments
    steps, width = gates.shape[1:]
    hidden, cell = np.zeros((steps + 1, width // 4)), np.zeros((steps + 1, width // 4))
    active = np.zeros((steps, 4, width // 4))
    for t in range(steps):
        a = (gates[0, t] + weight @ hidden[t]).reshape(4, -1)
        active[t] = _logistic(a)
        active[t, 2] = np.tanh(a[2])
        i, f, g, o = active[t]
        cell[t + 1] = f * cell[t] + i * g
        hidden[t + 1] = o * np.tanh(cell[t + 1])

    def pullback(dy: tuple[Array, ...]) -> tuple[Array, Array]:
        of_gates, of_weight = np.zeros_like(gates), np.zeros_like(weight)
        dh, dc = np.zeros(width // 4), np.zeros(width // 4)
        for t in reversed(range(steps)):
            i, f, g, o = active[t]
            bent = np.tanh(cell[t + 1])
            dh = dh + dy[0][0, t]
            dc = dc + dh * o * (1 - bent**2)
            delta = np.concatenate(
                [
                    dc * g * i * (1 - i),
                    dc * cell[t] * f * (1 - f),
                    dc * i * (1 - g**2),
                    dh * bent * o * (1 - o),
                ]
            )
            of_gates[0, t] = delta
            of_weight += np.outer(delta, hidden[t])
            dh, dc = weight.T @ delta, dc * f
        return of_gates, of_weight

    states = (hidden[None, 1:], hidden[None, :-1], cell[None, 1:], active.reshape(1, steps, width))
    return states, pullback


def _sequence_step(call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    x, index = arguments[0], int(call.attrs["index"])

    def pullback(dy: Array) -> tuple[Array]:
        dx = np.zeros_like(x)
        dx[:, index] = dy
        return (dx,)

    return x[:, index], pullback


def _sum(call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    x = arguments[0]
    axes = tuple(int(axis) % x.ndim for axis in call.attrs.axis)
    keeps = bool(call.attrs.keepdims)

    def pullback(dy: Array) -> tuple[Array]:
        return (np.broadcast_to(dy if keeps else np.expand_dims(dy, axes), x.shape),)

    return x.sum(axis=axes, keepdims=keeps), pullback


def _split(call: relax.Call, arguments: list[Array]) -> tuple[tuple[Array, ...], Pullback]:
    x, axis = arguments[0], int(call.attrs.axis)
    ends = np.cumsum([shape_of_field[axis] for shape_of_field in _shapes(call)])
    return tuple(np.split(x, ends[:-1], axis)), lambda dy: (np.concatenate(dy, axis),)


def _shapes(call: relax.Call) -> list[tuple[int, ...]]:
    """Shapes of the values of a tuple."""
    return [tuple(int(size) for size in field.shape.values) for field in call.ty.fields]


def _permute_dims(call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    x, axes = arguments[0], call.attrs.axes
    order = list(range(x.ndim))[::-1] if axes is None else [int(axis) % x.ndim for axis in axes]
    return x.transpose(order), lambda dy: (dy.transpose(np.argsort(order)),)


def _reshape(call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    """The first axis is the batch, here of one, or is of length one."""
    x = arguments[0]
    return x.reshape((1, *shape_of(call)[1:])), lambda dy: (dy.reshape(x.shape), None)


def _pool(call: relax.Call, arguments: list[Array]) -> tuple[Array, Pullback]:
    return pool2d(call.attrs, arguments[0], op_name(call) == "nn.max_pool2d")


_OPERATORS: dict[str, Operator] = {
    "add": _arithmetic,
    "matmul": _matmul,
    "multiply": _arithmetic,
    "myelin.embedding": _embedding,
    "myelin.gelu": _gelu,
    "myelin.group_normalise": _normalise,
    "myelin.gru": gru,
    "myelin.lstm": _lstm,
    "myelin.normalise": _normalise,
    "myelin.rms_normalise": _rms_normalise,
    "myelin.sequence_step": _sequence_step,
    "myelin.softmax": _softmax,
    "myelin.without_token": _without_token,
    "nn.avg_pool2d": _pool,
    "nn.conv2d": lambda call, arguments: conv2d(call.attrs, *arguments),
    "nn.conv2d_transpose": lambda call, arguments: conv2d_transpose(call.attrs, *arguments),
    "nn.max_pool2d": _pool,
    "nn.relu": _relu,
    "permute_dims": _permute_dims,
    "reshape": _reshape,
    "sigmoid": _sigmoid,
    "split": _split,
    "subtract": _arithmetic,
    "sum": _sum,
    "tanh": _tanh,
}


def evaluate(call: relax.Call, arguments: Sequence[Array]) -> tuple[Any, Pullback]:
    """Value of one operator on one example, a tuple where it has several, and its pullback.

    Raises:
        BuildError: the operator has no rule here.
    """
    operator = _OPERATORS.get(op_name(call))
    if operator is None:
        raise BuildError(f"the oracle has no rule for operator {op_name(call)}")
    return operator(call, list(arguments))
