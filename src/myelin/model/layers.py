"""Layers made of several operators: normalisation, embedding, attention, recurrence; and dropout.

Each holds parameters and checks its input; what it computes is in :mod:`~myelin.model.functional`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm.relax.frontend.nn import Linear, Module, Parameter, Tensor, op

from myelin.errors import BuildError

from . import functional as f
from .adapters import freeze

__all__ = [
    "GRU",
    "LSTM",
    "Dropout",
    "Embedding",
    "FrozenBatchNorm2D",
    "GroupNorm",
    "InstanceNorm2D",
    "LayerNorm",
    "MultiHeadAttention",
    "Position",
    "RMSNorm",
]


def _require(holds: bool, layer: str, what: str, expected: str, got: object) -> None:
    if not holds:
        raise BuildError(f"nn.{layer}: {what}: expected {expected}, got {got!r}")


class LayerNorm(Module):  # type: ignore[misc]
    """Normalisation over the last axis, times a scale, plus a bias (Ba, Kiros and Hinton 2016).

    Args:
        width: of the last axis.
        epsilon: added to the variance.
    """

    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        self.width, self.epsilon = width, float(epsilon)
        self.scale, self.bias = Parameter((width,)), Parameter((width,))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, …, width]`` to the same shape."""
        shape = f.shape_of(x)
        _require(shape[-1] == self.width, "LayerNorm", "its input", f"[batch, …, {self.width}]", shape)
        return f.layer_norm(x, self.scale, self.bias, self.epsilon)


class GroupNorm(Module):  # type: ignore[misc]
    """Normalisation of each group of channels of an image, times a scale, plus a bias (Wu and He 2018).

    Args:
        groups: that the channels are cut into.
        channels: of the input, a multiple of ``groups``.
        epsilon: added to the variance.
    """

    def __init__(self, groups: int, channels: int, epsilon: float = 1e-5) -> None:
        _require(
            groups >= 1 and channels % groups == 0,
            "GroupNorm",
            "channels",
            f"a multiple of {groups}",
            channels,
        )
        self.groups, self.channels, self.epsilon = groups, channels, float(epsilon)
        self.scale, self.bias = Parameter((channels,)), Parameter((channels,))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to the same shape."""
        shape = f.shape_of(x)
        _require(
            len(shape) == 4 and shape[1] == self.channels,
            "GroupNorm",
            "its input",
            f"[batch, {self.channels}, height, width]",
            shape,
        )
        return f.group_norm(x, self.groups, self.scale, self.bias, self.epsilon)


class RMSNorm(Module):  # type: ignore[misc]
    """Division by the root mean square of the last axis, times a scale (Zhang and Sennrich 2019).

    Args:
        width: of the last axis.
        epsilon: added to the mean square.
    """

    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        self.width, self.epsilon = width, float(epsilon)
        self.scale = Parameter((width,))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, …, width]`` to the same shape."""
        shape = f.shape_of(x)
        _require(shape[-1] == self.width, "RMSNorm", "its input", f"[batch, …, {self.width}]", shape)
        return f.rms_norm(x, self.scale, self.epsilon)


class InstanceNorm2D(GroupNorm):
    """Normalisation of each channel of an image by itself, times a scale, plus a bias (Ulyanov et al. 2016).

    Args:
        channels: of the input.
        epsilon: added to the variance.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__(channels, channels, epsilon)


class FrozenBatchNorm2D(Module):  # type: ignore[misc]
    """Batch normalisation by statistics that are known and public: a scale and a shift of each channel.

    ``y = (x − mean) / √(variance + epsilon)``, times a trained scale, plus a trained bias. Nothing of the
    batch is in it, so examples stay apart. The statistics must not come from the private data, or be released
    from them under a privacy budget of their own: they are in the image.

    Args:
        mean: of each channel.
        variance: of each channel.
        epsilon: added to the variance.
    """

    def __init__(self, mean: Sequence[float], variance: Sequence[float], epsilon: float = 1e-5) -> None:
        means, variances = (np.asarray(value, np.float64) for value in (mean, variance))
        fits = means.ndim == 1 and means.shape == variances.shape and bool((variances >= 0).all())
        _require(fits, "FrozenBatchNorm2D", "mean and variance", "a number per channel", (mean, variance))
        self.channels = len(means)
        factor = 1.0 / np.sqrt(variances + float(epsilon))
        self.factor, self.shift = freeze(Parameter((self.channels,))), freeze(Parameter((self.channels,)))
        self.factor.data, self.shift.data = factor.astype(np.float32), (-means * factor).astype(np.float32)
        self.scale, self.bias = Parameter((self.channels,)), Parameter((self.channels,))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to the same shape."""
        shape = f.shape_of(x)
        fits = len(shape) == 4 and shape[1] == self.channels
        expected = f"[batch, {self.channels}, height, width]"
        _require(fits, "FrozenBatchNorm2D", "its input", expected, shape)
        return f.fixed_norm(x, self.factor, self.shift, self.scale, self.bias)


class Dropout(Module):  # type: ignore[misc]
    """Zeros for a share of the elements in training, each example's its own (Srivastava et al. 2014).

    The enclave draws who is kept, under a key of the job's (:func:`myelin.model.functional.dropout`).

    Args:
        rate: probability of a zero; 0 does nothing.
    """

    def __init__(self, rate: float = 0.5) -> None:
        _require(0.0 <= rate < 1.0, "Dropout", "rate", "at least 0 and below 1", rate)
        self.rate = float(rate)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, …]`` to the same shape."""
        return f.dropout(x, self.rate)


class Embedding(Module):  # type: ignore[misc]
    """A learned vector for each token.

    Tokens come as float32, whole numbers from 0: what is after the point is cut off, and a token outside of
    the vocabulary, or NaN, reads the nearest row, or the first one. Nothing is read out of bounds.
    The processor touches the rows that tokens name: ``THREAT_MODEL.md`` says who could see that.

    A padding token stands for zeros: its row of the table is neither read nor has a gradient, so nothing of
    the data is ever in it. Like every coordinate it gets noise and the optimizer's update, so the released
    row is of noise alone. (With :meth:`logits` it is a row like any other there.)

    Args:
        vocabulary: number of tokens, at most 2²⁴, up to where float32 has every whole number.
        width: of a vector.
        padding: the token that stands for zeros, if one does.
    """

    def __init__(self, vocabulary: int, width: int, padding: int | None = None) -> None:
        _require(1 <= vocabulary <= 1 << 24, "Embedding", "vocabulary", "1 to 2**24", vocabulary)
        _require(
            padding is None or 0 <= padding < vocabulary,
            "Embedding",
            "padding",
            f"a token below {vocabulary}",
            padding,
        )
        self.weight, self.padding = Parameter((vocabulary, width)), padding

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, length]`` to ``[batch, length, width]``."""
        shape = f.shape_of(tokens)
        _require(len(shape) == 2, "Embedding", "its input", "[batch, length]", shape)
        return f.embedding(self.weight, tokens, self.padding)

    def logits(self, x: Tensor) -> Tensor:
        """``x Wᵀ``, ``[batch, …, width]`` to ``[batch, …, vocabulary]``: the table as output layer.

        The table's gradient is the sum over both uses (Press and Wolf 2017). Each example's is kept as a
        table, which takes ``microbatch · vocabulary · width`` numbers.
        """
        width = int(self.weight.shape[1])
        shape = f.shape_of(x)
        _require(shape[-1] == width, "Embedding", "what it makes logits of", f"[batch, …, {width}]", shape)
        return f.linear(x, self.weight)


class Position(Module):  # type: ignore[misc]
    """A learned value for each place of an example, added to it: ``x + weight``.

    Args:
        shape: of an example, without the batch; ``(length, width)`` for a sequence.
    """

    def __init__(self, *shape: int) -> None:
        _require(len(shape) >= 2, "Position", "its shape", "at least two axes", shape)
        self.weight = Parameter(shape)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, *shape]`` to the same shape."""
        shape = tuple(int(size) for size in self.weight.shape)
        _require(f.shape_of(x)[1:] == shape, "Position", "its input", f"[batch, *{shape}]", f.shape_of(x))
        return op.add(x, self.weight)


class MultiHeadAttention(Module):  # type: ignore[misc]
    """Self-attention of a sequence, each head scaled by 1/√(width of a head) (Vaswani et al. 2017).

    One product makes queries, keys and values. No mask: every position sees every other of its example.
    With ``key_heads``, that many heads of keys and values each serve a group of query heads that follow one
    another (Ainslie et al. 2023).

    Args:
        width: of a position, a multiple of ``heads``.
        heads: number of heads.
        bias: whether the projections have one.
        key_heads: heads of keys and values, a divisor of ``heads``, by default as many.
        dropout: rate at which attention's weights are dropped after the softmax, as :class:`Dropout` drops
            values.
    """

    def __init__(
        self, width: int, heads: int, bias: bool = True, key_heads: int | None = None, dropout: float = 0.0
    ) -> None:
        shared = heads if key_heads is None else key_heads
        _require(
            heads >= 1 and width % heads == 0, "MultiHeadAttention", "width", f"a multiple of {heads}", width
        )
        _require(
            shared >= 1 and heads % shared == 0,
            "MultiHeadAttention",
            "key_heads",
            f"a divisor of {heads}",
            key_heads,
        )
        f.threshold_of(dropout)
        self.width, self.heads, self.key_heads, self.dropout = width, heads, shared, dropout
        self.inputs = Linear(width, width + 2 * shared * (width // heads), bias=bias)
        self.outputs = Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, length, width]`` to the same shape."""
        shape = f.shape_of(x)
        _require(
            len(shape) == 3 and shape[2] == self.width,
            "MultiHeadAttention",
            "its input",
            f"[batch, length, {self.width}]",
            shape,
        )
        batch, length, width = shape
        size = width // self.heads

        def apart(part: Tensor, heads: int) -> Tensor:
            return f.transpose(op.reshape(part, [batch, length, heads, size]), 1, 2)

        ends = [width, width + self.key_heads * size]
        queries, keys, values = op.split(self.inputs(x), ends, axis=-1)
        mixed = f.attention(
            apart(queries, self.heads),
            apart(keys, self.key_heads),
            apart(values, self.key_heads),
            rate=self.dropout,
        )
        return self.outputs(op.reshape(f.transpose(mixed, 1, 2), [batch, length, width]))


class GRU(Module):  # type: ignore[misc]
    """A gated recurrent unit over a sequence (Cho et al. 2014), gates in the order reset, update, new.

    As in PyTorch the reset gate multiplies the recurrent product with its bias, so there are two biases. The
    state starts at zero.

    Args:
        inputs: width of a position.
        hidden: width of the state.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        self.inputs = Linear(inputs, 3 * hidden)
        self.recurrent, self.recurrent_bias = Parameter((3 * hidden, hidden)), Parameter((3 * hidden,))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, length, inputs]`` to the hidden states, ``[batch, length, hidden]``."""
        shape = f.shape_of(x)
        _require(len(shape) == 3, "GRU", "its input", "[batch, length, inputs]", shape)
        return f.gru(self.inputs(x), self.recurrent, self.recurrent_bias)


class LSTM(Module):  # type: ignore[misc]
    """A recurrent layer over a sequence (Hochreiter and Schmidhuber 1997, with forget gates).

    Gates in the order input, forget, cell, output; the state starts at zero. One bias per gate.

    Args:
        inputs: width of a position.
        hidden: width of the state.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        self.inputs = Linear(inputs, 4 * hidden)
        self.recurrent = Parameter((4 * hidden, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, length, inputs]`` to the hidden states, ``[batch, length, hidden]``."""
        shape = f.shape_of(x)
        _require(len(shape) == 3, "LSTM", "its input", "[batch, length, inputs]", shape)
        return f.lstm(self.inputs(x), self.recurrent)
