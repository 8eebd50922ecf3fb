"""ONNX's operators, each as what this room's operators make of it.

A rule takes the node and what stands at its inputs: traced values, parameters, NumPy constants, None where an
optional input is left out. An operator that is not in the table is refused, and so is an attribute that
changes its meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tvm.relax.frontend.nn import Parameter, Tensor, op

from myelin.errors import BuildError

from . import functional as f
from . import nn
from .onnx_axes import Turned, along_last, matmul, part, reshaped, together, transposed
from .onnx_layers import LAYERS
from .onnx_node import Node, axis_of, number_of, numbers

__all__ = ["FOLDED", "OPERATORS", "REFUSED", "apply_rule", "check_size"]


def _matmul(node: Node, x: Any, y: Any) -> Any:
    if isinstance(y, Parameter):
        return f.product(x, y)
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return op.matmul(x, y)
    return matmul(x, y)


def _flatten(node: Node, x: Tensor) -> Tensor:
    node.require("axis", 1)
    return nn.flatten(x)


def _shape(x: Tensor | Turned) -> tuple[int, ...]:
    return x.shape if isinstance(x, Turned) else f.shape_of(x)


def _stand(x: Tensor | Turned, sizes: Sequence[int]) -> Tensor | Turned:
    """Other axes; an ordinary value where it was one and its first axis stays the batch."""
    old = _shape(x)
    if isinstance(x, Tensor) and sizes and sizes[0] == old[0] and math.prod(sizes) == math.prod(old):
        return op.reshape(x, list(sizes))
    return reshaped(x, sizes)


def _reshape(node: Node, x: Tensor | Turned, shape: Any) -> Tensor | Turned:
    node.require("allowzero", 0)
    old = _shape(x)
    new = [old[i] if size == 0 else size for i, size in enumerate(numbers(shape, "shape"))]
    if new.count(-1) == 1:
        rest = math.prod(size for size in new if size != -1)
        new = [math.prod(old) // rest if size == -1 else size for size in new]
    return _stand(x, new)


def _transpose(node: Node, x: Tensor | Turned) -> Tensor | Turned:
    order = [int(axis) for axis in node.get("perm", range(len(x.shape))[::-1])]
    if isinstance(x, Tensor) and order[0] == 0:
        return op.permute_dims(x, order)
    return transposed(x, order)


def _axes(node: Node, given: Any) -> list[int]:
    return numbers(given, "axes") if given is not None else list(node.get("axes", []))


def _squeeze(node: Node, x: Tensor | Turned, axes: Any = None) -> Tensor | Turned:
    shape = _shape(x)
    gone = {axis % len(shape) for axis in _axes(node, axes)}
    if any(shape[axis] != 1 for axis in gone):
        raise BuildError(f"of {list(shape)}, axes {sorted(gone)}: expected axes of size one")
    for axis in sorted(gone, reverse=True):
        x = part(x, axis, 0) if axis == 0 else _stand(x, [*_shape(x)[:axis], *_shape(x)[axis + 1 :]])
    return x


def _unsqueeze(node: Node, x: Tensor | Turned, axes: Any = None) -> Tensor | Turned:
    new, shape = _axes(node, axes), list(_shape(x))
    for axis in sorted(axis % (len(shape) + len(new)) for axis in new):
        shape.insert(axis, 1)
    return _stand(x, shape)


def _split(node: Node, x: Tensor, sizes: Any = None) -> Any:
    axis = axis_of(x, node.get("axis", 0))
    length = f.shape_of(x)[axis]
    if sizes is None:
        count = int(node.get("num_outputs", 2))
        each = -(-length // count)
        ends = list(range(each, length, each))
    else:
        ends = np.cumsum(numbers(sizes, "sizes"))[:-1].tolist()
    return tuple(op.split(x, ends, axis=axis))


def _gather(node: Node, data: Any, index: Any) -> Any:
    axis = int(node.get("axis", 0))
    if isinstance(data, Parameter):
        if axis != 0 or not isinstance(index, Tensor):
            raise BuildError("expected rows of a table, by the features")
        return f.embedding(data, index)
    where = numbers(index, "index")
    if len(where) != 1 or index.ndim != 0:
        raise BuildError("expected one place of an axis")
    if isinstance(data, Tensor) and len(data.shape) == 3 and axis_of(data, axis) == 1:
        return nn.step(data, where[0])
    return part(data, axis, where[0])


def _slice(node: Node, x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    first, last = numbers(starts, "starts"), numbers(ends, "ends")
    along = list(range(len(first))) if axes is None else numbers(axes, "axes")
    step = [1] * len(first) if steps is None else numbers(steps, "steps")
    for begin, end, axis, by in zip(first, last, along, step, strict=True):
        if by != 1:
            raise BuildError("with a step has no rule")
        x = _part(x, axis_of(x, axis), begin, end)
    return x


def _part(x: Tensor, axis: int, begin: int, end: int) -> Tensor:
    """Places ``begin`` to ``end`` of an axis, counted as Python does."""
    begin, end, _ = slice(begin, end).indices(f.shape_of(x)[axis])
    ends = [place for place in (begin, end) if 0 < place < f.shape_of(x)[axis]]
    if begin >= end:
        raise BuildError("expected at least one place")
    return op.split(x, ends, axis=axis)[1 if begin else 0] if ends else x


def _reduce_mean(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    gone = [axis_of(x, axis) for axis in _axes(node, axes)]
    result = nn.mean(x, tuple(gone))
    if not node.get("keepdims", 1):
        return result
    return op.reshape(result, [1 if i in gone else n for i, n in enumerate(f.shape_of(x))])


def _softmax(node: Node, x: Tensor) -> Tensor:
    if axis_of(x, node.get("axis", -1)) != len(x.shape) - 1:
        raise BuildError("over another axis than the last has no rule")
    return nn.softmax(x)


def _add(node: Node, x: Any, y: Any) -> Any:
    return _of_two(x, y, lambda left, number: left + number, op.add)


def _mul(node: Node, x: Any, y: Any) -> Any:
    return _of_two(x, y, lambda left, number: left * number, op.multiply)


def _of_two(
    x: Any, y: Any, scalar: Callable[[Tensor, float], Tensor], then: Callable[[Tensor, Tensor], Tensor]
) -> Any:
    """A sum or a product: by a number, of a parameter, which then stands to the right, or of two values."""
    for left, right in ((x, y), (y, x)):
        if (number := number_of(right)) is not None:
            return scalar(left, number)
        if isinstance(right, Parameter):
            return then(left, right)
    return then(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else together(x, y, then)


def _sub(node: Node, x: Any, y: Any) -> Any:
    number = number_of(y)
    if number is not None:
        return x + -number
    return op.subtract(x, y) if isinstance(y, Tensor) else together(x, y, op.subtract)


def _div(node: Node, x: Tensor, y: Any) -> Tensor:
    number = number_of(y)
    if number is None:
        raise BuildError("by data has no rule")
    return x * (1.0 / number)


def _gelu(node: Node, x: Tensor) -> Tensor:
    node.require("approximate", "none", "tanh")
    kind = node.get("approximate", "none")
    return nn.gelu(x, kind.decode() if isinstance(kind, bytes) else kind)


def _dropout(node: Node, x: Tensor, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and bool(np.any(training)):
        raise BuildError(
            "in training mode has no rule: export the model in eval mode, which leaves it out, or use "
            "nn.Dropout of myelin.model"
        )
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
    "Erf": "alone it has no rule, only in x · (1 + erf(x / √2)) / 2, which is GELU",
}
"""What is refused with more than its name."""

_STANDING = {
    "Add",
    "GRU",
    "Gather",
    "LSTM",
    "MatMul",
    "Mul",
    "Reshape",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
}
"""Operators whose rules take values whose first axis is not the batch."""

_LAST = {
    "Add",
    "Cast",
    "Div",
    "Dropout",
    "Gelu",
    "Gemm",
    "Identity",
    "LayerNormalization",
    "MatMul",
    "Mul",
    "RMSNormalization",
    "Relu",
    "Sigmoid",
    "Softmax",
    "Sub",
    "Tanh",
}
"""Operators that do the same at every place of all axes but the last."""

OPERATORS: Mapping[str, Callable[..., Any]] = {
    **LAYERS,
    "Add": _add,
    "Cast": _cast,
    "Div": _div,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Identity": lambda node, x: x,
    "MatMul": _matmul,
    "Mul": _mul,
    "ReduceMean": _reduce_mean,
    "Relu": lambda node, x: nn.relu(x),
    "Reshape": _reshape,
    "Sigmoid": lambda node, x: nn.sigmoid(x),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _sub,
    "Tanh": lambda node, x: nn.tanh(x),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""The rule of each operator."""


def apply_rule(node: Node, inputs: Sequence[Any]) -> Any:
    """What a node gives, of which at least one input is traced.

    Raises:
        BuildError: it has no rule, or none for values whose first axis is not the batch.
    """
    rule = OPERATORS.get(node.kind)
    if rule is None:
        known = "it has no rule; operators with one are " + ", ".join(sorted(OPERATORS))
        raise BuildError(REFUSED.get(node.kind, known))
    places = [place for place, value in enumerate(inputs) if isinstance(value, Turned)]
    data = [
        value for value in inputs if isinstance(value, Tensor | Turned) and not isinstance(value, Parameter)
    ]
    if not places or (node.kind in _STANDING and not _is_of_last(node, inputs, data)):
        return rule(node, *inputs)
    if node.kind not in _LAST or len(data) != 1:
        raise BuildError("of values whose first axis is not the batch it has no rule")
    tables = [value for value in inputs if isinstance(value, Parameter) and len(value.shape) != 1]
    if tables and node.kind in ("Add", "Mul"):
        raise BuildError(
            "of values whose first axis is not the batch it takes a parameter of the last axis only"
        )
    rank = len(data[0].shape)
    if "axis" in node.attributes:
        if int(node.get("axis")) % rank != rank - 1:
            raise BuildError("over another axis than the last has no rule")
        node = replace(node, attributes={**node.attributes, "axis": -1})

    def of(x: Tensor) -> Tensor:
        return rule(node, *(x if place in places else value for place, value in enumerate(inputs)))

    return along_last(data[0], of)


def _is_of_last(node: Node, inputs: Sequence[Any], data: Sequence[Any]) -> bool:
    """Whether the one value with data meets only numbers, or a parameter at the last axis."""
    others = [value for value in inputs if value is not None and not any(value is x for x in data)]
    return node.kind in _LAST and len(data) == 1 and bool(others)
