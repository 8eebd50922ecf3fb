"""A node of an ONNX graph, and what its rules read of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.relax.frontend.nn import Parameter, Tensor

from myelin.errors import BuildError

__all__ = ["Node", "axis_of", "number_of", "numbers", "optional", "weight"]


@dataclass(frozen=True)
class Node:
    """What a rule needs of a node.

    Attributes:
        kind: the operator.
        name: of the node.
        attributes: its attributes, by name.
    """

    kind: str
    name: str
    attributes: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or ``default``."""
        return self.attributes.get(name, default)

    def require(self, name: str, *allowed: Any) -> None:
        """Refuse an attribute of another value than the first of ``allowed``, which is the default."""
        value = self.get(name, allowed[0])
        value = value.decode() if isinstance(value, bytes) else value
        if value not in allowed:
            raise BuildError(f"{name} = {value!r} has no rule; expected {' or '.join(map(repr, allowed))}")


def numbers(value: Any, what: str) -> list[int]:
    """Whole numbers of a constant."""
    if not isinstance(value, np.ndarray):
        raise BuildError(f"its {what} must be a constant")
    return [int(number) for number in value.reshape(-1)]


def number_of(value: Any) -> float | None:
    """The number that a constant is, if it is one."""
    return float(value.reshape(())) if isinstance(value, np.ndarray) and value.size == 1 else None


def axis_of(x: Tensor, axis: int) -> int:
    """An axis, counted from the first."""
    return int(axis) % len(x.shape)


def weight(value: Any, what: str = "weight") -> Parameter:
    """A parameter.

    Raises:
        BuildError: it is something else.
    """
    if not isinstance(value, Parameter):
        raise BuildError(f"its {what} must be a parameter of the file")
    return value


def optional(value: Any) -> Parameter | None:
    """A bias, or None."""
    return None if value is None else weight(value, "bias")
