"""ONNX's door: the zoo's models as files, made here with the same values, are the same models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from doors import features, graph_of, job, logits, losses_of_training
from onnx import TensorProto, helper, numpy_helper
from small_zoo import SMALL
from written import WRITTEN

from myelin.model import from_onnx

pytestmark = pytest.mark.numeric


class File:
    """An ONNX graph that grows: every layer adds nodes, and gives the name of its result."""

    def __init__(self, graph: Any) -> None:
        self.values = dict(zip(graph.parameter_names, graph.parameter_values, strict=True))
        self.nodes: list[Any] = []
        self.numbers: dict[str, Any] = {}

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{kind}{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def number(self, value: Any) -> str:
        name = f"number{len(self.numbers)}"
        self.numbers[name] = np.asarray(value)
        return name

    def weight(self, name: str, value: Any = None) -> str:
        self.numbers[name] = self.values[name] if value is None else value
        return name

    def has(self, name: str) -> bool:
        return name in self.values

    def conv(self, x: str, name: str, stride: int = 1, padding: int = 0) -> Any:
        parts = [f"{name}.{part}" for part in ("weight", "bias") if self.has(f"{name}.{part}")]
        weights = [self.weight(part) for part in parts]
        return self.node("Conv", x, *weights, strides=[stride] * 2, pads=[padding] * 4)

    def linear(self, x: str, name: str) -> Any:
        """As exporters write it for sequences: a product with a weight [in, out], and a sum."""
        weight = self.weight(f"{name}.weight", self.values[f"{name}.weight"].T.copy())
        return self.node("Add", self.node("MatMul", x, weight), self.weight(f"{name}.bias"))

    def group_norm(self, x: str, name: str, groups: int) -> Any:
        weights = [self.weight(f"{name}.{part}") for part in ("scale", "bias")]
        return self.node("GroupNormalization", x, *weights, num_groups=groups)

    def layer_norm(self, x: str, name: str) -> Any:
        return self.node("LayerNormalization", x, *(self.weight(f"{name}.{p}") for p in ("scale", "bias")))

    def active(self, x: str, kind: str) -> Any:
        return self.node({"relu": "Relu", "tanh": "Tanh", "gelu": "Gelu"}[kind], x)

    def max_pool(self, x: str, size: int, stride: int) -> Any:
        return self.node("MaxPool", x, kernel_shape=[size] * 2, strides=[stride] * 2)

    def mean_of_image(self, x: str) -> Any:
        return self.node("Flatten", self.node("GlobalAveragePool", x))

    def mean_of_length(self, x: str) -> Any:
        return self.node("ReduceMean", x, self.number(np.array([1])), keepdims=0)

    def flat(self, x: str) -> Any:
        return self.node("Flatten", x)

    def add(self, x: str, y: str) -> Any:
        return self.node("Add", x, y)

    def embedded(self, x: str, name: str) -> Any:
        return self.node("Gather", self.weight(f"{name}.weight"), self.node("Cast", x, to=TensorProto.INT64))

    def placed(self, x: str, name: str) -> Any:
        return self.node("Add", x, self.weight(f"{name}.weight"))

    def attention(self, x: str, name: str, heads: int) -> Any:
        width = self.values[f"{name}.outputs.bias"].size
        apart, joined = (self.number(np.array(s)) for s in ((0, 0, heads, width // heads), (0, 0, width)))
        parts = self.node("Split", self.linear(x, f"{name}.inputs"), outputs=3, axis=-1, num_outputs=3)
        q, k, v = (
            self.node("Transpose", self.node("Reshape", part, apart), perm=perm)
            for part, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        root = self.number(np.array(1 / math.sqrt(width // heads), np.float32))
        weights = self.node("Softmax", self.node("Mul", self.node("MatMul", q, k), root))
        mixed = self.node("Transpose", self.node("MatMul", weights, v), perm=[0, 2, 1, 3])
        return self.linear(self.node("Reshape", mixed, joined), f"{name}.outputs")

    def last_state(self, x: str, name: str) -> Any:
        """Gates in the order input, output, forget, cell; a second bias of zeros."""
        hidden = self.values[f"{name}.recurrent"].shape[1]
        order = np.concatenate([np.arange(hidden) + gate * hidden for gate in (0, 3, 1, 2)])
        inputs, recurrent, bias = (
            self.values[f"{name}.{part}"][order] for part in ("inputs.weight", "recurrent", "inputs.bias")
        )
        biases = np.concatenate([bias, np.zeros_like(bias)])
        named = {"inputs.weight": inputs[None], "recurrent": recurrent[None], "inputs.bias": biases[None]}
        weights = [self.weight(f"{name}.{part}", value) for part, value in named.items()]
        turned = self.node("Transpose", x, perm=[1, 0, 2])
        last = self.node("LSTM", turned, *weights, outputs=2, hidden_size=hidden)[1]
        return self.node("Squeeze", last, self.number(np.array([0])))

    def patches(self, x: str, name: str, size: int) -> Any:
        shape = self.number(np.array((0, self.values[f"{name}.bias"].size, -1)))
        return self.node("Transpose", self.node("Reshape", self.conv(x, name, size), shape), perm=[0, 2, 1])

    def save(self, path: Path, output: str, shape: tuple[int, ...], classes: int) -> Path:
        made = helper.make_graph(
            self.nodes,
            "zoo",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", classes])],
            [numpy_helper.from_array(value, name) for name, value in self.numbers.items()],
        )
        opset = [helper.make_opsetid("", 21)]
        onnx.save(helper.make_model(made, opset_imports=opset, ir_version=10), str(path))
        return path


@pytest.mark.parametrize("name", [name for name in SMALL if name != "adapters"])
def test_it_is_the_zoos_model(name: str, tmp_path: Path) -> None:
    """All but the adapters: a file has no word for what is frozen."""
    small = SMALL[name]
    x = features(small.shape, small.vocabulary)
    own = graph_of(job(small.make, small.shape, small.classes, small.vocabulary))
    file = File(own)
    path = file.save(tmp_path / "net.onnx", WRITTEN[name](file, "x"), small.shape, small.classes)
    made = job(lambda: from_onnx(path), small.shape, small.classes, small.vocabulary)
    graph = graph_of(made)
    assert len(graph.parameter_names) == len(own.parameter_names) + (name == "lstm")
    np.testing.assert_allclose(logits(graph, x), logits(own, x), rtol=0, atol=2e-6)
    before, after = losses_of_training(made, x, small.classes)
    assert after < before - 0.01
