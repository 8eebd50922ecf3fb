"""Which of an ONNX file's numbers are parameters, and the form in which this project trains them.

ONNX stores a weight as its operator wants it: ``[in, out]`` for MatMul, gates in another order for LSTM. A
parameter is a number array, not a single number, that an operator uses where it has a weight, scale or bias.
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
        channels: parameters that lie along the channels of an image, ``[c, 1, 1]`` in the file.
    """

    initializers: set[str] = field(default_factory=set)
    values: dict[str, Array] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    uses: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    channels: set[str] = field(default_factory=set)


def _as_is(value: Array) -> dict[str, Array]:
    return {"": value}


def _turned(value: Array) -> dict[str, Array]:
    return {"": np.ascontiguousarray(value.T)}


def _gates(value: Array) -> Array:
    """Gates input, output, forget, cell to input, forget, cell, output, along the first axis."""
    i, o, f, c = np.split(value, 4)
    return np.concatenate([i, f, c, o])


def _of_gates(value: Array) -> dict[str, Array]:
    if value.shape[0] != 1:
        raise BuildError("an LSTM in both directions has no rule")
    return {"": _gates(value[0])}


def _of_channels(value: Array) -> dict[str, Array]:
    return {"": value.reshape(-1)}


def _two_biases(value: Array) -> dict[str, Array]:
    inputs, recurrent = np.split(value[0], 2)
    return {".inputs": _gates(inputs), ".recurrent": _gates(recurrent)}


def _forms(node: Any, attributes: dict[str, Any]) -> dict[int, Form]:
    """The places of a node where a parameter may stand, each with its form."""
    as_is: dict[int, Form] = {1: _as_is, 2: _as_is}
    kinds: dict[str, dict[int, Form]] = {
        "Gemm": {1: _as_is if attributes.get("transB") else _turned, 2: _as_is},
        "MatMul": {1: _turned},
        "Conv": as_is,
        "LayerNormalization": as_is,
        "GroupNormalization": as_is,
        "Gather": {0: _as_is},
        "LSTM": {1: _of_gates, 2: _of_gates, 3: _two_biases},
        "Add": {0: _as_is, 1: _as_is},
        "Mul": {0: _as_is, 1: _as_is},
    }
    return kinds.get(node.op_type, {})


def parameters_of(graph: Any) -> Taken:
    """Sort the initializers of ``graph`` into parameters and constants.

    Raises:
        BuildError: one number array is used in two forms.
    """
    from onnx import helper, numpy_helper

    taken = Taken()
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    taken.initializers = set(arrays)
    made: dict[str, Form] = {}
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        forms = _forms(node, attributes)
        for place, name in enumerate(node.input):
            value = arrays.get(name)
            if value is None or place not in forms or value.size == 1 or value.dtype != np.float32:
                continue
            form = forms[place]
            if node.op_type in ("Add", "Mul") and value.ndim == 3 and value.shape[1:] == (1, 1):
                form = _of_channels
                taken.channels.add(name)
            if made.setdefault(name, form) is not form:
                raise BuildError(f"{name}: is used in two forms, as a weight and turned; give each its own")
            parts = {f"{name}{suffix}": part for suffix, part in form(value).items()}
            taken.values |= parts
            taken.uses.setdefault(node.output[0], {})[place] = list(parts)
    taken.constants = {name: value for name, value in arrays.items() if name not in made}
    return taken
