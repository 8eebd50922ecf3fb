"""A vision transformer for small images (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from typing import Any

from tvm.relax.frontend.nn import op

from myelin.errors import BuildError
from myelin.model import nn

from .transformer import Encoder

__all__ = ["VisionTransformer"]


class VisionTransformer(nn.Module):
    """Patches with learned positions through encoder layers, normalised, their mean, and a linear layer.

    The mean stands for the class token (Beyer et al. 2022, *Better plain ViT baselines for ImageNet-1k*).

    Args:
        size: height and width of the images, a multiple of ``patch``.
        patch: height and width of a patch.
        channels: of the images.
        layers: how many encoder layers.
        width: of a position, a multiple of ``heads``.
        heads: of each attention.
        hidden: width of the feed-forward part.
        classes: how many logits.
    """

    def __init__(
        self,
        size: int = 32,
        patch: int = 4,
        channels: int = 3,
        layers: int = 6,
        width: int = 192,
        heads: int = 3,
        hidden: int = 768,
        classes: int = 10,
    ) -> None:
        if size % patch:
            raise BuildError(f"VisionTransformer: size: expected a multiple of {patch}, got {size}")
        self.count, self.width, self.places = layers, width, (size // patch) ** 2
        self.patches = nn.Conv2D(channels, width, patch, stride=patch)
        self.position = nn.Position(self.places, width)
        for index in range(layers):
            setattr(self, f"layer{index}", Encoder(width, heads, hidden))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, classes)

    def forward(self, x: Any) -> Any:
        """``[batch, channels, size, size]`` to logits."""
        x = op.permute_dims(nn.reshape(self.patches(x), self.width, self.places), [0, 2, 1])
        x = self.position(x)
        for index in range(self.count):
            x = getattr(self, f"layer{index}")(x)
        return self.output(nn.mean(self.norm(x), 1))
