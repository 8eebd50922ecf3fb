"""Parameters that are not trained, and small trained adapters beside them."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from tvm.relax.frontend.nn import Linear, Module, Parameter, Tensor, op

from myelin.errors import BuildError

__all__ = ["LoRA", "freeze", "is_frozen"]

_FROZEN = "myelin.frozen"
_Part = TypeVar("_Part", Module, Parameter)


def freeze(part: _Part) -> _Part:
    """Make a parameter, or all parameters of a module, constants, and give it back.

    A frozen parameter has no gradient: it is not clipped, not noised, not updated and not released. Its
    values are in the measured image, where everyone can read them: they must be public. They are those that
    were set (``parameter.data = array``), or drawn as initial values are.
    """
    for parameter in (part,) if isinstance(part, Parameter) else (p for _, p in part.named_parameters()):
        parameter.attrs[_FROZEN] = True
    return part


def is_frozen(parameter: Parameter) -> bool:
    """Whether a parameter was given to :func:`freeze`."""
    return bool(parameter.attrs.get(_FROZEN, False))


class LoRA(Module):  # type: ignore[misc]
    """A frozen linear layer and a trained adapter of low rank beside it (Hu et al. 2022).

    ``y = linear(x) + (alpha / rank) · x Aᵀ Bᵀ`` with A ``[rank, in]`` drawn and B ``[out, rank]`` zero at
    first, so that training begins with the linear layer as it is. Only A and B are trained, noised and
    released.

    Args:
        linear: is frozen, its bias too.
        rank: of the adapter.
        alpha: its scale, times ``rank``.
    """

    def __init__(self, linear: Linear, rank: int, alpha: float = 1.0) -> None:
        outputs, inputs = (int(size) for size in linear.weight.shape)
        if not 1 <= rank <= min(inputs, outputs):
            raise BuildError(f"nn.LoRA: rank: expected 1 to {min(inputs, outputs)}, got {rank!r}")
        self.base, self.factor = freeze(linear), float(alpha) / rank
        self.down, self.up = Parameter((rank, inputs)), Parameter((outputs, rank))
        self.up.data = np.zeros((outputs, rank), np.float32)

    def forward(self, x: Tensor) -> Any:
        """``[batch, …, in]`` to ``[batch, …, out]``."""
        low = op.matmul(x, op.permute_dims(self.down))
        return self.base(x) + op.matmul(low, op.permute_dims(self.up)) * self.factor
