"""What models from elsewhere are translated to: this room's operators, with parameters given from outside.

Each takes traced values and parameters and emits what the layers of :mod:`myelin.model.nn` emit, so that a
model has one graph whichever door it came through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import relax
from tvm.relax.frontend.nn import Parameter, Tensor, op, wrap_nested

from myelin.errors import BuildError

from .layers import apply

__all__ = [
    "attention",
    "channels",
    "conv2d",
    "embedding",
    "group_norm",
    "layer_norm",
    "linear",
    "lstm",
    "shape_of",
    "transpose",
]


def shape_of(x: Tensor) -> tuple[int, ...]:
    """Static shape."""
    return tuple(int(size) for size in x.shape)


def transpose(x: Tensor, first: int, second: int) -> Tensor:
    """Exchange two axes."""
    axes = list(range(len(x.shape)))
    axes[first], axes[second] = axes[second], axes[first]
    return op.permute_dims(x, axes)


def linear(x: Tensor, weight: Parameter, bias: Parameter | None = None) -> Tensor:
    """``x Wᵀ + b``: ``[batch, …, in]`` with a weight ``[out, in]`` to ``[batch, …, out]``."""
    product = op.matmul(x, op.permute_dims(weight))
    return product if bias is None else op.add(product, bias)


def conv2d(
    x: Tensor,
    weight: Parameter,
    bias: Parameter | None = None,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Two-dimensional convolution, NCHW; ``padding`` is top, left, bottom, right."""
    value = relax.op.nn.conv2d(
        x._expr,
        weight._expr,
        strides=tuple(strides),
        padding=tuple(padding),
        dilation=tuple(dilation),
        groups=groups,
    )
    result = wrap_nested(value, "conv2d")
    return result if bias is None else op.add(result, channels(bias, 4))


def channels(parameter: Parameter, rank: int) -> Tensor:
    """A vector along the second of ``rank`` axes, for scales and biases of images."""
    return op.reshape(parameter, [1, int(parameter.shape[0]), *[1] * (rank - 2)])


def layer_norm(x: Tensor, scale: Parameter | None, bias: Parameter | None, epsilon: float) -> Tensor:
    """Normalisation over the last axis; scale and bias where there are."""
    normal, _ = apply("normalise", [x], epsilon=float(epsilon))
    scaled = normal if scale is None else op.multiply(normal, scale)
    return scaled if bias is None else op.add(scaled, bias)


def group_norm(
    x: Tensor, groups: int, scale: Parameter | None, bias: Parameter | None, epsilon: float
) -> Tensor:
    """Normalisation of each group of channels, ``[batch, channels, height, width]``."""
    if len(x.shape) != 4:
        raise BuildError(f"group normalisation: expected an image [batch, c, h, w], got {list(x.shape)}")
    normal, _ = apply("group_normalise", [x], groups=groups, epsilon=float(epsilon))
    scaled = normal if scale is None else op.multiply(normal, channels(scale, 4))
    return scaled if bias is None else op.add(scaled, channels(bias, 4))


def embedding(weight: Parameter, tokens: Tensor) -> Tensor:
    """A row of ``weight`` for each token, ``[batch, length]`` to ``[batch, length, width]``."""
    if len(tokens.shape) != 2:
        raise BuildError(f"embedding: expected tokens [batch, length], got {list(tokens.shape)}")
    result: Tensor = apply("embedding", [weight, tokens])
    return result


def attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
    """``softmax(scale · q kᵀ) v``, each ``[batch, heads, length, width]``; no mask.

    ``scale`` is 1/√width unless given.
    """
    factor = 1.0 / math.sqrt(int(queries.shape[-1])) if scale is None else scale
    scores = op.matmul(queries, transpose(keys, -1, -2))
    weights = apply("softmax", [scores * float(factor)])
    return op.matmul(weights, values)


def lstm(x: Tensor, inputs: Parameter, recurrent: Parameter, biases: Sequence[Parameter] = ()) -> Tensor:
    """Hidden states ``[batch, length, hidden]`` of one layer; gates in the order input, forget, cell, output.

    The state starts at zero. Every one of ``biases`` is added to the gates.
    """
    gates = linear(x, inputs)
    for bias in biases:
        gates = op.add(gates, bias)
    hidden: Tensor = apply("lstm", [gates, recurrent])[0]
    return hidden
