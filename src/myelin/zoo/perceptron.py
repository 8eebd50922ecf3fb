"""Perceptrons of several layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from myelin.errors import BuildError
from myelin.model import nn

__all__ = ["Perceptron"]


class Perceptron(nn.Module):
    """Linear layers with ReLU or tanh between.

    Args:
        widths: of features, of each hidden layer, of logits.
        activation: ``"relu"`` or ``"tanh"``.
    """

    def __init__(self, widths: Sequence[int] = (784, 1024, 1024, 10), activation: str = "relu") -> None:
        if activation not in ("relu", "tanh"):
            raise BuildError(f'Perceptron: activation: expected "relu" or "tanh", got {activation!r}')
        self.count, self.activation = len(widths) - 1, activation
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            setattr(self, f"layer{index}", nn.Linear(inputs, outputs))

    def forward(self, x: Any) -> Any:
        """``[batch, features]`` to logits."""
        active = nn.relu if self.activation == "relu" else nn.tanh
        for index in range(self.count):
            x = getattr(self, f"layer{index}")(x if index == 0 else active(x))
        return x
