"""The layers a private model is made of: a thin layer over ``tvm.relax.frontend.nn``.

Subclass :class:`Module`, make layers in ``__init__``, use them in ``forward``::

    class Net(nn.Module):
        def __init__(self):
            self.hidden = nn.Linear(30, 32)
            self.output = nn.Linear(32, 2)

        def forward(self, features):
            return self.output(nn.tanh(self.hidden(features)))

Every name here has a rule that keeps examples apart and one for its per-example gradient. A name that is
known but has none (batch normalisation) raises :class:`~myelin.errors.BuildError` that says what to
use instead.

A layer may be used at several places, and a parameter by several layers (``self.output.weight =
self.table.weight``): it then has one gradient, summed over the uses. A parameter whose ``data`` is set starts
with that; :func:`freeze` makes parameters constants.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

from myelin.errors import BuildError

try:
    from tvm import relax
    from tvm.relax.frontend.nn import Conv2D, Linear, Module, Parameter, Tensor, op, wrap_nested

    from .adapters import LoRA, freeze
    from .convolutions import Conv1D, ConvTranspose1D, ConvTranspose2D
    from .functional import apply, dropout
    from .layers import (
        GRU,
        LSTM,
        Dropout,
        Embedding,
        FrozenBatchNorm2D,
        GroupNorm,
        InstanceNorm2D,
        LayerNorm,
        MultiHeadAttention,
        Position,
        RMSNorm,
    )
except ImportError as missing:  # pragma: no cover
    raise BuildError(f"building a model needs TVM: install myelin[build] ({missing})") from missing

__all__ = [
    "GRU",
    "LSTM",
    "Conv1D",
    "Conv2D",
    "ConvTranspose1D",
    "ConvTranspose2D",
    "Dropout",
    "Embedding",
    "FrozenBatchNorm2D",
    "GroupNorm",
    "InstanceNorm2D",
    "LayerNorm",
    "Linear",
    "LoRA",
    "Module",
    "MultiHeadAttention",
    "Parameter",
    "Position",
    "RMSNorm",
    "Tensor",
    "avg_pool2d",
    "dropout",
    "flatten",
    "freeze",
    "gelu",
    "global_avg_pool2d",
    "max_pool2d",
    "mean",
    "relu",
    "reshape",
    "sigmoid",
    "silu",
    "softmax",
    "step",
    "tanh",
    "transposed",
]

_BATCH_NORM = (
    "batch normalisation mixes the examples of a batch, so no example's influence can be bounded; "
    "use nn.GroupNorm or nn.LayerNorm, which stay inside an example, or nn.FrozenBatchNorm2D with statistics "
    "that are public"
)
_NO_RULE = "it has no rule for per-example gradients in this version; {instead}"
_REFUSED = {
    "BatchNorm1D": _BATCH_NORM,
    "BatchNorm2D": _BATCH_NORM,
    "BatchNorm": _BATCH_NORM,
    "Conv3D": _NO_RULE.format(instead="use Conv2D with the depth as channels"),
    "Attention": _NO_RULE.format(instead="use nn.MultiHeadAttention"),
    "GELU": _NO_RULE.format(instead="use the function nn.gelu"),
    "SiLU": _NO_RULE.format(instead="use the function nn.silu"),
}


def __getattr__(name: str) -> NoReturn:
    """Refuse by name what cannot be made private."""
    if name in _REFUSED:
        raise BuildError(f"nn.{name} cannot be made private: {_REFUSED[name]}")
    raise AttributeError(f"module 'myelin.model.nn' has no layer {name!r}; it has {', '.join(__all__)}")


def relu(x: Tensor) -> Tensor:
    """Elementwise ``max(x, 0)``; its derivative at 0 is 0."""
    return op.relu(x)


def tanh(x: Tensor) -> Tensor:
    """Elementwise hyperbolic tangent."""
    return op.tanh(x)


def sigmoid(x: Tensor) -> Tensor:
    """Elementwise ``1 / (1 + e⁻ˣ)``."""
    return op.sigmoid(x)


def silu(x: Tensor) -> Tensor:
    """Elementwise ``x·σ(x)`` (Elfwing, Uchibe and Doya 2018)."""
    return op.multiply(x, op.sigmoid(x))


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Elementwise ``x·Φ(x)``, Φ the normal distribution's function (Hendrycks and Gimpel 2016).

    With ``approximate="tanh"`` it is ``x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))``, another function, which
    differs by up to 5·10⁻⁴. As computed in float32 either is within 4·10⁻⁷·|x| of its exact value, and its
    derivative within 2·10⁻⁶.

    Raises:
        BuildError: ``approximate`` is neither ``"none"`` nor ``"tanh"``.
    """
    if approximate not in ("none", "tanh"):
        raise BuildError(f'nn.gelu: approximate: expected "none" or "tanh", got {approximate!r}')
    result: Tensor = apply("gelu", [x], approximate=approximate)
    return result


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis, within an example."""
    if len(x.shape) < 2:
        raise BuildError(f"nn.softmax: expected an axis beside the batch, got shape {list(x.shape)}")
    result: Tensor = apply("softmax", [x])
    return result


def reshape(x: Tensor, *shape: int) -> Tensor:
    """Give each example the shape ``shape``; the batch axis stays as it is."""
    return op.reshape(x, [x.shape[0], *shape])


def flatten(x: Tensor) -> Tensor:
    """Make each example a vector, row-major: ``[batch, …]`` to ``[batch, features]``."""
    return reshape(x, math.prod(int(size) for size in x.shape[1:]))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _pool2d(kind: str, x: Tensor, size: Any, stride: Any, padding: Any) -> Tensor:
    function = getattr(relax.op.nn, kind)
    strides = _pair(size if stride is None else stride)
    return wrap_nested(function(x._expr, _pair(size), strides, _pair(padding)), kind)


def max_pool2d(
    x: Tensor,
    size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
) -> Tensor:
    """Largest value of each window, NCHW; ``stride`` is ``size`` unless given."""
    return _pool2d("max_pool2d", x, size, stride, padding)


def avg_pool2d(
    x: Tensor,
    size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
) -> Tensor:
    """Mean of each window, NCHW, padding not counted; ``stride`` is ``size`` unless given."""
    return _pool2d("avg_pool2d", x, size, stride, padding)


def global_avg_pool2d(x: Tensor) -> Tensor:
    """Mean of each channel over height and width: ``[batch, channels, height, width]`` to two axes."""
    return mean(x, (2, 3))


def mean(x: Tensor, axis: int | tuple[int, ...]) -> Tensor:
    """Mean over axes of each example, which go away; the first axis, the batch, cannot be one of them.

    Raises:
        BuildError: the batch, or an axis that there is not, is named.
    """
    rank = len(x.shape)
    axes = sorted(
        {number + rank if number < 0 else number for number in ((axis,) if isinstance(axis, int) else axis)}
    )
    if not axes or axes[0] < 1 or axes[-1] >= rank:
        raise BuildError(f"nn.mean: axis: expected axes from 1 to {rank - 1} (0 is the batch), got {axis}")
    count = math.prod(int(x.shape[number]) for number in axes)
    return op.sum(x, axis=axes) * (1.0 / count)


def transposed(layer: Linear, x: Tensor) -> Tensor:
    """``x W``, from the width of a linear layer's output to that of its input, without its bias.

    With the layer itself before it: an autoencoder of one weight.

    Raises:
        BuildError: ``x`` is not as wide as the layer's output.
    """
    outputs, inputs = (int(size) for size in layer.weight.shape)
    if int(x.shape[-1]) != outputs:
        raise BuildError(
            f"nn.transposed: expected [batch, …, {outputs}] for a weight of {outputs}×{inputs}, "
            f"got {list(x.shape)}"
        )
    return op.matmul(x, layer.weight)


def step(x: Tensor, index: int) -> Tensor:
    """One position of each sequence: ``[batch, length, width]`` to ``[batch, width]``; −1 is the last.

    Raises:
        BuildError: no such position.
    """
    if len(x.shape) != 3 or not -int(x.shape[1]) <= index < int(x.shape[1]):
        raise BuildError(
            f"nn.step: expected a position of [batch, length, width], got {index} of {list(x.shape)}"
        )
    result: Tensor = apply("sequence_step", [x], index=index % int(x.shape[1]))
    return result
