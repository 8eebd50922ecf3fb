"""ONNX's operators that have parameters, and pools, as what this room's operators make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm.relax.frontend.nn import Tensor, op

from myelin.errors import BuildError

from . import functional as f
from . import nn
from .onnx_axes import Turned, standing, transposed
from .onnx_node import Node, axis_of, optional, weight

__all__ = ["LAYERS"]


def _gemm(node: Node, x: Tensor, factor: Any, bias: Any = None) -> Tensor:
    node.require("alpha", 1.0)
    node.require("beta", 1.0)
    node.require("transA", 0)
    product = f.linear if node.get("transB", 0) else f.product
    return product(x, weight(factor), optional(bias))


def _window(node: Node, axes: int) -> tuple[list[int], list[int]]:
    """Strides and zeros at the beginning of each axis, then at the end."""
    node.require("auto_pad", "NOTSET", "VALID")
    strides, pads = node.get("strides", [1] * axes), node.get("pads", [0] * (2 * axes))
    if len(strides) != axes or len(pads) != 2 * axes:
        raise BuildError(f"strides {list(strides)} and pads {list(pads)} do not fit {axes} axes")
    return list(strides), list(pads)


def _axes_of(x: Tensor) -> int:
    if len(x.shape) not in (3, 4):
        raise BuildError(f"expected [batch, channels, length] or an image, got {list(x.shape)}")
    return len(x.shape) - 2


def _conv(node: Node, x: Tensor, kernel: Any, bias: Any = None) -> Tensor:
    axes = _axes_of(x)
    strides, pads = _window(node, axes)
    dilation, groups = list(node.get("dilations", [1] * axes)), int(node.get("group", 1))
    if axes == 2:
        return f.conv2d(x, weight(kernel), optional(bias), strides, pads, dilation, groups)
    return f.conv1d(x, weight(kernel), optional(bias), strides[0], pads, dilation[0], groups)


def _conv_transpose(node: Node, x: Tensor, kernel: Any, bias: Any = None) -> Tensor:
    axes = _axes_of(x)
    strides, pads = _window(node, axes)
    more, groups = list(node.get("output_padding", [0] * axes)), int(node.get("group", 1))
    if any(step != 1 for step in node.get("dilations", [])) or node.get("output_shape"):
        raise BuildError("with dilation or an output_shape has no rule")
    if axes == 2:
        return f.conv_transpose2d(x, weight(kernel), optional(bias), strides, pads, more, groups)
    return f.conv_transpose1d(x, weight(kernel), optional(bias), strides[0], pads, more[0], groups)


def _pool(node: Node, x: Tensor, kind: str) -> Tensor:
    axes = _axes_of(x)
    strides, pads = _window(node, axes)
    node.require("ceil_mode", 0)
    if any(step != 1 for step in node.get("dilations", [])):
        raise BuildError("a dilated window has no rule")
    if pads[:axes] != pads[axes:]:
        raise BuildError(f"pads = {pads} has no rule; expected the same on both sides")
    if kind == "avg" and any(pads):
        node.require("count_include_pad", 0)
    pool = nn.max_pool2d if kind == "max" else nn.avg_pool2d
    size = list(node.get("kernel_shape"))
    if axes == 1:
        numbers = (1, size[0]), (1, strides[0]), (0, pads[0])
        return f.of_rows(x, lambda image: pool(image, *numbers))
    return pool(x, (size[0], size[1]), (strides[0], strides[1]), (pads[0], pads[1]))


def _global_average(node: Node, x: Tensor) -> Tensor:
    def average(image: Tensor) -> Tensor:
        return nn.reshape(nn.global_avg_pool2d(image), int(image.shape[1]), 1, 1)

    return average(x) if _axes_of(x) == 2 else f.of_rows(x, average)


def _layer_norm(node: Node, x: Tensor, scale: Any, bias: Any = None) -> Any:
    _last_axis(node, x)
    return f.layer_norm(x, weight(scale, "scale"), optional(bias), float(node.get("epsilon", 1e-5)))


def _rms_norm(node: Node, x: Tensor, scale: Any) -> Any:
    _last_axis(node, x)
    return f.rms_norm(x, weight(scale, "scale"), float(node.get("epsilon", 1e-5)))


def _last_axis(node: Node, x: Tensor) -> None:
    if axis_of(x, node.get("axis", -1)) != len(x.shape) - 1:
        raise BuildError("over more than the last axis has no rule")


def _instance_norm(node: Node, x: Tensor, scale: Any, bias: Any) -> Tensor:
    """Of each channel; or of each group of channels, as exporters write it, without a scale and a bias."""
    if isinstance(scale, np.ndarray) and isinstance(bias, np.ndarray):
        if not np.all(scale == 1) or not np.all(bias == 0):
            raise BuildError("its scale and bias must both be parameters, or one and zero")
        scale = bias = None
    channels, epsilon = int(x.shape[1]), float(node.get("epsilon", 1e-5))
    return f.group_norm(x, channels, scale and weight(scale, "scale"), optional(bias), epsilon)


def _group_norm(node: Node, x: Tensor, scale: Any, bias: Any) -> Tensor:
    groups, channels = int(node.get("num_groups")), int(x.shape[1])
    if int(weight(scale, "scale").shape[0]) != channels:
        raise BuildError("its scale is by group, as before operator set 21; export it with 21 or newer")
    return f.group_norm(x, groups, scale, optional(bias), float(node.get("epsilon", 1e-5)))


def _batch_norm(node: Node, x: Tensor, scale: Any, bias: Any, factor: Any, shift: Any) -> Tensor:
    """By statistics that are known; in place of mean and variance stand the factor and shift made of them."""
    if node.get("training_mode", 0):
        raise BuildError(
            "batch normalisation mixes the examples of a batch, so no example's influence can be bounded; "
            "use group or layer normalisation, which stay inside an example, or export the model in eval "
            "mode, with the statistics that it has, if those are public"
        )
    parameters = [weight(value, "scale, bias, mean and variance") for value in (factor, shift, scale, bias)]
    return f.fixed_norm(x, *parameters)


def _lstm(node: Node, x: Any, inputs: Any, recurrent: Any, biases: Any = None, *rest: Any) -> Any:
    if node.get("input_forget"):
        raise BuildError("input_forget has no rule")

    def layer(sequence: Tensor) -> Tensor:
        gates = f.linear(sequence, weight(inputs))
        for bias in biases or ():
            gates = op.add(gates, bias)
        return f.lstm(gates, weight(recurrent))

    return (*_recurrent(node, x, layer, rest), None)


def _gru(node: Node, x: Any, inputs: Any, recurrent: Any, biases: Any = None, *rest: Any) -> Any:
    if not node.get("linear_before_reset", 0):
        raise BuildError("linear_before_reset = 0 has no rule; PyTorch's GRU, exported, has 1")

    def layer(sequence: Tensor) -> Tensor:
        bias, recurrent_bias = biases or (None, None)
        return f.gru(f.linear(sequence, weight(inputs), bias), weight(recurrent), recurrent_bias)

    return _recurrent(node, x, layer, rest)


def _recurrent(
    node: Node, x: Tensor | Turned, layer: Callable[[Tensor], Tensor], rest: Sequence[Any]
) -> tuple[Tensor | Turned, Tensor | Turned]:
    """The states at all positions, and after the last one, as they stand in the file."""
    node.require("direction", "forward")
    if node.get("activations") or node.get("clip"):
        raise BuildError("other activations and clip have no rule")
    if rest and rest[0] is not None:
        raise BuildError("sequences of different lengths have no rule")
    if any(value is not None and not _is_zero(value) for value in rest[1:]):
        raise BuildError("its first state must be zero, without peepholes")
    is_batch_first = bool(node.get("layout", 0))
    sequence = x if is_batch_first else transposed(x, [1, 0, 2])
    if not isinstance(sequence, Tensor):
        order = "[batch, length, width]" if is_batch_first else "[length, batch, width]"
        raise BuildError(f"expected sequences {order}")
    hidden = layer(sequence)
    last = nn.step(hidden, -1)
    if is_batch_first:
        return standing(hidden, [[0], [1], [], [2]]), standing(last, [[0], [], [1]])
    return standing(hidden, [[1], [], [0], [2]]), standing(last, [[], [0], [1]])


def _is_zero(value: Any) -> bool:
    return isinstance(value, np.ndarray) and not value.any()


LAYERS: Mapping[str, Callable[..., Any]] = {
    "AveragePool": lambda node, x: _pool(node, x, "avg"),
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GRU": _gru,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "MaxPool": lambda node, x: _pool(node, x, "max"),
    "RMSNormalization": _rms_norm,
}
"""The rule of each operator."""
