"""ONNX's operators, each as what this room's operators make of it.

A rule takes the node and what stands at its inputs: traced values, parameters, NumPy constants, None where an
optional input is left out. An operator that is not in the table is refused, and so is an attribute that
changes its meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.relax.frontend.nn import Parameter, Tensor, op

from myelin.errors import BuildError

from . import functional as f
from . import nn

__all__ = ["FOLDED", "OPERATORS", "REFUSED", "Node", "check_size"]


@dataclass(frozen=True)
class Node:
    """What a rule needs of a node.

    Attributes:
        kind: the operator.
        name: of the node.
        attributes: its attributes, by name.
    """

    kind: str
    name: str
    attributes: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or ``default``."""
        return self.attributes.get(name, default)

    def require(self, name: str, *allowed: Any) -> None:
        """Refuse an attribute of another value than the first of ``allowed``, which is the default."""
        value = self.get(name, allowed[0])
        value = value.decode() if isinstance(value, bytes) else value
        if value not in allowed:
            raise BuildError(f"{name} = {value!r} has no rule; expected {' or '.join(map(repr, allowed))}")


def _numbers(value: Any, what: str) -> list[int]:
    if not isinstance(value, np.ndarray):
        raise BuildError(f"its {what} must be a constant")
    return [int(number) for number in value.reshape(-1)]


def _number(value: Any) -> float | None:
    return float(value.reshape(())) if isinstance(value, np.ndarray) and value.size == 1 else None


def _axis(x: Tensor, axis: int) -> int:
    return int(axis) % len(x.shape)


def _weight(value: Any, what: str = "weight") -> Parameter:
    if not isinstance(value, Parameter):
        raise BuildError(f"its {what} must be a parameter of the file")
    return value


def _optional(value: Any) -> Parameter | None:
    return None if value is None else _weight(value, "bias")


def _gemm(node: Node, x: Tensor, weight: Any, bias: Any = None) -> Tensor:
    node.require("alpha", 1.0)
    node.require("beta", 1.0)
    node.require("transA", 0)
    return f.linear(x, _weight(weight), _optional(bias))


def _matmul(node: Node, x: Tensor, y: Any) -> Tensor:
    return f.linear(x, y) if isinstance(y, Parameter) else op.matmul(x, y)


def _window(node: Node) -> tuple[list[int], list[int]]:
    node.require("auto_pad", "NOTSET", "VALID")
    return list(node.get("strides", [1, 1])), list(node.get("pads", [0, 0, 0, 0]))


def _conv(node: Node, x: Tensor, weight: Any, bias: Any = None) -> Tensor:
    if len(x.shape) != 4:
        raise BuildError("expected an image [batch, channels, height, width]")
    strides, pads = _window(node)
    dilation = node.get("dilations", [1, 1])
    return f.conv2d(x, _weight(weight), _optional(bias), strides, pads, dilation, int(node.get("group", 1)))


def _pool(node: Node, x: Tensor, kind: str) -> Tensor:
    strides, pads = _window(node)
    node.require("ceil_mode", 0)
    if list(node.get("dilations", [1, 1])) != [1, 1]:
        raise BuildError("a dilated window has no rule")
    if pads[:2] != pads[2:]:
        raise BuildError(f"pads = {pads} has no rule; expected the same on both sides")
    size = node.get("kernel_shape")
    if kind == "avg" and any(pads):
        node.require("count_include_pad", 0)
    pool = nn.max_pool2d if kind == "max" else nn.avg_pool2d
    return pool(x, (size[0], size[1]), (strides[0], strides[1]), (pads[0], pads[1]))


def _global_average(node: Node, x: Tensor) -> Tensor:
    return nn.reshape(nn.global_avg_pool2d(x), int(x.shape[1]), 1, 1)


def _flatten(node: Node, x: Tensor) -> Tensor:
    node.require("axis", 1)
    return nn.flatten(x)


def _reshape(node: Node, x: Tensor, shape: Any) -> Tensor:
    node.require("allowzero", 0)
    old = f.shape_of(x)
    new = [old[i] if size == 0 else size for i, size in enumerate(_numbers(shape, "shape"))]
    if new.count(-1) == 1:
        rest = math.prod(size for size in new if size != -1)
        new = [math.prod(old) // rest if size == -1 else size for size in new]
    return op.reshape(x, new)


def _transpose(node: Node, x: Tensor) -> Tensor:
    return op.permute_dims(x, list(node.get("perm", range(len(x.shape))[::-1])))


def _axes(node: Node, given: Any) -> list[int]:
    return _numbers(given, "axes") if given is not None else list(node.get("axes", []))


def _squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    gone = _axes(node, axes)
    if isinstance(x, _LastState):
        return x.squeezed(gone)
    places = {_axis(x, axis) for axis in gone}
    return op.reshape(x, [n for i, n in enumerate(f.shape_of(x)) if i not in places])


def _unsqueeze(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    new = _axes(node, axes)
    shape = list(f.shape_of(x))
    for axis in sorted(axis % (len(shape) + len(new)) for axis in new):
        shape.insert(axis, 1)
    return op.reshape(x, shape)


def _split(node: Node, x: Tensor, sizes: Any = None) -> Any:
    axis = _axis(x, node.get("axis", 0))
    length = f.shape_of(x)[axis]
    if sizes is None:
        count = int(node.get("num_outputs", 2))
        each = -(-length // count)
        ends = list(range(each, length, each))
    else:
        ends = np.cumsum(_numbers(sizes, "sizes"))[:-1].tolist()
    return tuple(op.split(x, ends, axis=axis))


def _gather(node: Node, data: Any, index: Any) -> Tensor:
    axis = int(node.get("axis", 0))
    if isinstance(data, Parameter):
        if axis != 0 or not isinstance(index, Tensor):
            raise BuildError("expected rows of a table, by the features")
        return f.embedding(data, index)
    where = _numbers(index, "index")
    if len(where) != 1 or index.ndim != 0 or len(data.shape) != 3 or _axis(data, axis) != 1:
        raise BuildError("expected one position of a sequence [batch, length, width]")
    return nn.step(data, where[0])


def _slice(node: Node, x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    first, last = _numbers(starts, "starts"), _numbers(ends, "ends")
    along = list(range(len(first))) if axes is None else _numbers(axes, "axes")
    step = [1] * len(first) if steps is None else _numbers(steps, "steps")
    for begin, end, axis, by in zip(first, last, along, step, strict=True):
        if by != 1:
            raise BuildError("with a step has no rule")
        x = _part(x, _axis(x, axis), begin, end)
    return x


def _part(x: Tensor, axis: int, begin: int, end: int) -> Tensor:
    """Places ``begin`` to ``end`` of an axis, counted as Python does."""
    begin, end, _ = slice(begin, end).indices(f.shape_of(x)[axis])
    ends = [place for place in (begin, end) if 0 < place < f.shape_of(x)[axis]]
    if begin >= end:
        raise BuildError("expected at least one place")
    return op.split(x, ends, axis=axis)[1 if begin else 0] if ends else x


def _reduce_mean(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    gone = [_axis(x, axis) for axis in _axes(node, axes)]
    result = nn.mean(x, tuple(gone))
    if not node.get("keepdims", 1):
        return result
    return op.reshape(result, [1 if i in gone else n for i, n in enumerate(f.shape_of(x))])


def _softmax(node: Node, x: Tensor) -> Tensor:
    if _axis(x, node.get("axis", -1)) != len(x.shape) - 1:
        raise BuildError("over another axis than the last has no rule")
    return nn.softmax(x)


def _add(node: Node, x: Any, y: Any) -> Tensor:
    for left, right in ((x, y), (y, x)):
        if (number := _number(right)) is not None:
            return left + number
        if isinstance(right, Parameter):
            return op.add(left, right)
    return op.add(x, y)


def _mul(node: Node, x: Any, y: Any) -> Tensor:
    for left, right in ((x, y), (y, x)):
        if (number := _number(right)) is not None:
            return left * number
        if isinstance(right, Parameter):
            return op.multiply(left, right)
    return op.multiply(x, y)


def _sub(node: Node, x: Tensor, y: Any) -> Tensor:
    number = _number(y)
    return op.subtract(x, y) if number is None else x + -number


def _div(node: Node, x: Tensor, y: Any) -> Tensor:
    number = _number(y)
    if number is None:
        raise BuildError("by data has no rule")
    return x * (1.0 / number)


def _gelu(node: Node, x: Tensor) -> Tensor:
    node.require("approximate", "none", "tanh")
    kind = node.get("approximate", "none")
    return nn.gelu(x, kind.decode() if isinstance(kind, bytes) else kind)


def _layer_norm(node: Node, x: Tensor, scale: Any, bias: Any = None) -> Any:
    if _axis(x, node.get("axis", -1)) != len(x.shape) - 1:
        raise BuildError("over more than the last axis has no rule")
    return f.layer_norm(x, _weight(scale, "scale"), _optional(bias), float(node.get("epsilon", 1e-5)))


def _instance_norm(node: Node, x: Tensor, scale: Any, bias: Any) -> Tensor:
    """As exporters write group normalisation: of ``[batch, groups, …]``, scale 1 and bias 0."""
    plain = isinstance(scale, np.ndarray) and isinstance(bias, np.ndarray)
    if not plain or not np.all(scale == 1) or not np.all(bias == 0):
        raise BuildError("with a scale and bias of its own it has no rule")
    shape = f.shape_of(x)
    groups, rest = shape[1], math.prod(shape[2:])
    image = op.reshape(x, [shape[0], groups, rest, 1])
    normal = f.group_norm(image, groups, None, None, float(node.get("epsilon", 1e-5)))
    return op.reshape(normal, list(shape))


def _group_norm(node: Node, x: Tensor, scale: Any, bias: Any) -> Tensor:
    groups, channels = int(node.get("num_groups")), int(x.shape[1])
    if int(_weight(scale, "scale").shape[0]) != channels:
        raise BuildError("its scale is by group, as before operator set 21; export it with 21 or newer")
    return f.group_norm(x, groups, scale, _optional(bias), float(node.get("epsilon", 1e-5)))


@dataclass(frozen=True)
class _LastState:
    """An LSTM's state after the last position, ``[1, batch, hidden]``."""

    hidden: Tensor

    def squeezed(self, axes: Sequence[int]) -> Tensor:
        """Without the axis of directions."""
        if list(axes) != [0]:
            raise BuildError("of a state, the axis of directions only")
        return nn.step(self.hidden, -1)


@dataclass(frozen=True)
class _TimeFirst:
    """A sequence of which a Transpose made ``[length, batch, width]``; or an LSTM's output."""

    batch_first: Tensor
    directions: bool = False


def _lstm(node: Node, x: Any, inputs: Any, recurrent: Any, biases: Any = None, *rest: Any) -> Any:
    node.require("direction", "forward")
    if node.get("activations") or node.get("clip") or node.get("input_forget"):
        raise BuildError("other activations, clip and input_forget have no rule")
    if rest and rest[0] is not None:
        raise BuildError("sequences of different lengths have no rule")
    if any(value is not None and not _is_zero(value) for value in rest[1:]):
        raise BuildError("its first state must be zero, without peepholes")
    if not node.get("layout", 0):
        if not isinstance(x, _TimeFirst):
            raise BuildError("expected sequences that are transposed to [length, batch, width] for it")
        x = x.batch_first
    hidden = f.lstm(x, _weight(inputs), _weight(recurrent), biases or ())
    return (_TimeFirst(hidden, directions=True), _LastState(hidden), None)


def _is_zero(value: Any) -> bool:
    return isinstance(value, np.ndarray) and not value.any()


def _turn(node: Node, x: Any) -> Any:
    """A Transpose, also of what is not the batch first: into an LSTM and out of it."""
    perm = list(node.get("perm", []))
    if isinstance(x, _TimeFirst):
        if x.directions or perm != [1, 0, 2]:
            raise BuildError("of an LSTM's output: expected Squeeze of its directions, then [1, 0, 2]")
        return x.batch_first
    return _TimeFirst(x) if perm == [1, 0, 2] and len(x.shape) == 3 else _transpose(node, x)


def _squeeze_any(node: Node, x: Any, axes: Any = None) -> Any:
    if isinstance(x, _TimeFirst):
        if not x.directions or _axes(node, axes) != [1]:
            raise BuildError("of an LSTM's output, the axis of directions only")
        return _TimeFirst(x.batch_first)
    return _squeeze(node, x, axes)


def _dropout(node: Node, x: Tensor, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and bool(np.any(training)):
        raise BuildError("dropout has no rule: export the model in eval mode, which leaves it out")
    return x


def _cast(node: Node, x: Tensor) -> Tensor:
    # Tokens: an embedding takes them as they are.
    if int(node.get("to")) not in (1, 6, 7):
        raise BuildError("to another type than float32, int32 or int64 has no rule")
    return x


def check_size(proto: Any, inputs: Sequence[Any]) -> None:
    """Refuse a constant that is made by a size in the file, if it is large."""
    sizes = inputs[0].reshape(-1) if proto.op_type == "ConstantOfShape" else ()
    if any(size < 0 for size in sizes) or math.prod(int(size) for size in sizes) > _MOST_FOLDED:
        raise BuildError(
            f"ONNX operator {proto.op_type} {proto.name!r}: makes more than {_MOST_FOLDED} numbers"
        )


_MOST_FOLDED = 1 << 24

FOLDED = {
    "Add",
    "Cast",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Div",
    "Gather",
    "Mod",
    "Mul",
    "Reshape",
    "Shape",
    "Slice",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
}
"""Operators that are computed where they have constants only: what exporters make shapes with."""

REFUSED: Mapping[str, str] = {
    "BatchNormalization": "batch normalisation mixes the examples of a batch, so no example's influence can "
    "be bounded; use group or layer normalisation, which stay inside an example",
    "Erf": "GELU in parts has no rule; export with operator set 20 or newer, which has Gelu",
    "Shape": "of values whose first axis is not the batch it has no rule, as in MultiheadAttention: take the "
    "model through PyTorch's door, or write attention with the batch first",
}
"""What is refused with more than its name."""

OPERATORS: Mapping[str, Callable[..., Any]] = {
    "Add": _add,
    "AveragePool": lambda node, x: _pool(node, x, "avg"),
    "Cast": _cast,
    "Conv": _conv,
    "Div": _div,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "GroupNormalization": _group_norm,
    "Identity": lambda node, x: x,
    "InstanceNormalization": _instance_norm,
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": lambda node, x: _pool(node, x, "max"),
    "Mul": _mul,
    "ReduceMean": _reduce_mean,
    "Relu": lambda node, x: nn.relu(x),
    "Reshape": _reshape,
    "Sigmoid": lambda node, x: nn.sigmoid(x),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze_any,
    "Sub": _sub,
    "Tanh": lambda node, x: nn.tanh(x),
    "Transpose": _turn,
    "Unsqueeze": _unsqueeze,
}
"""The rule of each operator."""
