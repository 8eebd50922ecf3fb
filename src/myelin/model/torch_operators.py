"""PyTorch's operators, each as what this room's operators make of it; those of layers are in
:mod:`~myelin.model.torch_layers`.

A rule takes what the operator takes: traced values, parameters, numbers and lists of them. An operator that
is not in the table is refused, and so is a rule's argument that changes its meaning (a mask, a stride).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm.relax.frontend.nn import Parameter, Tensor, op

from . import functional as f
from . import nn
from .torch_layers import LAYERS, REFUSED, LastStates, Tokens, Zeros, pair, require

__all__ = ["IGNORED", "OPERATORS", "REFUSED"]


def _axis(x: Tensor, axis: int) -> int:
    return int(axis) % len(x.shape)


def _max_pool2d(
    x: Tensor, size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> Tensor:
    require(pair(dilation) == (1, 1) and not ceil, "without dilation and ceil_mode")
    return nn.max_pool2d(x, pair(size), pair(stride) if stride else None, pair(padding))


def _avg_pool2d(
    x: Tensor,
    size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil: bool = False,
    include_pad: bool = True,
    divisor: int | None = None,
) -> Tensor:
    padded = pair(padding) != (0, 0)
    require(not ceil and divisor is None, "without ceil_mode and divisor_override")
    require(not padded or not include_pad, "with count_include_pad=False where there is padding")
    return nn.avg_pool2d(x, pair(size), pair(stride) if stride else None, pair(padding))


def _adaptive_avg_pool2d(x: Tensor, size: Any) -> Tensor:
    shape, (height, width) = f.shape_of(x), pair(size)
    if (height, width) == (1, 1):
        return nn.reshape(nn.global_avg_pool2d(x), shape[1], 1, 1)
    require(shape[2] % height == 0 and shape[3] % width == 0, "to a size that divides the image's")
    return nn.avg_pool2d(x, (shape[2] // height, shape[3] // width))


def _row(size: Any, otherwise: int) -> tuple[int, int]:
    """A number along one axis, for images of one row."""
    return otherwise, int(size if isinstance(size, int) else size[0])


def _max_pool1d(
    x: Tensor, size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> Tensor:
    require(_row(dilation, 1) == (1, 1) and not ceil, "without dilation and ceil_mode")
    numbers = _row(size, 1), _row(stride or size, 1), _row(padding, 0)
    return f.of_rows(x, lambda image: nn.max_pool2d(image, *numbers))


def _avg_pool1d(
    x: Tensor, size: Any, stride: Any = None, padding: Any = 0, ceil: bool = False, include_pad: bool = True
) -> Tensor:
    numbers = _row(size, 1), _row(stride or size, 1), _row(padding, 0)
    return f.of_rows(x, lambda image: _avg_pool2d(image, *numbers, ceil, include_pad))


def _adaptive_avg_pool1d(x: Tensor, size: Any) -> Tensor:
    return f.of_rows(x, lambda image: _adaptive_avg_pool2d(image, _row(size, 1)))


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


def _squeeze(x: Tensor | LastStates, axis: int | Sequence[int]) -> Tensor:
    if isinstance(x, LastStates):
        require(len(x.hidden) == 1 and axis == 0, "of the state of one layer")
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


def _select(x: Tensor | LastStates, axis: int, index: int) -> Tensor:
    if isinstance(x, LastStates):
        require(axis == 0, "a layer of the last states")
        return nn.step(x.hidden[index], -1)
    require(len(x.shape) == 3 and _axis(x, axis) == 1, "one position of a sequence [batch, length, width]")
    return nn.step(x, index)


def _slice(
    x: Tensor, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    length = f.shape_of(x)[_axis(x, axis)]
    whole = (start or 0) == 0 and (end is None or end >= length) and step == 1
    require(whole, "a part of an axis has no rule; use split or one position")
    return x


def _cast(x: Any, dtype: Any, *_: Any, **__: Any) -> Any:
    name = str(dtype).removeprefix("torch.")
    if name in ("int64", "int32") and isinstance(x, Tensor):
        return Tokens(x)
    require(name == "float32" and isinstance(x, Tensor), f"to {name} has no rule")
    return x


def _sum_of(x: Any, y: Any, alpha: float = 1) -> Tensor:
    if isinstance(y, int | float):
        return x + float(y * alpha)
    require(alpha == 1, "with a factor (alpha) has no rule")
    # A parameter stands to the right: it is a bias or a position.
    return op.add(y, x) if isinstance(x, Parameter) else op.add(x, y)


def _difference(x: Tensor, y: Any, alpha: float = 1) -> Tensor:
    if isinstance(y, int | float):
        return x + float(-y * alpha)
    require(alpha == 1, "with a factor (alpha) has no rule")
    return op.subtract(x, y)


def _product(x: Any, y: Any) -> Tensor:
    if isinstance(y, int | float):
        return x * float(y)
    return op.multiply(y, x) if isinstance(x, Parameter) else op.multiply(x, y)


def _quotient(x: Tensor, y: Any, rounding_mode: Any = None) -> Tensor:
    require(isinstance(y, int | float) and rounding_mode is None, "by data has no rule")
    return x * (1.0 / float(y))


def _softmax(x: Tensor, axis: int, dtype: Any = None) -> Tensor:
    require(_axis(x, axis) == len(x.shape) - 1, "over another axis than the last has no rule")
    return nn.softmax(x)


def _dropout(x: Tensor, rate: float, train: bool) -> Tensor:
    return f.dropout(x, float(rate)) if train else x


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


def _size(x: Tensor, axis: int) -> int:
    return f.shape_of(x)[axis]


IGNORED = {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"}
"""Operators that compute nothing."""

OPERATORS: Mapping[str, Callable[..., Any]] = {
    **LAYERS,
    "_to_copy": _cast,
    "_unsafe_view": _reshape,
    "adaptive_avg_pool1d": _adaptive_avg_pool1d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "add": _sum_of,
    "add_": _sum_of,
    "avg_pool1d": _avg_pool1d,
    "avg_pool2d": _avg_pool2d,
    "chunk": _chunk,
    "clone": _same,
    "contiguous": _same,
    "div": _quotient,
    "dropout": _dropout,
    "dropout_": _dropout,
    "flatten": _flatten,
    "gelu": nn.gelu,
    "max_pool1d": _max_pool1d,
    "max_pool2d": _max_pool2d,
    "mean": _mean,
    "mul": _product,
    "permute": _permute,
    "relu": nn.relu,
    "relu_": nn.relu,
    "reshape": _reshape,
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
    "zeros": lambda *_, **__: Zeros(),
}
"""The rule of each operator, by its name without ``aten`` and overload."""
