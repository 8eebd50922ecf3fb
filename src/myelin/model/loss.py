"""Losses: of each example alone, summed over those that were drawn, never averaged over the batch.

``z`` is what the model puts out for an example, ``y`` its label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from myelin.errors import InputError

from .checks import is_real, is_whole, require

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Huber",
    "Loss",
    "MeanSquaredError",
    "as_loss",
    "outputs_of",
]


@dataclass(frozen=True)
class CrossEntropy:
    """``−Σ p·log softmax(z)``, where p is 1 for the example's class and 0 else, or smoothed:
    ``(1 − label_smoothing)·p + label_smoothing / classes``.

    The model puts out as many logits as the schema has classes. An example of the class whose index is
    ``ignore_index`` contributes exactly nothing to the gradient. For accounting it is a record as any other:
    it is drawn, takes a slot of the batch, counts in ``dataset_size``, and the noise and the divisor
    ``expected_batch_size`` stay what they are. So ignored records dilute a batch; leave them out of the
    sealed file where it may be known how many there are.
    """

    label_smoothing: float = 0.0
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        smoothing = self.label_smoothing
        holds = is_real(smoothing) and 0 <= smoothing < 1
        require(holds, "CrossEntropy label_smoothing", smoothing, "a number in [0, 1)")
        holds = self.ignore_index is None or is_whole(self.ignore_index, 0, 65535)
        require(holds, "CrossEntropy ignore_index", self.ignore_index, "None or the index of a class")


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """``log(1 + eᶻ) − y·z`` of one logit z; y is 1 for the second of the schema's two classes."""


@dataclass(frozen=True)
class MeanSquaredError:
    """``(z − y)²`` of one output z and a numeric label y, as the schema normalises it.

    The mean is that of squares over one output: over the batch, losses are summed.
    """


@dataclass(frozen=True)
class Huber:
    """``(z − y)² / 2`` where ``|z − y| ≤ delta``, and ``delta·(|z − y| − delta / 2)`` beyond (Huber 1964).

    One output z and a numeric label y, as the schema normalises it; ``delta`` is in that unit.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        holds = is_real(self.delta) and self.delta > 0
        require(holds, "Huber delta", self.delta, "a number above 0")


Loss = CrossEntropy | BinaryCrossEntropy | MeanSquaredError | Huber

LOSSES = ("cross_entropy",)
"""The losses that a job may name: :class:`CrossEntropy` as it is."""


def as_loss(loss: Loss | str) -> Loss:
    """A loss, from itself or from its name; :class:`~myelin.errors.InputError` if it is none."""
    if isinstance(loss, str) and loss in LOSSES:
        return CrossEntropy()
    kinds = "CrossEntropy(), BinaryCrossEntropy(), MeanSquaredError(), Huber(delta)"
    require(isinstance(loss, Loss), "job loss", loss, f"{kinds} or {LOSSES[0]!r}")
    return loss  # type: ignore[return-value]


def outputs_of(loss: Loss, classes: Sequence[str] | None) -> int:
    """How many numbers the model puts out for an example, by the loss and the label's classes (None for a
    numeric label).

    Raises:
        InputError: the loss does not go with the label.
    """
    name = type(loss).__name__
    if isinstance(loss, MeanSquaredError | Huber):
        if classes is not None:
            raise InputError(
                f"job loss: {name} needs a numeric label, but the schema's label has {len(classes)} classes; "
                "give the label lower and upper instead of classes, or use CrossEntropy"
            )
        return 1
    if classes is None:
        raise InputError(
            f"job loss: {name} needs a label with classes, but the schema's label is numeric; give it "
            "classes instead of lower and upper, or use MeanSquaredError or Huber"
        )
    if isinstance(loss, BinaryCrossEntropy):
        if len(classes) != 2:
            raise InputError(
                f"job loss: {name} needs a label of two classes, but the schema's has {len(classes)}; use "
                "CrossEntropy (a record carries one label, so several independent ones are not possible)"
            )
        return 1
    if loss.ignore_index is not None and loss.ignore_index >= len(classes):
        raise InputError(
            f"job loss: CrossEntropy ignore_index {loss.ignore_index}: expected an index of the schema's "
            f"{len(classes)} classes, counted from 0; every label of a sealed record is one of them"
        )
    return len(classes)
