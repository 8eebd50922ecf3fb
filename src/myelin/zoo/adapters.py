"""Low-rank adapters for every attention of a model (Hu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from myelin.errors import BuildError
from myelin.model import nn

__all__ = ["add_adapters"]

_Model = TypeVar("_Model", bound=nn.Module)


def add_adapters(model: _Model, rank: int, alpha: float = 1.0, train: Sequence[str] = ("output",)) -> _Model:
    """Freeze a model, put an adapter beside both products of each attention, and give the model back.

    Queries, keys and values come from one product, so they have one adapter: its first factor is shared. The
    frozen values are in the measured image, where everyone can read them: they must be public.

    Args:
        model: any whose attentions are :class:`myelin.model.nn.MultiHeadAttention`.
        rank: of each adapter.
        alpha: scale of each adapter, times ``rank``.
        train: attributes of the model that are trained as they are: a new output layer.

    Raises:
        BuildError: the model has no attention, has adapters already, or has no such attribute.
    """
    for name in train:
        if not isinstance(getattr(model, name, None), nn.Module):
            raise BuildError(f"add_adapters: train: {type(model).__name__} has no layer {name!r}")
    found = {id(attention): attention for attention in _attentions(model)}.values()
    if not found:
        raise BuildError(f"add_adapters: {type(model).__name__} has no nn.MultiHeadAttention to adapt")
    if any(isinstance(attention.inputs, nn.LoRA) for attention in found):
        raise BuildError(f"add_adapters: {type(model).__name__} has adapters already")
    trained = {id(p) for name in train for _, p in getattr(model, name).named_parameters()}
    for _, parameter in model.named_parameters():
        if id(parameter) not in trained:
            nn.freeze(parameter)
    for attention in found:
        attention.inputs = nn.LoRA(attention.inputs, rank, alpha)
        attention.outputs = nn.LoRA(attention.outputs, rank, alpha)
    return model


def _attentions(module: nn.Module) -> list[nn.MultiHeadAttention]:
    """Every attention inside a module, in the order of its attributes."""
    if isinstance(module, nn.MultiHeadAttention):
        return [module]
    inner = (part for part in vars(module).values() if isinstance(part, nn.Module))
    return [attention for part in inner for attention in _attentions(part)]
