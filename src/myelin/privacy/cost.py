"""The cost model that chooses, per layer, how per-example norms and the clipped sum are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Choice", "Cost", "format_table"]

FLOPS_PER_S = 50e9
"""Nominal arithmetic of one core."""
BYTES_PER_S = 20e9
"""Nominal memory traffic of one core."""


@dataclass(frozen=True)
class Cost:
    """What one layer's gradient costs, per example: with privacy its norm and its part of the clipped sum.

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
        plain: of the gradient summed over the batch, which training without privacy computes.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    positions: int
    strategy: str
    costs: dict[str, Cost]
    plain: Cost = field(default=Cost(0, 0))


def format_table(choices: Sequence[Choice]) -> str:
    """The table of layers as text, a line each: what was chosen, what it costs an example, what else would.

    Columns: parameter, kind, shape, positions, the strategy, its arithmetic (thousand FLOP) and traffic
    (thousand bytes), its nominal time over the plain gradient's (microseconds), and the same of the
    strategies that were not chosen.
    """
    head = ("parameter", "kind", "shape", "positions", "strategy", "kFLOP", "kB", "over plain", "instead")
    rows = [head, *(_row(choice) for choice in choices)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    left = {0, 1, 2, 4, 8}
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(choice: Choice) -> tuple[str, ...]:
    cost = choice.costs[choice.strategy]
    others = [
        f"{name} {_over(other, choice.plain)}"
        for name, other in sorted(choice.costs.items())
        if name != choice.strategy
    ]
    return (
        choice.name,
        choice.kind,
        "×".join(str(size) for size in choice.shape),
        str(choice.positions),
        choice.strategy,
        _thousands(cost.flops),
        _thousands(cost.bytes),
        _over(cost, choice.plain),
        ", ".join(others),
    )


def _thousands(count: int) -> str:
    return f"{math.ceil(count / 1000):,}"


def _over(cost: Cost, plain: Cost) -> str:
    return f"{(cost.seconds - plain.seconds) * 1e6:+.2f} µs"
