"""The layers a private model is made of: a thin layer over ``tvm.relax.frontend.nn``.

Subclass :class:`Module`, make layers in ``__init__``, use them in ``forward``::

    class Net(nn.Module):
        def __init__(self):
            self.hidden = nn.Linear(30, 32)
            self.output = nn.Linear(32, 2)

        def forward(self, features):
            return self.output(nn.tanh(self.hidden(features)))

Every name here has a rule that keeps examples apart and one for its per-example gradient. A name that is
known but has none (batch normalisation, dropout) raises :class:`~myelin.errors.BuildError` that says what to
use instead.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

from myelin.errors import BuildError

try:
    from tvm import relax
    from tvm.relax.frontend.nn import Conv2D, Linear, Module, Parameter, Tensor, op, wrap_nested
except ImportError as missing:  # pragma: no cover
    raise BuildError(f"building a model needs TVM: install myelin[build] ({missing})") from missing

__all__ = [
    "Conv2D",
    "Linear",
    "Module",
    "Parameter",
    "Tensor",
    "avg_pool2d",
    "flatten",
    "max_pool2d",
    "relu",
    "reshape",
    "tanh",
]

_BATCH_NORM = (
    "batch normalisation mixes the examples of a batch, so no example's influence can be bounded; "
    "leave it out, scale the inputs by public ranges, or use tanh, which keeps activations bounded"
)
_NO_RULE = "it has no rule for per-example gradients in this version; {instead}"
_REFUSED = {
    "BatchNorm1D": _BATCH_NORM,
    "BatchNorm2D": _BATCH_NORM,
    "BatchNorm": _BATCH_NORM,
    "Dropout": "dropout draws random numbers in the step, and the step has none but the mechanism's; "
    "leave it out: the mechanism's noise regularises already",
    "LayerNorm": _NO_RULE.format(instead="leave it out, or use tanh"),
    "RMSNorm": _NO_RULE.format(instead="leave it out, or use tanh"),
    "GroupNorm": _NO_RULE.format(instead="leave it out, or use tanh"),
    "Embedding": _NO_RULE.format(instead="use a linear layer on one-hot features"),
    "Conv1D": _NO_RULE.format(instead="use Conv2D with a height of one"),
    "Conv3D": _NO_RULE.format(instead="use Conv2D with the depth as channels"),
    "ConvTranspose1D": _NO_RULE.format(instead="use Conv2D or Linear"),
    "Attention": _NO_RULE.format(instead="use Linear or Conv2D layers"),
    "LSTM": _NO_RULE.format(instead="use nn.flatten and a Linear layer"),
    "GELU": _NO_RULE.format(instead="use relu or tanh"),
    "SiLU": _NO_RULE.format(instead="use relu or tanh"),
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
