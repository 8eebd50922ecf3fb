"""What a job is made of. Plain values: nothing here needs the compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .checks import is_whole, require
from .loss import Loss, as_loss, outputs_of
from .optimizer import ExponentialMovingAverage, Optimizer

__all__ = ["Job", "Plan", "Schema"]

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
    def expected_batch_size(self) -> int:
        """What every sum of gradients is divided by, whatever was drawn."""

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise, in units of the sensitivity."""

    @property
    def noise_multiplier_e9(self) -> int:
        """The same in units of 1e-9, as the mechanism runs with it."""

    @property
    def clipping_norm(self) -> float:
        """Most L2 norm of an example's clipped gradient; the first one where it adapts."""

    @property
    def contribution_norm(self) -> float:
        """Most L2 norm that one example adds to what is summed, in the units that it is summed in."""

    @property
    def clipping_norm_e9(self) -> int:
        """The contribution's norm in units of 1e-9, rounded up."""

    @property
    def clipping(self) -> Any:
        """How gradients are made no longer than that: a rule of :mod:`myelin.privacy`."""

    @property
    def correlation(self) -> Any:
        """How noise is correlated over steps, :class:`myelin.privacy.BandedNoise`; None where it is not."""

    @property
    def augment(self) -> Sequence[Any]:
        """What makes another view of a record at every step: augmentations of :mod:`myelin.privacy`."""

    @property
    def views(self) -> int:
        """Views of a record at a step, over which its gradient is the mean."""

    def noise_deviation(self, parameters: int) -> float:
        """Standard deviation of the noise in each coordinate of the gradient that the optimizer takes."""


class Schema(Protocol):
    """What the compiler reads of a data schema (:class:`myelin.contract.DataSchema`)."""

    @property
    def shape(self) -> Sequence[int]:
        """Shape of one example's features, without the batch."""

    @property
    def label(self) -> Any:
        """The label: ``classes``, the names of the classes that it may name, or a number's range."""


@dataclass(frozen=True)
class Job:
    """One training job, as ``myelin build`` reads it.

    Args:
        name: names the job in contracts and certificates, 1 to 128 bytes.
        model: makes the model, a fresh ``nn.Module`` at each call; its ``forward(features)`` returns
            ``[microbatch, outputs]``: a logit for each class, or one number where the loss takes one.
        loss: one of :mod:`myelin.model.loss`, or its name; per example, summed, never averaged over the
            batch. The attribute is the loss itself.
        optimizer: :class:`SGD`, :class:`Adam`, :class:`AdamW` or :class:`DPAdamBC`.
        plan: the mechanism, :class:`myelin.privacy.DpPlan`.
        schema: the data, :class:`myelin.contract.DataSchema`.
        seed: of the initial parameters (public: they are in the measured image).
        lanes: microbatches that can be computed at once, 1 to 16, each in memory of its own. Threads beyond
            that only help with noise and update. The result does not depend on how many threads there are.
        average: :class:`ExponentialMovingAverage`, and the released model is an average of the weights; None
            releases the last ones.
        oblivious_gather: whether a step reads its records so that memory accesses do not tell who was drawn;
            None: where that is estimated to take less than 5 % of a step (docs/side-channels.md).
        oblivious_tokens: whether embeddings read and write all rows of their tables, so that memory accesses
            do not tell tokens; None as above.

    Raises:
        InputError: a value is out of its range; the message names it.
    """

    name: str
    model: Callable[[], Any]
    loss: Loss | str
    optimizer: Optimizer
    plan: Plan
    schema: Schema
    seed: int = 0
    lanes: int = 4
    average: ExponentialMovingAverage | None = None
    oblivious_gather: bool | None = None
    oblivious_tokens: bool | None = None

    def __post_init__(self) -> None:
        require(
            isinstance(self.name, str) and 1 <= len(self.name.encode()) <= 128,
            "job name",
            self.name,
            "text of 1 to 128 bytes",
        )
        require(
            callable(self.model), "job model", self.model, "a callable that makes the model, as lambda: Net()"
        )
        object.__setattr__(self, "loss", as_loss(self.loss))
        require(
            isinstance(self.optimizer, Optimizer),
            "job optimizer",
            self.optimizer,
            "SGD, Adam, AdamW or DPAdamBC",
        )
        require(
            self.average is None or isinstance(self.average, ExponentialMovingAverage),
            "job average",
            self.average,
            "ExponentialMovingAverage or None",
        )
        for name in ("oblivious_gather", "oblivious_tokens"):
            value = getattr(self, name)
            require(value is None or isinstance(value, bool), f"job {name}", value, "True, False or None")
        for part, names in (("plan", ("microbatch", "clipping_norm")), ("schema", ("shape", "label"))):
            value = getattr(self, part)
            kind = {"plan": "a myelin.privacy.DpPlan", "schema": "a myelin.contract.DataSchema"}[part]
            require(all(hasattr(value, name) for name in names), f"job {part}", value, kind)
        outputs_of(as_loss(self.loss), self.classes)
        require(
            is_whole(self.seed, 0, 2**63 - 1), "job seed", self.seed, "a whole number from 0 to 2**63 - 1"
        )
        require(
            is_whole(self.lanes, 1, _MOST_LANES),
            "job lanes",
            self.lanes,
            f"a whole number from 1 to {_MOST_LANES}",
        )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the label's classes; None where it is a number."""
        names = getattr(self.schema.label, "classes", None)
        return None if names is None else tuple(names)

    @property
    def outputs(self) -> int:
        """How many numbers the model puts out for an example."""
        return outputs_of(as_loss(self.loss), self.classes)
