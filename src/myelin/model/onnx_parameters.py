"""Which of an ONNX file's numbers are parameters, and the form in which this project trains them.

ONNX stores a weight as its operator wants it: gates of recurrent layers are in another order, and the kernel
of a convolution along one axis has three axes. A parameter is a number array, not a single number, that an
operator uses where it has a weight, scale or bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from myelin.errors import BuildError

__all__ = ["Taken", "parameters_of"]

Array = npt.NDArray[Any]
Form = Callable[[Array], dict[str, Array]]


@dataclass
class Taken:
    """An ONNX graph's numbers.

    Attributes:
        initializers: names of all.
        values: parameters by the names under which they are trained.
        constants: all others, by their names.
        uses: for a node, by its first output: for an input's place the parameters that stand there.
        channels: parameters along the channels of images or of sequences, ``[c, 1, 1]`` or ``[c, 1]``
            in the file, each with the number of axes of what it meets.
        frozen: names of the constants among ``values``.
    """

    initializers: set[str] = field(default_factory=set)
    values: dict[str, Array] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    uses: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)


def _as_is(value: Array) -> dict[str, Array]:
    return {"": value}


def _kernel(value: Array) -> dict[str, Array]:
    """One row, where it is along one axis."""
    return {"": value[:, :, None, :] if value.ndim == 3 else value}


def _lstm_gates(value: Array) -> Array:
    """Gates input, output, forget, cell to input, forget, cell, output, along the first axis."""
    i, o, f, c = np.split(value, 4)
    return np.concatenate([i, f, c, o])


def _gru_gates(value: Array) -> Array:
    """Gates update, reset, new to reset, update, new, along the first axis."""
    z, r, n = np.split(value, 3)
    return np.concatenate([r, z, n])


def _one_direction(value: Array) -> Array:
    if value.shape[0] != 1:
        raise BuildError("a recurrent layer in both directions has no rule")
    return np.asarray(value[0])


def _lstm(value: Array) -> dict[str, Array]:
    return {"": _lstm_gates(_one_direction(value))}


def _gru(value: Array) -> dict[str, Array]:
    return {"": _gru_gates(_one_direction(value))}


def _lstm_biases(value: Array) -> dict[str, Array]:
    inputs, recurrent = np.split(_one_direction(value), 2)
    return {".inputs": _lstm_gates(inputs), ".recurrent": _lstm_gates(recurrent)}


def _gru_biases(value: Array) -> dict[str, Array]:
    inputs, recurrent = np.split(_one_direction(value), 2)
    return {".inputs": _gru_gates(inputs), ".recurrent": _gru_gates(recurrent)}


def _of_all(value: Array) -> dict[str, Array]:
    """Without axes of size one before all others, the batch's."""
    while value.ndim > 1 and value.shape[0] == 1:
        value = value[0]
    return {"": value}


def _of_channels(value: Array) -> dict[str, Array]:
    return {"": value.reshape(-1)}


_FORMS: dict[str, dict[int, Form]] = {
    "Add": {0: _of_all, 1: _of_all},
    "BatchNormalization": {1: _as_is, 2: _as_is},
    "Conv": {1: _kernel, 2: _as_is},
    "ConvTranspose": {1: _kernel, 2: _as_is},
    "GRU": {1: _gru, 2: _gru, 3: _gru_biases},
    "Gather": {0: _as_is},
    "Gemm": {1: _as_is, 2: _of_all},
    "GroupNormalization": {1: _as_is, 2: _as_is},
    "InstanceNormalization": {1: _as_is, 2: _as_is},
    "LSTM": {1: _lstm, 2: _lstm, 3: _lstm_biases},
    "LayerNormalization": {1: _as_is, 2: _as_is},
    "MatMul": {1: _as_is},
    "Mul": {0: _of_all, 1: _of_all},
    "RMSNormalization": {1: _as_is},
}
"""The places of an operator where a parameter may stand, each with its form."""


class _Graph:
    """Arrays of a graph, and which node makes a value."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.maker = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            # Exporters name numbers that happen to be equal so: each name is an array of its own.
            if node.op_type == "Identity" and node.input[0] in self.arrays:
                self.arrays[node.output[0]] = self.arrays[node.input[0]].copy()

    def is_parameter(self, node: Any, place: int) -> bool:
        """Whether a number array stands at this place of a node, and is one that is trained."""
        value = self.arrays.get(node.input[place])
        if value is None or value.dtype != np.float32 or place not in _FORMS.get(node.op_type, {}):
            return False
        if node.op_type in ("Add", "Mul") and value.size == 1:
            return self.is_bias_of_one(node, place)
        return node.op_type != "InstanceNormalization" or not self.is_group_norm(node)

    def is_bias_of_one(self, node: Any, place: int) -> bool:
        """Whether a single number is added to a product that is one wide, and not to all of another value."""
        product = self.maker.get(node.input[1 - place])
        if node.op_type != "Add" or product is None or product.op_type != "MatMul":
            return False
        factor = self.arrays.get(product.input[1])
        return self.arrays[node.input[place]].ndim == 1 and factor is not None and factor.shape[-1:] == (1,)

    def is_group_norm(self, node: Any) -> bool:
        """Whether an instance normalisation is how an exporter writes that of groups of channels."""
        made = self.maker.get(node.input[0])
        scale, bias = (self.arrays.get(name) for name in node.input[1:3])
        if made is None or made.op_type != "Reshape" or scale is None or bias is None:
            return False
        return bool(np.all(scale == 1) and np.all(bias == 0))


def parameters_of(graph: Any) -> Taken:
    """Sort the initializers of ``graph`` into parameters and constants.

    Raises:
        BuildError: one number array is used in two forms.
    """
    from onnx import helper

    taken, read = Taken(), _Graph(graph)
    taken.initializers = set(read.arrays)
    made: dict[str, tuple[int, dict[str, Array]]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if not read.is_parameter(node, place):
                continue
            value, form, rank = read.arrays[name], _FORMS[node.op_type][place], 0
            size = _of_all(value)[""].shape
            if node.op_type in ("Add", "Mul") and len(size) > 1 and set(size[1:]) == {1}:
                form, rank = _of_channels, len(size) + 1
                taken.channels[name] = rank
            parts = {f"{name}{suffix}": part for suffix, part in form(value).items()}
            if not _is_same(made.setdefault(name, (rank, parts)), (rank, parts)):
                raise BuildError(
                    f"{name}: is used in two forms, as in two kinds of layers; give each its own"
                )
            taken.values |= parts
            taken.uses.setdefault(node.output[0], {})[place] = list(parts)
        if node.op_type == "BatchNormalization" and all(name in read.arrays for name in node.input[3:5]):
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            _take_statistics(taken, node, read.arrays, float(attributes.get("epsilon", 1e-5)))
    taken.constants = {name: value for name, value in read.arrays.items() if name not in made}
    return taken


def _is_same(first: tuple[int, dict[str, Array]], second: tuple[int, dict[str, Array]]) -> bool:
    (rank, parts), (other_rank, others) = first, second
    return rank == other_rank and all(
        name in others and np.array_equal(part, others[name], equal_nan=True) for name, part in parts.items()
    )


def _take_statistics(taken: Taken, node: Any, arrays: dict[str, Array], epsilon: float) -> None:
    """The factor and the shift that a mean and a variance amount to: constants, in their places."""
    mean, variance = (arrays[name].astype(np.float64) for name in node.input[3:5])
    with np.errstate(all="ignore"):  # values that are not finite are refused with all others
        factor = 1.0 / np.sqrt(variance + epsilon)
        shift = -mean * factor
    names = [f"{node.output[0]}.factor", f"{node.output[0]}.shift"]
    taken.values |= {name: v.astype(np.float32) for name, v in zip(names, (factor, shift), strict=True)}
    taken.frozen |= set(names)
    taken.uses.setdefault(node.output[0], {}).update({3: [names[0]], 4: [names[1]]})
