"""The cost model that chooses, per layer, how per-example norms and the clipped sum are computed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Choice", "Cost"]

FLOPS_PER_S = 50e9
"""Nominal arithmetic of one core."""
BYTES_PER_S = 10e9
"""Nominal memory traffic of one core."""


@dataclass(frozen=True)
class Cost:
    """What privacy asks of one layer, per example: norm, and the layer's part of the clipped sum.

    Attributes:
        flops: arithmetic, two for a multiply-add.
        bytes: moved to and from memory, each value once per kernel that touches it.
    """

    flops: int
    bytes: int

    @property
    def seconds(self) -> float:
        """Time on a nominal core: arithmetic, then traffic, which orders strategies well enough."""
        return self.flops / FLOPS_PER_S + self.bytes / BYTES_PER_S


@dataclass(frozen=True)
class Choice:
    """One row of the table that ``inspect`` prints.

    Attributes:
        name: of the parameter.
        kind: of the layer.
        shape: of the parameter.
        positions: places that one example uses the parameter at (1 for a dense layer on a vector).
        strategy: the chosen one: ``"ghost"`` (norm from the factors) or ``"keep"`` (per-example gradient
            kept).
        costs: of every strategy that the layer has, by name.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    positions: int
    strategy: str
    costs: dict[str, Cost]
