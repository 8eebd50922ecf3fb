"""What layers compute, with parameters given from outside.

Each takes traced values and parameters and splits into what has no parameter, an operator of
:mod:`~myelin.model.operators`, and the uses of parameters that have a rule: products with a weight, scales,
biases. The layers of :mod:`myelin.model.nn` are made of these, and so are models from elsewhere, so that a
model has one graph whichever door it came through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax
from tvm.relax.frontend.nn import Parameter, Tensor, op, wrap_nested

from myelin.errors import BuildError

from .operators import call

__all__ = [
    "apply",
    "attention",
    "channels",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "dropout",
    "embedding",
    "fixed_norm",
    "group_norm",
    "gru",
    "layer_norm",
    "linear",
    "lstm",
    "of_rows",
    "product",
    "rms_norm",
    "shape_of",
    "transpose",
]


def apply(name: str, arguments: list[Tensor | Parameter], **attributes: Any) -> Any:
    """Call an operator of this package on traced values: one, or a tuple of them."""
    return wrap_nested(call(name, [argument._expr for argument in arguments], **attributes), name)


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


def product(x: Tensor, weight: Parameter, bias: Parameter | None = None) -> Tensor:
    """``x W + b``: ``[batch, …, in]`` with a weight ``[in, out]`` to ``[batch, …, out]``."""
    result = op.matmul(x, weight)
    return result if bias is None else op.add(result, bias)


def of_rows(x: Tensor, then: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``then`` makes of ``[batch, channels, length]`` as an image of one row."""
    if len(x.shape) != 3:
        raise BuildError(f"expected [batch, channels, length], got {list(x.shape)}")
    batch, inputs, length = shape_of(x)
    y = then(op.reshape(x, [batch, inputs, 1, length]))
    _, outputs, _, places = shape_of(y)
    return op.reshape(y, [batch, outputs, places])


def _image(x: Tensor, weight: Parameter) -> None:
    if len(x.shape) != 4 or len(weight.shape) != 4:
        raise BuildError(
            f"convolution: expected an image [batch, c, h, w] and a kernel of four axes (one row, if it is "
            f"along one axis), got {list(x.shape)} and {list(weight.shape)}"
        )


def _image_plus(image: Tensor, bias: Parameter | None) -> Tensor:
    return image if bias is None else op.add(image, channels(bias, 4))


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
    _image(x, weight)
    value = relax.op.nn.conv2d(
        x._expr,
        weight._expr,
        strides=tuple(strides),
        padding=tuple(padding),
        dilation=tuple(dilation),
        groups=groups,
    )
    return _image_plus(wrap_nested(value, "conv2d"), bias)


def conv1d(
    x: Tensor,
    weight: Parameter,
    bias: Parameter | None = None,
    stride: int = 1,
    padding: Sequence[int] = (0, 0),
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """The same along the last of three axes; the kernel is ``[out, in / groups, 1, size]``."""
    left, right = padding
    numbers = (1, stride), (0, left, 0, right), (1, dilation)
    return of_rows(x, lambda image: conv2d(image, weight, bias, *numbers, groups))


def conv_transpose2d(
    x: Tensor,
    weight: Parameter,
    bias: Parameter | None = None,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    output_padding: Sequence[int] = (0, 0),
    groups: int = 1,
) -> Tensor:
    """Transposed convolution, NCHW, with a kernel ``[in, out / groups, height, width]``.

    ``padding`` is cut off at top, left, bottom and right; ``output_padding`` are rows and columns more at the
    bottom and at the right, fewer than the strides.
    """
    _image(x, weight)
    if any(more >= step for more, step in zip(output_padding, strides, strict=True)):
        raise BuildError(
            f"output_padding: expected less than the stride {list(strides)}, got {list(output_padding)}"
        )
    value = relax.op.nn.conv2d_transpose(
        x._expr,
        weight._expr,
        strides=tuple(strides),
        padding=tuple(padding),
        output_padding=tuple(output_padding),
        groups=groups,
    )
    return _image_plus(wrap_nested(value, "conv2d_transpose"), bias)


def conv_transpose1d(
    x: Tensor,
    weight: Parameter,
    bias: Parameter | None = None,
    stride: int = 1,
    padding: Sequence[int] = (0, 0),
    output_padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """The same along the last of three axes; the kernel is ``[in, out / groups, 1, size]``."""
    left, right = padding
    numbers = (1, stride), (0, left, 0, right), (0, output_padding)
    return of_rows(x, lambda image: conv_transpose2d(image, weight, bias, *numbers, groups))


def channels(parameter: Parameter, rank: int) -> Tensor:
    """A vector along the second of ``rank`` axes, for scales and biases of images."""
    return op.reshape(parameter, [1, int(parameter.shape[0]), *[1] * (rank - 2)])


def layer_norm(x: Tensor, scale: Parameter | None, bias: Parameter | None, epsilon: float) -> Tensor:
    """Normalisation over the last axis; scale and bias where there are."""
    normal, _ = apply("normalise", [x], epsilon=float(epsilon))
    scaled = normal if scale is None else op.multiply(normal, scale)
    return scaled if bias is None else op.add(scaled, bias)


def rms_norm(x: Tensor, scale: Parameter | None, epsilon: float) -> Tensor:
    """Division by the root mean square of the last axis; a scale where there is one."""
    normal, _ = apply("rms_normalise", [x], epsilon=float(epsilon))
    return normal if scale is None else op.multiply(normal, scale)


def group_norm(
    x: Tensor, groups: int, scale: Parameter | None, bias: Parameter | None, epsilon: float
) -> Tensor:
    """Normalisation of each group of channels, ``[batch, channels, …]``; as many groups: of each channel."""
    shape = shape_of(x)
    if len(shape) < 3:
        raise BuildError(f"group normalisation: expected [batch, channels, …], got {list(shape)}")
    image = x if len(shape) == 4 else op.reshape(x, [*shape[:2], math.prod(shape[2:]), 1])
    normal, _ = apply("group_normalise", [image], groups=groups, epsilon=float(epsilon))
    scaled = normal if scale is None else op.multiply(normal, channels(scale, 4))
    result = scaled if bias is None else op.add(scaled, channels(bias, 4))
    return result if len(shape) == 4 else op.reshape(result, list(shape))


def fixed_norm(
    x: Tensor, factor: Parameter, shift: Parameter, scale: Parameter | None, bias: Parameter | None
) -> Tensor:
    """``(x · factor + shift) · scale + bias`` of each channel: normalisation by statistics that are known."""
    rank = len(x.shape)

    def along(parameter: Parameter) -> Parameter | Tensor:
        return parameter if rank == 2 else channels(parameter, rank)

    result = op.add(op.multiply(x, along(factor)), along(shift))
    scaled = result if scale is None else op.multiply(result, along(scale))
    return scaled if bias is None else op.add(scaled, along(bias))


def threshold_of(rate: float) -> int:
    """Of :func:`dropout`: how many of 2³² words are below it.

    Raises:
        BuildError: the rate is below 0, or so near 1 or above that nothing would be kept.
    """
    threshold = round((1.0 - rate) * 2.0**32) if 0.0 <= rate <= 1.0 else 0
    if not threshold:
        raise BuildError(f"dropout: rate: expected at least 0 and below 1, got {rate}")
    return threshold


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero for each element with probability ``rate``, else the element over the probability of that.

    An element is kept where a 32-bit word of the enclave's generator is below ``round((1 − rate) · 2³²)``, so
    the probability of that is the threshold over 2³², and what is kept is multiplied by the inverse of it.
    Each example's words are its own, in every step others. Serving leaves it out.

    Raises:
        BuildError: the rate is below 0, or so near 1 or above that nothing would be kept.
    """
    threshold = threshold_of(rate)
    if threshold == 2**32:
        return x
    result: Tensor = apply("dropout", [x], threshold=threshold)
    return result


def embedding(weight: Parameter, tokens: Tensor, padding: int | None = None) -> Tensor:
    """A row of ``weight`` for each token, ``[batch, length]`` to ``[batch, length, width]``.

    The token ``padding`` stands for zeros: its row is neither read nor has a gradient from here.
    """
    if len(tokens.shape) != 2:
        raise BuildError(f"embedding: expected tokens [batch, length], got {list(tokens.shape)}")
    result: Tensor = apply("embedding", [weight, tokens])
    if padding is not None:
        vocabulary = int(weight.shape[0])
        result = apply("without_token", [result, tokens], token=padding, vocabulary=vocabulary)
    return result


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float | None = None, rate: float = 0.0
) -> Tensor:
    """``dropout(softmax(scale · q kᵀ)) v``, each ``[batch, heads, length, width]``; no mask.

    Each head of keys and values serves as many heads of queries that follow one another as there are more of
    them. ``scale`` is 1/√width unless given. ``rate`` is that of :func:`dropout` of the weights.
    """
    batch, heads, length, width = shape_of(queries)
    shared = int(keys.shape[1])
    if heads % shared:
        raise BuildError(f"attention: expected a multiple of {shared} heads of queries, got {heads}")
    if shared != heads:
        # The queries of a group one after the other, so that one product serves them all.
        queries = op.reshape(queries, [batch, shared, heads // shared * length, width])
    factor = 1.0 / math.sqrt(width) if scale is None else scale
    scores = op.matmul(queries, transpose(keys, -1, -2))
    weights = dropout(apply("softmax", [scores * float(factor)]), rate)
    mixed = op.matmul(weights, values)
    return mixed if shared == heads else op.reshape(mixed, [batch, heads, length, int(values.shape[3])])


def lstm(gates: Tensor, recurrent: Parameter) -> Tensor:
    """Hidden states ``[batch, length, hidden]`` of one layer from the inputs' part of its gates.

    Gates are in the order input, forget, cell, output. The state starts at zero.
    """
    hidden: Tensor = apply("lstm", [gates, recurrent])[0]
    return hidden


def gru(gates: Tensor, recurrent: Parameter, recurrent_bias: Parameter | None = None) -> Tensor:
    """Hidden states ``[batch, length, hidden]`` of one layer from the inputs' part of its gates.

    Gates are in the order reset, update, new. The reset gate multiplies the recurrent product with its bias.
    The state starts at zero.
    """
    added = gates * 0.0
    if recurrent_bias is not None:
        added = op.add(added, recurrent_bias)
    hidden: Tensor = apply("gru", [gates, added, recurrent])[0]
    return hidden
