"""Plain convolutional networks for small images (Simonyan and Zisserman 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from myelin.model import nn

__all__ = ["Vgg"]


class Vgg(nn.Module):
    """3×3 convolutions with ReLU in blocks, a pooling after each, then two dense layers: VGG-9 as it is.

    Args:
        blocks: widths of the convolutions of each block.
        size: height and width of the images, of three channels.
        hidden: width of the layer before the last.
        classes: how many logits.
    """

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
        """``[batch, 3, size, size]`` to logits."""
        index = 0
        for length in self.blocks:
            for _ in range(length):
                x = nn.relu(getattr(self, f"conv{index}")(x))
                index += 1
            x = nn.max_pool2d(x, 2)
        return self.output(nn.relu(self.hidden(nn.flatten(x))))
