"""The network of the tutorials on MNIST."""

from __future__ import annotations

from typing import Any

from myelin.errors import BuildError
from myelin.model import nn

__all__ = ["MnistCnn"]


class MnistCnn(nn.Module):
    """The two-convolution network of the Opacus and TensorFlow Privacy tutorials: 26,010 parameters.

    Args:
        classes: how many logits.
        activation: ``"relu"``, or ``"tanh"`` as in Papernot et al. 2021 (*Tempered Sigmoid Activations*): it
            keeps gradients small, so that less of them is clipped.
    """

    def __init__(self, classes: int = 10, activation: str = "relu") -> None:
        if activation not in ("relu", "tanh"):
            raise BuildError(f'MnistCnn: activation: expected "relu" or "tanh", got {activation!r}')
        self.activation = activation
        self.conv1 = nn.Conv2D(1, 16, 8, stride=2, padding=3)
        self.conv2 = nn.Conv2D(16, 32, 4, stride=2)
        self.hidden = nn.Linear(512, 32)
        self.output = nn.Linear(32, classes)

    def forward(self, features: Any) -> Any:
        """``[batch, 1, 28, 28]`` to logits."""
        active = nn.relu if self.activation == "relu" else nn.tanh
        x = nn.max_pool2d(active(self.conv1(features)), 2, 1)
        x = nn.max_pool2d(active(self.conv2(x)), 2, 1)
        return self.output(active(self.hidden(nn.flatten(x))))
