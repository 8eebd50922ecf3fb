"""The clipping rules that a plan can name: how an example's gradient is made no longer than its bound.

A rule is part of the mechanism, so the event names it: an array of its name and its numbers, real ones in
units of 1e-9 (:data:`RULES`). Whatever the rule, an example adds a vector of at most the event's clipping
norm to a step's sum; :mod:`myelin.privacy.clipping_kernels` proves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, TypeAlias

from myelin.errors import InputError

__all__ = [
    "MOST_NUMBERS",
    "RULES",
    "AutomaticClipping",
    "ClippingRule",
    "Executed",
    "FlatClipping",
    "PerLayerClipping",
    "check_executed",
]

Executed: TypeAlias = tuple[str | int, ...]
"""A rule as plan and event carry it: its name, then its numbers."""

MOST_NUMBERS: Final = 1024
"""Most numbers of a rule in an event."""

_E9: Final = 10**9
_MOST_E9: Final = 2**63 - 1

RULES: Final[Mapping[str, tuple[int, int]]] = {
    "flat": (0, 0),
    "automatic": (1, 1),
    "per-layer": (1, MOST_NUMBERS),
}
"""Fewest and most numbers of each rule.

``flat``: none. ``automatic``: the stability. ``per-layer``: each group's bound, in the order of their first
parameters in the model; their squares add up to at most the clipping norm's.
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


@dataclass(frozen=True)
class PerLayerClipping:
    """Each group of parameters has a bound of its own, and its part of a gradient is clipped to that, as
    :class:`FlatClipping` clips a whole one. The squares of all bounds add up to the clipping norm's.

    Args:
        shares: bounds in proportion to each other, by group; the name of a parameter, or of a module for all
            of its parameters that have no longer name here. Without it each module that has parameters of its
            own is a group, and all bounds are equal.
    """

    shares: Mapping[str, float] | tuple[tuple[str, float], ...] | None = None

    def __post_init__(self) -> None:
        """Check the shares, and keep them as a value that nobody can change."""
        if self.shares is None:
            return
        pairs = tuple(self.shares.items() if isinstance(self.shares, Mapping) else self.shares)
        if not 1 <= len(pairs) <= MOST_NUMBERS:
            raise InputError(f"PerLayerClipping.shares: expected 1 to {MOST_NUMBERS}, got {len(pairs)}.")
        for name, share in pairs:
            real(f"PerLayerClipping.shares[{name!r}]", share, 1e-6, 1e6, "Only proportions count.")
        object.__setattr__(self, "shares", pairs)

    def groups(self, parameter_names: Sequence[str]) -> list[str]:
        """The group of each parameter.

        Errors: :class:`myelin.errors.InputError` where a parameter is in none, or a share names none.
        """
        if self.shares is None:
            return [name.rpartition(".")[0] or name for name in parameter_names]
        known = dict(self.shares)
        groups = []
        for parameter in parameter_names:
            parts = parameter.split(".")
            prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            found = [prefix for prefix in prefixes if prefix in known]
            if not found:
                raise InputError(
                    f"PerLayerClipping.shares: expected a share for every parameter, got none for "
                    f"{parameter}. Name it, or its module."
                )
            groups.append(found[0])
        unused = sorted(known.keys() - set(groups))
        if unused:
            raise InputError(
                f"PerLayerClipping.shares: expected modules or parameters of the model, got {unused[0]}; "
                f"it has {', '.join(parameter_names)}."
            )
        return groups

    def bounds_e9(self, clipping_norm_e9: int, parameter_names: Sequence[str]) -> dict[str, int]:
        """The bound of each group, in the order of their first parameters, in units of 1e-9, rounded down.

        Errors: :class:`myelin.errors.InputError` as :meth:`groups` does, or where a bound is below 2^-20.
        """
        groups = dict.fromkeys(self.groups(parameter_names))
        shares = dict(self.shares) if self.shares is not None else dict.fromkeys(groups, 1.0)
        squares = {name: Fraction(shares[name]) ** 2 for name in groups}
        total = sum(squares.values())
        bounds = {
            name: math.isqrt(math.floor(clipping_norm_e9**2 * square / total))
            for name, square in squares.items()
        }
        if not 1 <= len(bounds) <= MOST_NUMBERS:
            raise InputError(
                f"PerLayerClipping: expected 1 to {MOST_NUMBERS} groups of parameters, got {len(bounds)}. "
                "Give shares for larger groups."
            )
        for name, bound in bounds.items():
            if bound << 20 < _E9:
                raise InputError(
                    f"PerLayerClipping: expected bounds of at least 2**-20, got {bound / _E9:g} for {name}. "
                    "Give it a larger share, or the plan a larger clipping norm."
                )
        return bounds

    def executed(self, clipping_norm_e9: int, parameter_names: Sequence[str]) -> Executed:
        """The rule as plan and event carry it, for a model with parameters of these names."""
        return ("per-layer", *self.bounds_e9(clipping_norm_e9, parameter_names).values())


ClippingRule: TypeAlias = FlatClipping | AutomaticClipping | PerLayerClipping
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
    if name == "per-layer" and sum(number**2 for number in numbers) > clipping_norm_e9**2:
        raise InputError(
            f"clipping: expected bounds whose squares add up to at most {clipping_norm_e9} squared, got "
            "more. An example may then add a vector that is longer than the clipping norm."
        )
    return (name, *numbers)
