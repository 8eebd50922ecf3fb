"""Learning rates that change with the number of the step.

A rate is a function of the public step number alone, and is evaluated inside of the enclave, in the compiled
update. The update begins after noise was added, so any rate is post-processing: it costs no privacy.
Throughout, ``t`` is the number of the step, 1 at the first. ``n // m`` rounds down.
"""

from __future__ import annotations

from dataclasses import dataclass

from .checks import MOST_STEPS, is_real, is_whole, require

__all__ = ["Constant", "CosineDecay", "LearningRate", "LinearWarmUp", "StepDecay", "largest_rate"]


def _rate(what: str, value: object, least: str = "above") -> None:
    holds = is_real(value) and (value > 0 or (least == "from" and value == 0))  # type: ignore[operator]
    require(holds, what, value, f"a number {least} 0")


def _steps(what: str, value: object) -> None:
    require(is_whole(value, 1, MOST_STEPS), what, value, f"a whole number from 1 to {MOST_STEPS}")


@dataclass(frozen=True)
class Constant:
    """``rate`` at every step."""

    rate: float

    def __post_init__(self) -> None:
        _rate("Constant rate", self.rate)


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from ``initial`` at the first step to ``final`` at step ``steps + 1`` and from there on.

    ``final + (initial − final)·(1 + cos(π·min(t − 1, steps) / steps)) / 2`` (Loshchilov and Hutter 2017,
    equation 5, without restarts).
    """

    initial: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _rate("CosineDecay initial", self.initial)
        _rate("CosineDecay final", self.final, "from")
        _steps("CosineDecay steps", self.steps)


@dataclass(frozen=True)
class StepDecay:
    """``initial·factor^((t − 1) // every)``."""

    initial: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _rate("StepDecay initial", self.initial)
        _steps("StepDecay every", self.every)
        holds = is_real(self.factor) and 0 < self.factor <= 1
        require(holds, "StepDecay factor", self.factor, "a number above 0 and at most 1")


@dataclass(frozen=True)
class LinearWarmUp:
    """``steps`` steps that rise to the first rate of ``then``, by ``t / steps`` of it; after them ``then``.

    ``then`` is a rate or another schedule, whose first step is the one after the warm-up.
    """

    steps: int
    then: float | Constant | CosineDecay | StepDecay

    def __post_init__(self) -> None:
        _steps("LinearWarmUp steps", self.steps)
        if not isinstance(self.then, Constant | CosineDecay | StepDecay):
            holds = is_real(self.then) and self.then > 0
            expected = "a number above 0, Constant, CosineDecay or StepDecay"
            require(holds, "LinearWarmUp then", self.then, expected)


LearningRate = float | Constant | CosineDecay | StepDecay | LinearWarmUp
"""What an optimizer takes as its learning rate; a number is a rate that stays."""


def largest_rate(rate: LearningRate) -> float:
    """The largest rate of a schedule."""
    if isinstance(rate, LinearWarmUp):
        return largest_rate(rate.then)
    if isinstance(rate, Constant):
        return rate.rate
    if isinstance(rate, CosineDecay):
        return max(rate.initial, rate.final)
    return rate.initial if isinstance(rate, StepDecay) else rate
