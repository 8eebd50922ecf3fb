"""The clipping rules that a plan can name: how an example's gradient is made no longer than its bound.

A rule is part of the mechanism, so the event names it: an array of its name and its numbers, real ones in
units of 1e-9 (:data:`RULES`). Whatever the rule, an example adds a vector of at most the event's clipping
norm to a step's sum; :mod:`myelin.privacy.clipping_kernels` proves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from myelin.errors import InputError

__all__ = [
    "MOST_NUMBERS",
    "RULES",
    "AutomaticClipping",
    "ClippingRule",
    "Executed",
    "FlatClipping",
    "check_executed",
]

Executed: TypeAlias = tuple[str | int, ...]
"""A rule as plan and event carry it: its name, then its numbers."""

MOST_NUMBERS: Final = 1024
"""Most numbers of a rule in an event."""

_E9: Final = 10**9
_MOST_E9: Final = 2**63 - 1

RULES: Final[Mapping[str, tuple[int, int]]] = {"flat": (0, 0), "automatic": (1, 1)}
"""Fewest and most numbers of each rule.

``flat``: none. ``automatic``: the stability.
"""


@dataclass(frozen=True)
class FlatClipping:
    """One bound for the whole gradient: one that is longer is scaled down to it (Abadi et al. 2016)."""

    def executed(self, clipping_norm_e9: int, parameter_names: Sequence[str]) -> Executed:
        """The rule as plan and event carry it, for a model with parameters of these names."""
        return ("flat",)


@dataclass(frozen=True)
class AutomaticClipping:
    """Every gradient is multiplied by ``clipping_norm / (norm + stability)``: AUTO-S of Bu et al. (NeurIPS
    2023, arXiv:2206.07136).

    Short gradients are made longer as long ones are made shorter, so that the clipping norm only scales the
    learning rate and need not be searched for.

    Args:
        stability: γ, added to the norm; 1e-6 to 1e6. Far below usual norms it makes all gradients about as
            long as the clipping norm; far above, none is changed in proportion to the others.
    """

    stability: float = 0.01

    def __post_init__(self) -> None:
        """Check the range."""
        real("AutomaticClipping.stability", self.stability, 1e-6, 1e6, "0.01 is usual.")

    @property
    def stability_e9(self) -> int:
        """The stability in units of 1e-9, to the nearest: what the mechanism runs with."""
        return round(self.stability * _E9)

    def executed(self, clipping_norm_e9: int, parameter_names: Sequence[str]) -> Executed:
        """The rule as plan and event carry it, for a model with parameters of these names."""
        return ("automatic", self.stability_e9)


ClippingRule: TypeAlias = FlatClipping | AutomaticClipping
"""What :attr:`myelin.privacy.DpPlan.clipping` may be."""


def real(name: str, value: object, lowest: float, highest: float, advice: str) -> None:
    """Refuse what is not a number from ``lowest`` to ``highest``."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not right or not lowest <= value <= highest:  # type: ignore[operator]
        raise InputError(f"{name}: expected a number from {lowest:g} to {highest:g}, got {value!r}. {advice}")


def check_executed(clipping: object, clipping_norm_e9: int) -> Executed:
    """Read a rule of a stranger's document, which may be a list or a tuple.

    Errors: :class:`myelin.errors.InputError` says what is not as it must be.
    """
    expected = "an array of a rule's name and its numbers"
    if not isinstance(clipping, Sequence) or isinstance(clipping, str | bytes) or not clipping:
        raise InputError(f"clipping: expected {expected}, got {type(clipping).__name__}.")
    name, *numbers = clipping
    if not isinstance(name, str) or name not in RULES:
        raise InputError(f"clipping: expected one of {', '.join(RULES)}, got {repr(name)[:80]}.")
    fewest, most = RULES[name]
    if not fewest <= len(numbers) <= most:
        raise InputError(f"clipping: expected {fewest} to {most} numbers for {name!r}, got {len(numbers)}.")
    for number in numbers:
        if type(number) is not int or not 1 <= number <= _MOST_E9:
            raise InputError(
                f"clipping: expected whole numbers from 1 to {_MOST_E9}, got {repr(number)[:80]}."
            )
    return (name, *numbers)
