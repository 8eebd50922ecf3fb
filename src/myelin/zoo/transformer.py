"""A transformer encoder that classifies token sequences."""

from __future__ import annotations

from typing import Any

from myelin.model import nn

__all__ = ["Encoder", "Transformer"]


class Encoder(nn.Module):
    """One pre-norm transformer layer: attention, then a feed-forward part, each added to its input.

    Args:
        width: of a position, a multiple of ``heads``.
        heads: of the attention.
        hidden: width of the feed-forward part.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiHeadAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Any) -> Any:
        """``[batch, length, width]`` to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(nn.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Embedded tokens with learned positions through encoder layers, their mean, and a linear layer.

    Args:
        layers: how many encoder layers.
        width: of a position, a multiple of ``heads``.
        heads: of each attention.
        hidden: width of the feed-forward part.
        length: of a sequence.
        vocabulary: number of tokens.
        classes: how many logits.
        final_norm: normalise the last encoder layer's output, as pre-norm transformers often do.
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
        """``[batch, length]`` to logits."""
        x = self.position(self.embedding(tokens))
        for index in range(self.count):
            x = getattr(self, f"layer{index}")(x)
        return self.output(nn.mean(self.norm(x) if self.final_norm else x, 1))
