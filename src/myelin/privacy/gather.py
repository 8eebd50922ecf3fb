"""How a step's records are read: where they lie, or brought to their slots, so that memory does not tell who.

Brought to their slots, every record takes part in the same exchanges whether it was drawn or not
(``enclave/mechanism/src/gather.rs``). That costs by the dataset's bytes, not by the batch's, so it is cheap
for a few thousand records beside a large model, and dear for many records beside a small one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .cost import FLOPS_PER_S, Choice

if TYPE_CHECKING:
    from .plan import DpPlan

__all__ = ["MOST_SHARE", "gather_seconds", "is_cheap", "step_seconds"]

MOST_SHARE = 0.05
"""Of a step's time: up to this much the oblivious gather is the default."""

_LINE_BYTES = 32
_EXCHANGE_S = 6e-9
"""Of one line of a record in one stage of exchanges, measured (docs/side-channels.md)."""
_MOVE_S = 10e-9
"""Of one line on its way into a block and out of it."""
_COORDINATE_S = 5e-9
"""Of one coordinate's noise, sum and update."""


def gather_seconds(records: int, record_bytes: int, capacity: int) -> float:
    """Nominal time of one step's oblivious gather, on one core; the host's other threads do not help."""
    stages = max(1, (capacity - 1).bit_length())
    lines = -(-record_bytes // _LINE_BYTES)
    return records * lines * (stages * _EXCHANGE_S + _MOVE_S)


def step_seconds(table: Sequence[Choice], parameters: int, slots: int) -> float:
    """Nominal time of one step's arithmetic on one core, no more than it takes: three products for each
    layer, what its private gradient costs over the plain one, the noise; neither activations nor calls.

    Args:
        table: of a private graph.
        parameters: coordinates noised in each step.
        slots: of all physical batches.
    """
    example = sum(
        3 * choice.plain.flops / FLOPS_PER_S
        + max(0.0, choice.costs[choice.strategy].seconds - choice.plain.seconds)
        for choice in table
    )
    return slots * example + parameters * _COORDINATE_S


def is_cheap(plan: DpPlan, record_bytes: int, table: Sequence[Choice], parameters: int) -> bool:
    """Whether the oblivious gather takes less than :data:`MOST_SHARE` of a step, by these estimates."""
    slots = plan.physical_batches * plan.microbatch
    step = step_seconds(table, parameters, slots)
    gather = gather_seconds(plan.dataset_size, record_bytes, plan.capacity)
    return gather < MOST_SHARE * step
