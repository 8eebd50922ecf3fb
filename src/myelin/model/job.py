"""What a job is made of. Plain values: nothing here needs the compiler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from myelin.errors import InputError

__all__ = ["LOSSES", "SGD", "Adam", "AdamW", "Job", "Optimizer", "Plan", "Schema"]

LOSSES = ("cross_entropy",)
"""The losses that a job may name."""

_MOST_LANES = 16
"""Threads that an image can be lent, its caller's among them."""


class Plan(Protocol):
    """What the compiler reads of a DP plan (:class:`myelin.privacy.DpPlan`)."""

    @property
    def capacity(self) -> int:
        """Most examples of one logical step."""

    @property
    def microbatch(self) -> int:
        """Examples of one physical batch: the static batch size of the compiled step."""

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise, in units of the sensitivity."""

    @property
    def clipping_norm(self) -> float:
        """Most L2 norm that one example adds to the gradient sum."""


class _Label(Protocol):
    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes that a label may name."""


class Schema(Protocol):
    """What the compiler reads of a data schema (:class:`myelin.contract.DataSchema`)."""

    @property
    def shape(self) -> Sequence[int]:
        """Shape of one example's features, without the batch."""

    @property
    def label(self) -> _Label:
        """The label, with its classes."""


def _require(holds: bool, what: str, value: object, expected: str) -> None:
    if not holds:
        raise InputError(f"{what}: expected {expected}, got {value!r}")


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class SGD:
    """SGD with heavy-ball momentum: ``v ← momentum·v + g``, then ``w ← w − learning_rate·v``."""

    learning_rate: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _require(
            _is_real(self.learning_rate) and self.learning_rate > 0,
            "SGD learning_rate",
            self.learning_rate,
            "a number above 0",
        )
        _require(
            _is_real(self.momentum) and 0 <= self.momentum < 1,
            "SGD momentum",
            self.momentum,
            "a number in [0, 1)",
        )


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1)."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon"):
            value = getattr(self, name)
            _require(_is_real(value) and value > 0, f"Adam {name}", value, "a number above 0")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(_is_real(value) and 0 <= value < 1, f"Adam {name}", value, "a number in [0, 1)")


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    Every parameter first loses ``learning_rate·weight_decay`` of itself, then moves as with :class:`Adam`.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        Adam(self.learning_rate, self.beta1, self.beta2, self.epsilon)
        _require(
            _is_real(self.weight_decay) and 0 <= self.weight_decay * self.learning_rate < 1,
            "AdamW weight_decay",
            self.weight_decay,
            "a number from 0 to below 1 / learning_rate",
        )


Optimizer = SGD | Adam | AdamW


@dataclass(frozen=True)
class Job:
    """One training job, as ``myelin build`` reads it.

    Args:
        name: names the job in contracts and certificates, 1 to 128 bytes.
        model: makes the model, a fresh ``nn.Module`` at each call; its ``forward(features)`` returns logits
            ``[microbatch, classes]``.
        loss: one of :data:`LOSSES`; per example, summed, never averaged over the batch.
        optimizer: :class:`SGD`, :class:`Adam` or :class:`AdamW`.
        plan: the mechanism, :class:`myelin.privacy.DpPlan`.
        schema: the data, :class:`myelin.contract.DataSchema`.
        seed: of the initial parameters (public: they are in the measured image).
        lanes: microbatches that can be computed at once, 1 to 16, each in memory of its own. Threads beyond
            that only help with noise and update. The result does not depend on how many threads there are.

    Raises:
        InputError: a value is out of its range; the message names it.
    """

    name: str
    model: Callable[[], Any]
    loss: str
    optimizer: Optimizer
    plan: Plan
    schema: Schema
    seed: int = 0
    lanes: int = 4

    def __post_init__(self) -> None:
        _require(
            isinstance(self.name, str) and 1 <= len(self.name.encode()) <= 128,
            "job name",
            self.name,
            "text of 1 to 128 bytes",
        )
        _require(
            callable(self.model), "job model", self.model, "a callable that makes the model, as lambda: Net()"
        )
        _require(self.loss in LOSSES, "job loss", self.loss, f"one of {', '.join(LOSSES)}")
        _require(
            isinstance(self.optimizer, SGD | Adam | AdamW),
            "job optimizer",
            self.optimizer,
            "SGD, Adam or AdamW",
        )
        for part, names in (("plan", ("microbatch", "clipping_norm")), ("schema", ("shape", "label"))):
            value = getattr(self, part)
            kind = {"plan": "a myelin.privacy.DpPlan", "schema": "a myelin.contract.DataSchema"}[part]
            _require(all(hasattr(value, name) for name in names), f"job {part}", value, kind)
        _require(
            isinstance(self.seed, int) and not isinstance(self.seed, bool) and 0 <= self.seed < 2**63,
            "job seed",
            self.seed,
            "a whole number from 0 to 2**63 - 1",
        )
        _require(
            isinstance(self.lanes, int)
            and not isinstance(self.lanes, bool)
            and 1 <= self.lanes <= _MOST_LANES,
            "job lanes",
            self.lanes,
            f"a whole number from 1 to {_MOST_LANES}",
        )
