"""A recurrent classifier of token sequences."""

from __future__ import annotations

from typing import Any

from myelin.model import nn

__all__ = ["Lstm"]


class Lstm(nn.Module):
    """Embedded tokens through an LSTM, and a linear layer on its last state.

    Args:
        vocabulary: number of tokens.
        width: of a token's vector.
        hidden: width of the state.
        classes: how many logits.
    """

    def __init__(self, vocabulary: int = 8192, width: int = 100, hidden: int = 128, classes: int = 2) -> None:
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, tokens: Any) -> Any:
        """``[batch, length]`` to logits."""
        return self.output(nn.step(self.lstm(self.embedding(tokens)), -1))
