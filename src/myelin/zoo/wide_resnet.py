"""Wide residual networks for small images (Zagoruyko and Komodakis 2016), with group normalisation.

Private training of them: De et al. 2022, *Unlocking High-Accuracy Differentially Private Image
Classification through Scale*.
"""

from __future__ import annotations

from typing import Any

from myelin.model import nn

__all__ = ["WideResNet"]


class PreActivation(nn.Module):
    """Two 3×3 convolutions, normalisation and ReLU before each, and a shortcut: 1×1 where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2D(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv2D(outputs, outputs, 3, padding=1, bias=False)
        self.changes = stride != 1 or inputs != outputs
        if self.changes:
            self.shortcut = nn.Conv2D(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Any) -> Any:
        """``[batch, inputs, height, width]`` to ``outputs`` channels."""
        active = nn.relu(self.norm1(x))
        y = self.conv2(nn.relu(self.norm2(self.conv1(active))))
        return y + (self.shortcut(active) if self.changes else x)


class WideResNet(nn.Module):
    """Three stages of pre-activation blocks, the size halved between; depth 2 and factor 4 are WRN-16-4.

    Args:
        depth: blocks of a stage: (layers − 4) / 6.
        factor: how much wider than 16, 32 and 64 channels the stages are.
        groups: of each normalisation.
        width: channels of the first convolution, a multiple of ``groups``.
        classes: how many logits.
    """

    def __init__(
        self, depth: int = 2, factor: int = 4, groups: int = 16, width: int = 16, classes: int = 10
    ) -> None:
        self.conv = nn.Conv2D(3, width, 3, padding=1, bias=False)
        self.count = 3 * depth
        inputs = width
        for index in range(self.count):
            outputs = factor * width << (index // depth)
            stride = 2 if index and index % depth == 0 else 1
            setattr(self, f"block{index}", PreActivation(inputs, outputs, stride, groups))
            inputs = outputs
        self.norm = nn.GroupNorm(groups, inputs)
        self.output = nn.Linear(inputs, classes)

    def forward(self, x: Any) -> Any:
        """``[batch, 3, height, width]`` to logits."""
        x = self.conv(x)
        for index in range(self.count):
            x = getattr(self, f"block{index}")(x)
        return self.output(nn.global_avg_pool2d(nn.relu(self.norm(x))))
