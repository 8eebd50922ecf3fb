"""PyTorch's operators that have parameters, and attention, as what this room's operators make of them.

A rule takes what the operator takes: traced values, parameters, numbers and lists of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.relax.frontend.nn import Parameter, Tensor, op

from myelin.errors import BuildError

from . import functional as f
from . import nn

__all__ = ["LAYERS", "REFUSED", "LastStates", "Statistics", "Tokens", "Zeros", "pair", "require"]

REFUSED: Mapping[str, str] = {
    "batch_norm": "batch normalisation mixes the examples of a batch, so no example's influence can be "
    "bounded; use GroupNorm or LayerNorm, which stay inside an example, or call eval() on the model before, "
    "which takes the statistics that it has, if those are public",
}
"""What is refused with more than its name."""


@dataclass(frozen=True)
class Tokens:
    """Features cast to whole numbers: an embedding takes them, nothing else."""

    tokens: Tensor


@dataclass(frozen=True)
class Zeros:
    """A state of zeros, which recurrent layers start from."""


@dataclass(frozen=True)
class LastStates:
    """The state after the last position, of every layer: ``[layers, batch, hidden]``."""

    hidden: tuple[Tensor, ...]


@dataclass(frozen=True)
class Statistics:
    """Means or variances of channels that are known: constants, in the form in which they are used.

    Attributes:
        factor: ``1 / √(variance + epsilon)``.
        shift: ``−mean · factor``.
        epsilon: that they were made with.
    """

    factor: Parameter
    shift: Parameter
    epsilon: float


def require(holds: bool, why: str) -> None:
    """Refuse what a rule does not know.

    Raises:
        BuildError: it does not hold.
    """
    if not holds:
        raise BuildError(why)


def pair(size: Sequence[int] | int) -> tuple[int, int]:
    """A number for each of two axes."""
    both = [size, size] if isinstance(size, int) else [*size, *size][:2]
    return int(both[0]), int(both[1])


def _single(size: Sequence[int] | int) -> int:
    return int(size if isinstance(size, int) else size[0])


def _pads(padding: Sequence[int] | str, taps: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Zeros before each axis, then after each."""
    if padding == "valid":
        return [0] * (2 * len(taps))
    if isinstance(padding, str):
        whole = [step * (size - 1) for step, size in zip(dilation, taps, strict=True)]
        return [*(size // 2 for size in whole), *(size - size // 2 for size in whole)]
    return [*([*padding, *padding][: len(taps)] * 2)]


def _conv2d(
    x: Tensor,
    weight: Parameter,
    bias: Parameter | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] | str = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    pads = _pads(padding, f.shape_of(weight)[2:], pair(dilation))
    return f.conv2d(x, weight, bias, pair(stride), pads, pair(dilation), groups)


def _conv1d(
    x: Tensor,
    weight: Parameter,
    bias: Parameter | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | str = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    pads = _pads(padding, f.shape_of(weight)[3:], dilation)
    return f.conv1d(x, weight, bias, _single(stride), pads, _single(dilation), groups)


def _conv_transpose2d(
    x: Tensor,
    weight: Parameter,
    bias: Parameter | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    output_padding: Sequence[int] = (0, 0),
    groups: int = 1,
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    require(pair(dilation) == (1, 1), "a transposed convolution with dilation has no rule")
    pads = [*pair(padding), *pair(padding)]
    return f.conv_transpose2d(x, weight, bias, pair(stride), pads, pair(output_padding), groups)


def _conv_transpose1d(
    x: Tensor,
    weight: Parameter,
    bias: Parameter | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Tensor:
    require(_single(dilation) == 1, "a transposed convolution with dilation has no rule")
    pads = [_single(padding)] * 2
    return f.conv_transpose1d(x, weight, bias, _single(stride), pads, _single(output_padding), groups)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    require(mask is None and not is_causal, "with a mask has no rule")
    require(len(q.shape) == 4, "expected queries, keys and values [batch, heads, length, width]")
    return f.attention(q, k, v, scale, float(dropout))


def _layer_norm(
    x: Tensor,
    shape: Sequence[int],
    scale: Parameter | None = None,
    bias: Parameter | None = None,
    epsilon: float = 1e-5,
    _fast: bool = True,
) -> Tensor:
    require(len(shape) == 1, "over more than the last axis has no rule")
    return f.layer_norm(x, scale, bias, epsilon)


def _rms_norm(
    x: Tensor, shape: Sequence[int], scale: Parameter | None = None, epsilon: float | None = None
) -> Tensor:
    require(len(shape) == 1, "over more than the last axis has no rule")
    return f.rms_norm(x, scale, float(np.finfo(np.float32).eps) if epsilon is None else epsilon)


def _group_norm(
    x: Tensor,
    groups: int,
    scale: Parameter | None = None,
    bias: Parameter | None = None,
    epsilon: float = 1e-5,
    _fast: bool = True,
) -> Tensor:
    return f.group_norm(x, groups, scale, bias, epsilon)


def _instance_norm(
    x: Tensor,
    scale: Parameter | None,
    bias: Parameter | None,
    mean: Any,
    variance: Any,
    of_inputs: bool,
    momentum: float,
    epsilon: float,
    _fast: bool = True,
) -> Tensor:
    if not of_inputs:
        return _fixed_norm(x, scale, bias, mean, variance, epsilon)
    return f.group_norm(x, int(x.shape[1]), scale, bias, epsilon)


def _batch_norm(
    x: Tensor,
    scale: Parameter | None,
    bias: Parameter | None,
    mean: Any,
    variance: Any,
    train: bool,
    momentum: float,
    epsilon: float,
    _fast: bool = True,
) -> Tensor:
    require(not train, REFUSED["batch_norm"])
    return _fixed_norm(x, scale, bias, mean, variance, epsilon)


def _fixed_norm(
    x: Tensor, scale: Parameter | None, bias: Parameter | None, mean: Any, variance: Any, epsilon: float
) -> Tensor:
    known = isinstance(mean, Statistics) and mean is variance and mean.epsilon == epsilon
    require(known, "its statistics must be buffers of a layer of torch.nn")
    return f.fixed_norm(x, mean.factor, mean.shift, scale, bias)


def _embedding(
    weight: Parameter, tokens: Any, padding: int = -1, scaled: bool = False, sparse: bool = False
) -> Tensor:
    require(isinstance(tokens, Tokens), "its indices must be the features, as x.long()")
    require(not scaled, "with scale_grad_by_freq has no rule")
    if padding < 0:
        return f.embedding(weight, tokens.tokens)
    is_zero = weight.data is not None and not weight.data.numpy()[padding].any()
    require(is_zero, f"the padding token stands for zeros here: set row {padding} of the table to zeros")
    return f.embedding(weight, tokens.tokens, int(padding))


def _lstm(*arguments: Any) -> Any:
    def layer(x: Tensor, inputs: Parameter, recurrent: Parameter, *biases: Parameter) -> Tensor:
        gates = f.linear(x, inputs)
        for bias in biases:
            gates = op.add(gates, bias)
        return f.lstm(gates, recurrent)

    states = _recurrent(layer, *arguments)
    return (states[-1], LastStates(states), None)


def _gru(x: Tensor, state: Any, *arguments: Any) -> Any:
    def layer(x: Tensor, inputs: Parameter, recurrent: Parameter, *biases: Parameter) -> Tensor:
        return f.gru(f.linear(x, inputs, *biases[:1]), recurrent, *biases[1:])

    states = _recurrent(layer, x, [state], *arguments)
    return (states[-1], LastStates(states))


def _recurrent(
    layer: Callable[..., Tensor],
    x: Tensor,
    state: Sequence[Any],
    parameters: Sequence[Parameter],
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """The states of every layer, at all positions."""
    require(all(isinstance(part, Zeros) for part in state), "its first state must be zero")
    require(batch_first and not bidirectional, "with batch_first=True and in one direction only")
    each = 4 if biases else 2
    require(len(parameters) == each * layers, "with a projection has no rule")
    states = []
    for index in range(layers):
        if index and train:
            x = f.dropout(x, dropout)
        x = layer(x, *parameters[index * each : (index + 1) * each])
        states.append(x)
    return tuple(states)


def _matmul(x: Tensor, y: Any) -> Tensor:
    return f.product(x, y) if isinstance(y, Parameter) else op.matmul(x, y)


LAYERS: Mapping[str, Callable[..., Any]] = {
    "batch_norm": _batch_norm,
    "bmm": _matmul,
    "conv1d": _conv1d,
    "conv2d": _conv2d,
    "conv_transpose1d": _conv_transpose1d,
    "conv_transpose2d": _conv_transpose2d,
    "embedding": _embedding,
    "group_norm": _group_norm,
    "gru": _gru,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "linear": f.linear,
    "lstm": _lstm,
    "matmul": _matmul,
    "rms_norm": _rms_norm,
    "scaled_dot_product_attention": _attention,
    "silu": nn.silu,
    "silu_": nn.silu,
}
"""The rule of each, by its name without ``aten`` and overload."""
