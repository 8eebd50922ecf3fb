"""PyTorch's operators, each as what this room's operators make of it.

A rule takes what the operator takes: traced values, parameters, numbers and lists of them. An operator that
is not in the table is refused, and so is a rule's argument that changes its meaning (a mask, dropout).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.relax.frontend.nn import Parameter, Tensor, op

from myelin.errors import BuildError

from . import functional as f
from . import nn

__all__ = ["IGNORED", "OPERATORS", "REFUSED"]


@dataclass(frozen=True)
class _Tokens:
    """Features cast to whole numbers: an embedding takes them, nothing else."""

    tokens: Tensor


@dataclass(frozen=True)
class _Zeros:
    """A state of zeros, which recurrent layers start from."""


@dataclass(frozen=True)
class _LastStates:
    """The state after the last position, of every layer: ``[layers, batch, hidden]``."""

    hidden: tuple[Tensor, ...]


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise BuildError(why)


def _pair(size: Sequence[int] | int) -> tuple[int, int]:
    pair = [size, size] if isinstance(size, int) else [*size, *size][:2]
    return int(pair[0]), int(pair[1])


def _axis(x: Tensor, axis: int) -> int:
    return int(axis) % len(x.shape)


def _conv2d(
    x: Tensor,
    weight: Parameter,
    bias: Parameter | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] | str = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    _require(not isinstance(padding, str), "give padding in numbers")
    pads = _pair(padding)  # type: ignore[arg-type]
    return f.conv2d(x, weight, bias, _pair(stride), (*pads, *pads), _pair(dilation), groups)


def _max_pool2d(
    x: Tensor, size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> Tensor:
    _require(_pair(dilation) == (1, 1) and not ceil, "without dilation and ceil_mode")
    return nn.max_pool2d(x, _pair(size), _pair(stride) if stride else None, _pair(padding))


def _avg_pool2d(
    x: Tensor,
    size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil: bool = False,
    include_pad: bool = True,
    divisor: int | None = None,
) -> Tensor:
    padded = _pair(padding) != (0, 0)
    _require(not ceil and divisor is None, "without ceil_mode and divisor_override")
    _require(not padded or not include_pad, "with count_include_pad=False where there is padding")
    return nn.avg_pool2d(x, _pair(size), _pair(stride) if stride else None, _pair(padding))


def _adaptive_avg_pool2d(x: Tensor, size: Any) -> Tensor:
    shape, (height, width) = f.shape_of(x), _pair(size)
    if (height, width) == (1, 1):
        return nn.reshape(nn.global_avg_pool2d(x), shape[1], 1, 1)
    _require(shape[2] % height == 0 and shape[3] % width == 0, "to a size that divides the image's")
    return nn.avg_pool2d(x, (shape[2] // height, shape[3] // width))


def _mean(x: Tensor, axes: Sequence[int], keepdim: bool = False, dtype: Any = None) -> Tensor:
    axes = [_axis(x, axis) for axis in axes]
    result = nn.mean(x, tuple(axes))
    if not keepdim:
        return result
    return nn.reshape(result, *[1 if i in axes else size for i, size in enumerate(f.shape_of(x))][1:])


def _reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    return op.reshape(x, [int(size) for size in shape])


def _flatten(x: Tensor, first: int = 0, last: int = -1) -> Tensor:
    shape, first, last = f.shape_of(x), _axis(x, first), _axis(x, last)
    return _reshape(x, [*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]])


def _unflatten(x: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    shape, axis = f.shape_of(x), _axis(x, axis)
    return _reshape(x, [*shape[:axis], *sizes, *shape[axis + 1 :]])


def _unsqueeze(x: Tensor, axis: int) -> Tensor:
    shape = list(f.shape_of(x))
    shape.insert(int(axis) % (len(shape) + 1), 1)
    return _reshape(x, shape)


def _squeeze(x: Tensor | _LastStates, axis: int | Sequence[int]) -> Tensor:
    if isinstance(x, _LastStates):
        _require(len(x.hidden) == 1 and axis == 0, "of the state of one layer")
        return nn.step(x.hidden[0], -1)
    gone = {_axis(x, a) for a in ([axis] if isinstance(axis, int) else axis)}
    return _reshape(x, [n for i, n in enumerate(f.shape_of(x)) if i not in gone or n != 1])


def _transpose(x: Tensor, first: int, second: int) -> Tensor:
    return f.transpose(x, _axis(x, first), _axis(x, second))


def _permute(x: Tensor, axes: Sequence[int]) -> Tensor:
    return op.permute_dims(x, [_axis(x, axis) for axis in axes])


def _split(x: Tensor, sizes: int | Sequence[int], axis: int = 0) -> Any:
    axis = _axis(x, axis)
    length = f.shape_of(x)[axis]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return op.split(x, ends, axis=axis) if ends else (x,)


def _chunk(x: Tensor, count: int, axis: int = 0) -> Any:
    return _split(x, -(-f.shape_of(x)[_axis(x, axis)] // count), axis)


def _select(x: Tensor | _LastStates, axis: int, index: int) -> Tensor:
    if isinstance(x, _LastStates):
        _require(axis == 0, "a layer of the last states")
        return nn.step(x.hidden[index], -1)
    _require(len(x.shape) == 3 and _axis(x, axis) == 1, "one position of a sequence [batch, length, width]")
    return nn.step(x, index)


def _slice(
    x: Tensor, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    length = f.shape_of(x)[_axis(x, axis)]
    whole = (start or 0) == 0 and (end is None or end >= length) and step == 1
    _require(whole, "a part of an axis has no rule; use split or one position")
    return x


def _cast(x: Any, dtype: Any, *_: Any, **__: Any) -> Any:
    name = str(dtype).removeprefix("torch.")
    if name in ("int64", "int32") and isinstance(x, Tensor):
        return _Tokens(x)
    _require(name == "float32" and isinstance(x, Tensor), f"to {name} has no rule")
    return x


def _sum_of(x: Any, y: Any, alpha: float = 1) -> Tensor:
    if isinstance(y, int | float):
        return x + float(y * alpha)
    _require(alpha == 1, "with a factor (alpha) has no rule")
    # A parameter stands to the right: it is a bias or a position.
    return op.add(y, x) if isinstance(x, Parameter) else op.add(x, y)


def _difference(x: Tensor, y: Any, alpha: float = 1) -> Tensor:
    if isinstance(y, int | float):
        return x + float(-y * alpha)
    _require(alpha == 1, "with a factor (alpha) has no rule")
    return op.subtract(x, y)


def _product(x: Any, y: Any) -> Tensor:
    if isinstance(y, int | float):
        return x * float(y)
    return op.multiply(y, x) if isinstance(x, Parameter) else op.multiply(x, y)


def _quotient(x: Tensor, y: Any, rounding_mode: Any = None) -> Tensor:
    _require(isinstance(y, int | float) and rounding_mode is None, "by data has no rule")
    return x * (1.0 / float(y))


def _softmax(x: Tensor, axis: int, dtype: Any = None) -> Tensor:
    _require(_axis(x, axis) == len(x.shape) - 1, "over another axis than the last has no rule")
    return nn.softmax(x)


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
    _require(mask is None and not is_causal, "with a mask has no rule")
    _require(dropout == 0.0, REFUSED["dropout"])
    _require(not enable_gqa, "with grouped queries has no rule")
    return f.attention(q, k, v, scale)


def _layer_norm(
    x: Tensor,
    shape: Sequence[int],
    scale: Parameter | None = None,
    bias: Parameter | None = None,
    epsilon: float = 1e-5,
    _fast: bool = True,
) -> Tensor:
    _require(len(shape) == 1, "over more than the last axis has no rule")
    return f.layer_norm(x, scale, bias, epsilon)


def _group_norm(
    x: Tensor,
    groups: int,
    scale: Parameter | None = None,
    bias: Parameter | None = None,
    epsilon: float = 1e-5,
    _fast: bool = True,
) -> Tensor:
    return f.group_norm(x, groups, scale, bias, epsilon)


def _embedding(
    weight: Parameter, tokens: Any, padding: int = -1, scaled: bool = False, sparse: bool = False
) -> Tensor:
    _require(isinstance(tokens, _Tokens), "its indices must be the features, as x.long()")
    _require(padding == -1 and not scaled, "with a padding index or scale_grad_by_freq has no rule")
    return f.embedding(weight, tokens.tokens)


def _lstm(
    x: Tensor,
    state: Sequence[Any],
    parameters: Sequence[Parameter],
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    _require(all(isinstance(part, _Zeros) for part in state), "its first state must be zero")
    _require(batch_first and not bidirectional, "with batch_first=True and in one direction only")
    _require(dropout == 0.0 or not train, REFUSED["dropout"])
    each = 4 if biases else 2
    _require(len(parameters) == each * layers, "with a projection has no rule")
    states = []
    for layer in range(layers):
        inputs, recurrent, *added = parameters[layer * each : (layer + 1) * each]
        x = f.lstm(x, inputs, recurrent, added)
        states.append(x)
    return (x, _LastStates(tuple(states)), None)


def _dropout(x: Tensor, rate: float, train: bool) -> Tensor:
    _require(rate == 0.0 or not train, REFUSED["dropout"])
    return x


def _matmul(x: Tensor, y: Any) -> Tensor:
    _require(not isinstance(y, Parameter), "with a parameter: use a linear layer, whose weight is [out, in]")
    return op.matmul(x, y)


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


def _size(x: Tensor, axis: int) -> int:
    return f.shape_of(x)[axis]


REFUSED: Mapping[str, str] = {
    "batch_norm": "batch normalisation mixes the examples of a batch, so no example's influence can be "
    "bounded; use GroupNorm or LayerNorm, which stay inside an example",
    "dropout": "dropout has no rule: call eval() on the model before, which leaves it out; the mechanism's "
    "noise regularises already",
}
"""What is refused with more than its name."""

IGNORED = {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"}
"""Operators that compute nothing."""

OPERATORS: Mapping[str, Callable[..., Any]] = {
    "_to_copy": _cast,
    "_unsafe_view": _reshape,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "add": _sum_of,
    "add_": _sum_of,
    "avg_pool2d": _avg_pool2d,
    "bmm": _matmul,
    "chunk": _chunk,
    "clone": _same,
    "contiguous": _same,
    "conv2d": _conv2d,
    "div": _quotient,
    "dropout": _dropout,
    "embedding": _embedding,
    "flatten": _flatten,
    "gelu": nn.gelu,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "linear": f.linear,
    "lstm": _lstm,
    "matmul": _matmul,
    "max_pool2d": _max_pool2d,
    "mean": _mean,
    "mul": _product,
    "permute": _permute,
    "relu": nn.relu,
    "relu_": nn.relu,
    "reshape": _reshape,
    "scaled_dot_product_attention": _attention,
    "select": _select,
    "sigmoid": nn.sigmoid,
    "slice": _slice,
    "softmax": _softmax,
    "split": _split,
    "split_with_sizes": _split,
    "squeeze": _squeeze,
    "sub": _difference,
    "sym_size": _size,
    "tanh": nn.tanh,
    "to": _cast,
    "transpose": _transpose,
    "unflatten": _unflatten,
    "unsqueeze": _unsqueeze,
    "view": _reshape,
    "zeros": lambda *_, **__: _Zeros(),
}
"""The rule of each operator, by its name without ``aten`` and overload."""
