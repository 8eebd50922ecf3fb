"""Residual networks for small images, with group normalisation."""

from __future__ import annotations

from typing import Any

from myelin.model import nn

__all__ = ["ResNet"]


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
        """``[batch, inputs, height, width]`` to ``outputs`` channels."""
        y = self.norm2(self.conv2(nn.relu(self.norm1(self.conv1(x)))))
        return nn.relu(y + (self.shortcut(x) if self.changes else x))


class ResNet(nn.Module):
    """A residual network for small images (He et al. 2016, section 4.2), with group normalisation.

    Three stages of ``depth`` blocks, the width doubled and the size halved between; depth 3 is ResNet-20.

    Args:
        depth: blocks of a stage.
        width: channels of the first stage, a multiple of ``groups``.
        groups: of each normalisation.
        classes: how many logits.
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
        """``[batch, 3, height, width]`` to logits."""
        x = nn.relu(self.norm(self.conv(x)))
        for index in range(self.count):
            x = getattr(self, f"block{index}")(x)
        return self.output(nn.global_avg_pool2d(x))
