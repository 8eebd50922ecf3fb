"""The zoo's models written once more, layer by layer, for whoever has them: PyTorch, or an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from small_zoo import SMALL

Array = np.ndarray[Any, Any]


class Layers(Protocol):
    """What a framework has. A layer's values are found by its name in the zoo."""

    def has(self, name: str) -> bool: ...
    def conv(self, x: Any, name: str, stride: int = 1, padding: int = 0) -> Any: ...
    def linear(self, x: Any, name: str) -> Any: ...
    def group_norm(self, x: Any, name: str, groups: int) -> Any: ...
    def layer_norm(self, x: Any, name: str) -> Any: ...
    def active(self, x: Any, kind: str) -> Any: ...
    def max_pool(self, x: Any, size: int, stride: int) -> Any: ...
    def mean_of_image(self, x: Any) -> Any: ...
    def mean_of_length(self, x: Any) -> Any: ...
    def flat(self, x: Any) -> Any: ...
    def add(self, x: Any, y: Any) -> Any: ...
    def embedded(self, x: Any, name: str) -> Any: ...
    def placed(self, x: Any, name: str) -> Any: ...
    def attention(self, x: Any, name: str, heads: int) -> Any: ...
    def last_state(self, x: Any, name: str) -> Any: ...
    def patches(self, x: Any, name: str, size: int) -> Any: ...


Written = Callable[[Layers, Any], Any]


def mnist(kind: str) -> Written:
    def forward(f: Layers, x: Any) -> Any:
        x = f.max_pool(f.active(f.conv(x, "conv1", 2, 3), kind), 2, 1)
        x = f.max_pool(f.active(f.conv(x, "conv2", 2), kind), 2, 1)
        return f.linear(f.active(f.linear(f.flat(x), "hidden"), kind), "output")

    return forward


def vgg(f: Layers, x: Any) -> Any:
    for last in ((0, 1), (2, 3), (4, 5, 6)):
        for index in last:
            x = f.active(f.conv(x, f"conv{index}", 1, 1), "relu")
        x = f.max_pool(x, 2, 2)
    return f.linear(f.active(f.linear(f.flat(x), "hidden"), "relu"), "output")


def resnet(f: Layers, x: Any) -> Any:
    def conv(x: Any, part: str, number: str, stride: int = 1) -> Any:
        return f.group_norm(f.conv(x, f"{part}conv{number}", stride, 1), f"{part}norm{number}", 3)

    x = f.active(conv(x, "", ""), "relu")
    for index, stride in enumerate((1, 2, 2)):
        part = f"block{index}."
        y = conv(f.active(conv(x, part, "1", stride), "relu"), part, "2")
        short = f.conv(x, f"{part}shortcut", stride) if f.has(f"{part}shortcut.weight") else x
        x = f.active(f.add(y, short), "relu")
    return f.linear(f.mean_of_image(x), "output")


def wide_resnet(f: Layers, x: Any) -> Any:
    x = f.conv(x, "conv", 1, 1)
    for index, stride in enumerate((1, 2, 2)):
        part = f"block{index}."
        active = f.active(f.group_norm(x, f"{part}norm1", 3), "relu")
        y = f.group_norm(f.conv(active, f"{part}conv1", stride, 1), f"{part}norm2", 3)
        y = f.conv(f.active(y, "relu"), f"{part}conv2", 1, 1)
        x = f.add(y, f.conv(active, f"{part}shortcut", stride) if f.has(f"{part}shortcut.weight") else x)
    return f.linear(f.mean_of_image(f.active(f.group_norm(x, "norm", 3), "relu")), "output")


def mlp(f: Layers, x: Any) -> Any:
    x = f.active(f.linear(x, "layer0"), "relu")
    return f.linear(f.active(f.linear(x, "layer1"), "relu"), "layer2")


def lstm(f: Layers, x: Any) -> Any:
    return f.linear(f.last_state(f.embedded(x, "embedding"), "lstm"), "output")


def encoded(f: Layers, x: Any) -> Any:
    """Both encoder layers, the last normalisation, the mean and the output layer."""
    for index in range(2):
        part = f"layer{index}."
        x = f.add(x, f.attention(f.layer_norm(x, f"{part}norm1"), f"{part}attention", 3))
        up = f.active(f.linear(f.layer_norm(x, f"{part}norm2"), f"{part}up"), "gelu")
        x = f.add(x, f.linear(up, f"{part}down"))
    return f.linear(f.mean_of_length(f.layer_norm(x, "norm")), "output")


def transformer(f: Layers, x: Any) -> Any:
    return encoded(f, f.placed(f.embedded(x, "embedding"), "position"))


def vit(f: Layers, x: Any) -> Any:
    return encoded(f, f.placed(f.patches(x, "patches", 3), "position"))


WRITTEN: dict[str, Written] = {
    "mnist_cnn": mnist("relu"),
    "mnist_cnn_tanh": mnist("tanh"),
    "vgg9": vgg,
    "resnet20": resnet,
    "wrn16_4": wide_resnet,
    "mlp": mlp,
    "lstm": lstm,
    "transformer": transformer,
    "vit": vit,
    "adapters": transformer,
}
assert WRITTEN.keys() == SMALL.keys()
