"""The six models of the benchmark in :mod:`myelin.model.nn`.

Every model takes its sizes as arguments, the benchmark's own by default, so that tests can make small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from myelin.model import nn

__all__ = ["MODELS", "Lstm", "MnistCnn", "Perceptron", "ResNet", "Transformer", "Vgg"]


class MnistCnn(nn.Module):
    """The two-convolution network of the Opacus and TensorFlow Privacy tutorials: 26,010 parameters."""

    def __init__(self) -> None:
        self.conv1 = nn.Conv2D(1, 16, 8, stride=2, padding=3)
        self.conv2 = nn.Conv2D(16, 32, 4, stride=2)
        self.hidden = nn.Linear(512, 32)
        self.output = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        x = nn.max_pool2d(nn.relu(self.conv1(x)), 2, 1)
        x = nn.max_pool2d(nn.relu(self.conv2(x)), 2, 1)
        return self.output(nn.relu(self.hidden(nn.flatten(x))))


class Vgg(nn.Module):
    """3×3 convolutions with ReLU in blocks, a pooling after each, then two dense layers."""

    def __init__(
        self,
        blocks: Sequence[Sequence[int]] = ((64, 64), (128, 128), (256, 256, 256)),
        size: int = 32,
        hidden: int = 256,
        classes: int = 10,
    ) -> None:
        self.blocks = [len(block) for block in blocks]
        widths = [3, *(width for block in blocks for width in block)]
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            setattr(self, f"conv{index}", nn.Conv2D(inputs, outputs, 3, padding=1))
        self.hidden = nn.Linear(widths[-1] * (size // 2 ** len(blocks)) ** 2, hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, x: Any) -> Any:
        index = 0
        for length in self.blocks:
            for _ in range(length):
                x = nn.relu(getattr(self, f"conv{index}")(x))
                index += 1
            x = nn.max_pool2d(x, 2)
        return self.output(nn.relu(self.hidden(nn.flatten(x))))


class Residual(nn.Module):
    """Two 3×3 convolutions with group normalisation, and a shortcut: 1×1 with a stride where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        self.conv1 = nn.Conv2D(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv2D(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.changes = stride != 1 or inputs != outputs
        if self.changes:
            self.shortcut = nn.Conv2D(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Any) -> Any:
        y = self.norm2(self.conv2(nn.relu(self.norm1(self.conv1(x)))))
        return nn.relu(y + (self.shortcut(x) if self.changes else x))


class ResNet(nn.Module):
    """A residual network for small images (He et al. 2016, section 4.2), with group normalisation.

    Three stages of ``depth`` blocks, the width doubled and the size halved between; depth 3 is ResNet-20.
    """

    def __init__(self, depth: int = 3, width: int = 16, groups: int = 8, classes: int = 10) -> None:
        self.conv = nn.Conv2D(3, width, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, width)
        self.count = 3 * depth
        inputs = width
        for index in range(self.count):
            outputs = width << (index // depth)
            stride = 2 if index and index % depth == 0 else 1
            setattr(self, f"block{index}", Residual(inputs, outputs, stride, groups))
            inputs = outputs
        self.output = nn.Linear(inputs, classes)

    def forward(self, x: Any) -> Any:
        x = nn.relu(self.norm(self.conv(x)))
        for index in range(self.count):
            x = getattr(self, f"block{index}")(x)
        return self.output(nn.global_avg_pool2d(x))


class Perceptron(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self, widths: Sequence[int] = (784, 1024, 1024, 10)) -> None:
        self.count = len(widths) - 1
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            setattr(self, f"layer{index}", nn.Linear(inputs, outputs))

    def forward(self, x: Any) -> Any:
        for index in range(self.count):
            x = getattr(self, f"layer{index}")(x if index == 0 else nn.relu(x))
        return x


class Lstm(nn.Module):
    """Embedded tokens through an LSTM, and a linear layer on its last state."""

    def __init__(self, vocabulary: int = 8192, width: int = 100, hidden: int = 128, classes: int = 2) -> None:
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, tokens: Any) -> Any:
        return self.output(nn.step(self.lstm(self.embedding(tokens)), -1))


class Encoder(nn.Module):
    """One pre-norm transformer layer: attention, then a feed-forward part, each added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiHeadAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nn.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Embedded tokens with learned positions through encoder layers, their mean, and a linear layer.

    ``final_norm`` normalises the last encoder layer's output, as pre-norm transformers often do.
    """

    def __init__(
        self,
        layers: int = 4,
        width: int = 256,
        heads: int = 8,
        hidden: int = 1024,
        length: int = 128,
        vocabulary: int = 8192,
        classes: int = 10,
        final_norm: bool = False,
    ) -> None:
        self.count, self.final_norm = layers, final_norm
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Position(length, width)
        for index in range(layers):
            setattr(self, f"layer{index}", Encoder(width, heads, hidden))
        if final_norm:
            self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, classes)

    def forward(self, tokens: Any) -> Any:
        x = self.position(self.embedding(tokens))
        for index in range(self.count):
            x = getattr(self, f"layer{index}")(x)
        return self.output(nn.mean(self.norm(x) if self.final_norm else x, 1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mnist_cnn": MnistCnn,
    "vgg9": Vgg,
    "resnet20": ResNet,
    "mlp": Perceptron,
    "lstm": Lstm,
    "transformer": Transformer,
}
"""What makes each of the models that :mod:`benchmarks.workloads` describes."""
