"""The clipping rules that a plan can name: how an example's gradient is made no longer than its bound.

A rule is part of the mechanism, so the event names it: an array of its name and its numbers, real ones in
units of 1e-9 (:data:`RULES`). Whatever the rule, an example adds a vector of at most the event's clipping
norm to a step's sum; :mod:`myelin.privacy.clipping_kernels` proves it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol, TypeAlias

from myelin.errors import InputError

__all__ = [
    "LARGEST_CLIPPING_NORM",
    "LEAST_NORM",
    "MOST_NUMBERS",
    "RULES",
    "AdaptiveClipping",
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

LEAST_NORM: Final = 2.0**-20
"""The least clipping norm that adaptive clipping comes to."""

LARGEST_CLIPPING_NORM: Final = 2.0**20
"""The largest."""

_E9: Final = 10**9
_MOST_E9: Final = 2**63 - 1

RULES: Final[Mapping[str, tuple[int, int]]] = {
    "flat": (0, 0),
    "automatic": (1, 1),
    "per-layer": (1, MOST_NUMBERS),
    "adaptive": (4, 4),
}
"""Fewest and most numbers of each rule.

``flat``: none. ``automatic``: the stability. ``per-layer``: each group's bound, in the order of their first
parameters in the model; their squares add up to at most the clipping norm's. ``adaptive``: the first clipping
norm, the quantile, the rate, and what a record counts.
"""


class Bounded(Protocol):
    """What a rule reads of a plan."""

    @property
    def noise_multiplier(self) -> float:
        """Of the whole mechanism."""

    @property
    def expected_batch_size(self) -> int:
        """The divisor of every sum."""

    @property
    def clipping_norm(self) -> float:
        """As the user gave it."""

    @property
    def clipping_norm_e9(self) -> int:
        """Most that an example adds to a sum, in units of 1e-9."""


@dataclass(frozen=True)
class FlatClipping:
    """One bound for the whole gradient: one that is longer is scaled down to it (Abadi et al. 2016)."""

    def executed(self, plan: Bounded, parameter_names: Sequence[str]) -> Executed:
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

    def executed(self, plan: Bounded, parameter_names: Sequence[str]) -> Executed:
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

    def executed(self, plan: Bounded, parameter_names: Sequence[str]) -> Executed:
        """The rule as plan and event carry it, for a model with parameters of these names."""
        return ("per-layer", *self.bounds_e9(plan.clipping_norm_e9, parameter_names).values())


@dataclass(frozen=True)
class AdaptiveClipping:
    """A clipping norm that follows a quantile of the norms (Andrew et al., NeurIPS 2021): it begins as the
    plan's and is multiplied, each step, by ``exp(−rate · (b̃ − quantile))``, where b̃ is the share of drawn
    records whose gradient is no longer than it, with noise.

    The count is a query of its own: the plan's noise multiplier is that of gradients and count together, so ε
    is what it is with any other rule, and gradients get somewhat more noise
    (:mod:`myelin.privacy.adaptive`).

    Args:
        quantile: of the norms that the clipping norm is to be; above 0 and below 1.
        rate: of the logarithm's change, 0.001 to 10.
        count_noise: standard deviation of the noise in the count; a twentieth of the expected batch where not
            given. It must be above 0.55 noise multipliers: that much the whole mechanism needs.
    """

    quantile: float = 0.5
    rate: float = 0.2
    count_noise: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        real("AdaptiveClipping.quantile", self.quantile, 1e-3, 1 - 1e-3, "0.5 is the median.")
        real("AdaptiveClipping.rate", self.rate, 1e-3, 10, "0.2 is usual.")
        if self.count_noise is not None:
            real("AdaptiveClipping.count_noise", self.count_noise, 1e-3, 1e9, "None is usual.")

    def half_weight(self, plan: Bounded) -> float:
        """h, half of what a record counts when a gradient counts 1: a float32, at least 2^-20.

        ``σ_b = z √(1 + h²) / (2 h)`` for the noise multiplier z and the count's noise σ_b, so ``h = z / √(4
        σ_b² − z²)``.

        Errors: :class:`myelin.errors.InputError` where the count's noise is too small for the multiplier.
        """
        noise = plan.expected_batch_size / 20 if self.count_noise is None else self.count_noise
        multiplier = plan.noise_multiplier
        if noise < 0.55 * multiplier:
            raise InputError(
                f"AdaptiveClipping.count_noise: expected at least {0.55 * multiplier:g}, 0.55 noise "
                f"multipliers, got {noise:g}. Give more, a larger batch, or a smaller noise multiplier."
            )
        weight = max(multiplier / math.sqrt(4 * noise**2 - multiplier**2), 2.0**-20)
        return float(struct.unpack("f", struct.pack("f", weight))[0])

    def contribution_e9(self, plan: Bounded) -> int:
        """``√(1 + h²)``, the most that a record adds in clipping norms, in units of 1e-9, rounded up."""
        return math.isqrt(_E9**2 + self.half_weight_e9(plan) ** 2 - 1) + 1

    def half_weight_e9(self, plan: Bounded) -> int:
        """h in units of 1e-9, rounded up."""
        return math.ceil(Fraction(self.half_weight(plan)) * _E9)

    def executed(self, plan: Bounded, parameter_names: Sequence[str]) -> Executed:
        """The rule as plan and event carry it, for a model with parameters of these names."""
        first = math.ceil(Fraction(plan.clipping_norm) * _E9)
        return (
            "adaptive",
            first,
            round(self.quantile * _E9),
            round(self.rate * _E9),
            self.half_weight_e9(plan),
        )


ClippingRule: TypeAlias = FlatClipping | AutomaticClipping | PerLayerClipping | AdaptiveClipping
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
    if name == "adaptive" and _E9**2 + numbers[3] ** 2 > clipping_norm_e9**2:
        raise InputError(
            f"clipping: expected a clipping norm of at least the root of 1 + {numbers[3]}e-9 squared, got "
            f"{clipping_norm_e9}e-9. A gradient and its part of the count may then be longer than it."
        )
    return (name, *numbers)
