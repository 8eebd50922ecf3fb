"""A pretrained BERT encoder as a classifier, to be adapted at low rank (Devlin et al. 2019).

Its values come from a safetensors file: numbers and names, no code. They are public: the image has them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.relax.frontend.nn import op

from myelin.errors import BuildError, InputError
from myelin.model import nn
from myelin.model.functional import apply

__all__ = ["Bert", "BertSizes", "load_bert"]

_MOST_CONFIG_BYTES = 1 << 16
_MOST_BYTES = 1 << 31
_FAR_BELOW = 1e4
"""Taken from the score of a padding token: its weight after softmax is zero in float32."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BertSizes:
    """What ``config.json`` of a BERT says, under its names there.

    Attributes:
        vocab_size: number of tokens.
        hidden_size: width of a position, a multiple of ``num_attention_heads``.
        num_hidden_layers: how many encoder layers.
        num_attention_heads: heads of each attention.
        intermediate_size: width of the feed-forward part.
        max_position_embeddings: longest sequence.
        pad_token_id: the token that fills sequences.
        layer_norm_eps: added to variances.
    """

    vocab_size: int = 30_522
    hidden_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    max_position_embeddings: int = 512
    pad_token_id: int = 0
    layer_norm_eps: float = 1e-12


class MaskedAttention(nn.MultiHeadAttention):
    """Self-attention in which no position sees padding."""

    def forward(self, x: Any, mask: Any = None) -> Any:
        """``[batch, length, width]``, and what is added to scores, ``[batch, heads, length, length]``."""
        if mask is None:
            return super().forward(x)
        batch, length, width = (int(size) for size in x.shape)
        size = width // self.heads

        def heads(part: Any, order: list[int]) -> Any:
            return op.permute_dims(op.reshape(part, [batch, length, self.heads, size]), order)

        queries, keys, values = op.split(self.inputs(x), 3, axis=-1)
        scores = op.matmul(heads(queries, [0, 2, 1, 3]), heads(keys, [0, 2, 3, 1])) * (1.0 / math.sqrt(size))
        mixed = op.matmul(apply("softmax", [op.add(scores, mask)]), heads(values, [0, 2, 1, 3]))
        return self.outputs(op.reshape(op.permute_dims(mixed, [0, 2, 1, 3]), [batch, length, width]))


class BertLayer(nn.Module):
    """Attention, then a feed-forward part, each added to its input and normalised after."""

    def __init__(self, sizes: BertSizes) -> None:
        width, epsilon = sizes.hidden_size, sizes.layer_norm_eps
        self.attention = MaskedAttention(width, sizes.num_attention_heads)
        self.norm1 = nn.LayerNorm(width, epsilon)
        self.up = nn.Linear(width, sizes.intermediate_size)
        self.down = nn.Linear(sizes.intermediate_size, width)
        self.norm2 = nn.LayerNorm(width, epsilon)

    def forward(self, x: Any, mask: Any) -> Any:
        """``[batch, length, width]`` to the same shape."""
        x = self.norm1(x + self.attention(x, mask))
        return self.norm2(x + self.down(nn.gelu(self.up(x))))


class Bert(nn.Module):
    """Embedded tokens through post-norm encoder layers, the mean of those that are not padding, normalised,
    and a linear layer.

    The mean's scale is normalised away, so padding only has to be left out of the sum. The vector of a text
    has length 1 before the output layer, which starts with zeros: neither its gradient nor that of what is
    below it then outweighs the other when both are clipped as one.

    Args:
        sizes: of the encoder.
        length: of the sequences, at most ``max_position_embeddings``; short ones are padded at their end.
        classes: how many logits.
    """

    def __init__(self, sizes: BertSizes, length: int, classes: int) -> None:
        if not 1 <= length <= sizes.max_position_embeddings:
            raise BuildError(f"Bert: length: expected 1 to {sizes.max_position_embeddings}, got {length}")
        width = sizes.hidden_size
        self.count, self.heads, self.length = sizes.num_hidden_layers, sizes.num_attention_heads, length
        self.embedding = nn.Embedding(sizes.vocab_size, width)
        self.position = nn.Position(length, width)
        self.norm = nn.LayerNorm(width, sizes.layer_norm_eps)
        self.kept = nn.freeze(nn.Embedding(sizes.vocab_size, 1))
        kept = np.ones((sizes.vocab_size, 1), np.float32)
        kept[sizes.pad_token_id] = 0
        self.kept.weight.data = kept
        # Sums and products are of values of one shape: products with ones repeat what is kept.
        self.over_width = nn.freeze(nn.Linear(1, width, bias=False))
        self.over_scores = nn.freeze(nn.Linear(1, sizes.num_attention_heads * length, bias=False))
        for repeat in (self.over_width, self.over_scores):
            repeat.weight.data = np.ones([int(size) for size in repeat.weight.shape], np.float32)
        for index in range(self.count):
            setattr(self, f"layer{index}", BertLayer(sizes))
        self.pooled = nn.LayerNorm(width, 1e-6)
        self.output = nn.Linear(width, classes)
        self.output.weight.data = np.zeros((classes, width), np.float32)

    def forward(self, tokens: Any) -> Any:
        """``[batch, length]`` to logits."""
        kept = self.kept(tokens)
        seen = nn.reshape(self.over_scores(kept), self.length, self.heads, self.length)
        mask = op.permute_dims(seen, [0, 2, 3, 1]) * _FAR_BELOW - _FAR_BELOW
        x = self.norm(self.position(self.embedding(tokens)))
        for index in range(self.count):
            x = getattr(self, f"layer{index}")(x, mask)
        pooled = self.pooled(nn.mean(x * self.over_width(kept), 1))
        return self.output(pooled * (1.0 / math.sqrt(int(pooled.shape[1]))))


def load_bert(folder: Path, length: int, classes: int) -> Bert:
    """A classifier that begins with the values of a pretrained encoder; its output layer starts with zeros.

    Args:
        folder: holds ``config.json`` and ``model.safetensors`` as the transformers library writes them.
        length: of the sequences.
        classes: how many logits.

    Raises:
        InputError: a file cannot be read, is not a BERT, or lacks a tensor or has one of another shape.
    """
    sizes = _sizes(folder / "config.json")
    model, values = Bert(sizes, length, classes), _tensors(folder / "model.safetensors")

    def put(layer: nn.Module, name: str, scale: str = "weight") -> None:
        getattr(layer, scale).data = _taken(values, f"{name}.weight", getattr(layer, scale))
        layer.bias.data = _taken(values, f"{name}.bias", layer.bias)

    model.embedding.weight.data = _taken(values, "embeddings.word_embeddings.weight", model.embedding.weight)
    whole = (sizes.max_position_embeddings, sizes.hidden_size)
    places = _shaped(values, "embeddings.position_embeddings.weight", whole)
    kinds = _shaped(values, "embeddings.token_type_embeddings.weight", (None, sizes.hidden_size))
    model.position.weight.data = places[:length] + kinds[0]  # a single text has kind 0 throughout
    put(model.norm, "embeddings.LayerNorm", "scale")
    for index in range(sizes.num_hidden_layers):
        layer, name = getattr(model, f"layer{index}"), f"encoder.layer.{index}"
        square, width = (sizes.hidden_size, sizes.hidden_size), (sizes.hidden_size,)
        for side, shape in (("weight", square), ("bias", width)):
            parts = [
                _shaped(values, f"{name}.attention.self.{p}.{side}", shape) for p in ("query", "key", "value")
            ]
            getattr(layer.attention.inputs, side).data = np.concatenate(parts)
        put(layer.attention.outputs, f"{name}.attention.output.dense")
        put(layer.norm1, f"{name}.attention.output.LayerNorm", "scale")
        put(layer.up, f"{name}.intermediate.dense")
        put(layer.down, f"{name}.output.dense")
        put(layer.norm2, f"{name}.output.LayerNorm", "scale")
    return model


def _sizes(path: Path) -> BertSizes:
    try:
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise InputError(f"{path}: more than {_MOST_CONFIG_BYTES} bytes; expected a BERT's config.json")
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from None
    wanted = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for name, value in wanted.items():
        got = found.get(name, value) if isinstance(found, Mapping) else None
        if got != value:
            raise InputError(f"{path}: {name}: expected {value!r}, got {got!r}; no other kind is known")
    sizes: dict[str, Any] = {}
    for field in fields(BertSizes):
        value = found.get(field.name, field.default)
        whole = isinstance(field.default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise InputError(f"{path}: {field.name}: expected a number, got {value!r}")
        least = 0 if field.name in ("pad_token_id", "layer_norm_eps") else 1
        if not least <= value <= 1 << 24:
            raise InputError(f"{path}: {field.name}: expected {least} to {1 << 24}, got {value!r}")
        sizes[field.name] = value
    made = BertSizes(**sizes)
    if made.hidden_size % made.num_attention_heads or made.pad_token_id >= made.vocab_size:
        raise InputError(
            f"{path}: heads do not divide the width, or the padding token is not in the vocabulary"
        )
    return made


def _tensors(path: Path) -> Mapping[str, Array]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise InputError("reading a pretrained model needs safetensors: install myelin[demo]") from None
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: more than {_MOST_BYTES} bytes")
        values: Mapping[str, Array] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from None
    return {name.removeprefix("bert."): value for name, value in values.items()}


def _shaped(values: Mapping[str, Array], name: str, shape: tuple[int | None, ...]) -> Array:
    value = values.get(name)
    if value is None:
        raise InputError(f"the model has no tensor {name}, which a BERT has")
    fits = len(value.shape) == len(shape) and all(
        want in (None, got) for want, got in zip(shape, value.shape, strict=True)
    )
    if not fits or value.dtype != np.float32 or not np.isfinite(value).all():
        expected = " × ".join("any" if size is None else str(size) for size in shape)
        raise InputError(
            f"tensor {name}: expected finite float32 {expected}, got {value.dtype} {list(value.shape)}"
        )
    return value


def _taken(values: Mapping[str, Array], name: str, parameter: nn.Parameter) -> Array:
    return _shaped(values, name, tuple(int(size) for size in parameter.shape))
