"""Room 3: TrainingGraph + DpPlan → PrivateGraph; and what the plan is worth: events, accountant, sampler, noise.

The plan, its event and the accountant need no compiler. Names that do are loaded when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cost import Choice, Cost
    from .plan import DpPlan
    from .private_graph import PrivateGraph, make_private
    from .sensitivity import sensitivity_bound, sensitivity_e9

__all__ = [  # noqa: RUF022  (plain order, as everywhere)
    "Choice",
    "Cost",
    "DpPlan",
    "PrivateGraph",
    "make_private",
    "sensitivity_bound",
    "sensitivity_e9",
]

_HOMES = {
    "Choice": "cost",
    "Cost": "cost",
    "DpPlan": "plan",
    "PrivateGraph": "private_graph",
    "make_private": "private_graph",
    "sensitivity_bound": "sensitivity",
    "sensitivity_e9": "sensitivity",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the file that has it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'myelin.privacy' has no attribute {name!r}")
    return getattr(import_module(f"myelin.privacy.{_HOMES[name]}"), name)
