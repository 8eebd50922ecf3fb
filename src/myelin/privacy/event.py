"""The executed mechanism as data: the protocol's DpEvent map, checked, and as a ``dp_accounting`` event.

*Guarantee*: an event with a correlation is one Gaussian mechanism (:mod:`myelin.privacy.banded`). Any other
is ``steps`` adaptive compositions of one Gaussian mechanism on a truncated Poisson sample (arXiv:2508.15089,
*Tighter Privacy Analysis for Truncated Poisson Sampling*; computed by
``dp_accounting.TruncatedSubsampledGaussianDpEvent``). What is easily got wrong, and what is true here:

- *relation*: a neighbour has one record x replaced by a record that contributes nothing
  (``REPLACE_SPECIAL``), and the bound holds whether or not that record is drawn. The number of records is
  public, so it is the same for both.
- *truncation*: let T be "at least ``capacity`` other records are drawn", which does not depend on x. Outside
  T the pair of outputs is the Poisson-subsampled Gaussian's. Inside T, x, if it is drawn and stays, takes the
  place of another record, so the sums differ by up to two contributions. Which records stay without x is a
  uniform subset whatever the number drawn, so "x stays" has one probability inside T. The event accounts for
  the mixture of both cases, which is why ``capacity`` and ``dataset_size`` are in it.
- *views*: a record is shown to the model in ``views`` augmented forms, and what is clipped and added is the
  mean of their gradients, so no number of them changes what it adds at most (:mod:`myelin.privacy.augment`).
- *divisor*: sums are divided by the public expected batch size, never by the number drawn: post-processing.
- *noise*: its standard deviation is ``noise_multiplier × sensitivity``, and the sensitivity, with every
  rounding, is at least what one record can change; the accountant therefore needs the multiplier alone. With
  x drawn the other records' slots shift, so the rounding of every physical batch counts, not only of the one
  with x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from myelin.errors import InputError

from .augment import ExecutedViews, check_views
from .banded import check_correlation, effective_multiplier, participations
from .clipping_rule import Executed, check_executed

if TYPE_CHECKING:
    import dp_accounting

__all__ = ["Event", "to_dp_accounting"]

TYPE: Final = "truncated-poisson-gaussian"
IN_TURN: Final = "cyclic-banded-gaussian"
NEIGHBORING_RELATION: Final = "replace-special"

_RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "dataset_size": (1, 2**31),
    "sampling_threshold": (0, 2**64 - 1),
    "capacity": (1, 2**31),
    "noise_multiplier_e9": (1, 2**63 - 1),
    "clipping_norm_e9": (1, 2**63 - 1),
    "sensitivity_e9": (1, 2**63 - 1),
    "expected_batch_size": (1, 2**31),
    "steps": (1, 2**32 - 1),
    "parameters": (1, 2**40),
}
_OTHERS: Final = ("clipping", "correlation", "augment", "views")


@dataclass(frozen=True, order=True)
class Event:
    """One DpEvent map, checked. Fields and units are those of docs/protocol.md, section 7."""

    dataset_size: int
    sampling_threshold: int
    capacity: int
    noise_multiplier_e9: int
    clipping_norm_e9: int
    sensitivity_e9: int
    expected_batch_size: int
    steps: int
    parameters: int
    clipping: Executed = ("flat",)
    correlation: tuple[int, ...] = ()
    augment: ExecutedViews = ()
    views: int = 1

    def __post_init__(self) -> None:
        """Check every range, and that the sensitivity covers the clipping norm."""
        for key, (lowest, highest) in _RANGES.items():
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
                raise InputError(
                    f"DpEvent.{key}: expected a whole number from {lowest} to {highest}, got "
                    f"{_shown(value)}. Do not use this document; ask who made it for a correct one."
                )
        if self.sensitivity_e9 < self.clipping_norm_e9:
            raise InputError(
                f"DpEvent.sensitivity_e9: expected at least the clipping norm ({self.clipping_norm_e9}), got "
                f"{self.sensitivity_e9}. A record may add a vector as long as the clipping norm, so this "
                "event is not a private mechanism; do not use this document."
            )
        try:
            object.__setattr__(self, "clipping", check_executed(self.clipping, self.clipping_norm_e9))
            sizes = (self.dataset_size, self.capacity, self.sampling_threshold)
            object.__setattr__(self, "correlation", check_correlation(self.correlation, *sizes))
            object.__setattr__(self, "augment", check_views(self.views, self.augment))
        except InputError as error:
            raise InputError(
                f"DpEvent.{error} Do not use this document; ask who made it for a correct one."
            ) from None
        if self.sensitivity_e9**2 * 10**18 < self.clipping_norm_e9**2 * sum(c * c for c in self.correlation):
            raise InputError(
                f"DpEvent.sensitivity_e9: expected at least the clipping norm times the correlation's, got "
                f"{self.sensitivity_e9}. This event is not a private mechanism; do not use this document."
            )

    @classmethod
    def from_map(cls, event: Mapping[str, Any]) -> Event:
        """Read a DpEvent map of a contract or certificate: exactly its keys, every value in range.

        Errors: :class:`myelin.errors.InputError` names the key that is missing, unknown or out of range.
        """
        if not isinstance(event, Mapping):
            raise InputError(f"DpEvent: expected a map, got {type(event).__name__}.")
        known = {"type", "neighboring_relation", *_OTHERS, *_RANGES}
        missing = sorted(known - event.keys())
        unknown = sorted(_shown(key) for key in event.keys() - known)
        if missing or unknown:
            raise InputError(
                f"DpEvent: expected exactly the keys of docs/protocol.md section 7; missing: "
                f"{', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}."
            )
        made = cls(**{key: event[key] for key in (*_RANGES, *_OTHERS)})
        kind = IN_TURN if made.correlation else TYPE
        for key, value in (("type", kind), ("neighboring_relation", NEIGHBORING_RELATION)):
            if event[key] != value:
                raise InputError(
                    f"DpEvent.{key}: expected {value!r}, got {_shown(event[key])}. "
                    "No other mechanism is known here."
                )
        return made

    def as_map(self) -> dict[str, Any]:
        """The DpEvent map again, as contracts and certificates carry it."""
        numbers = {key: getattr(self, key) for key in _RANGES}
        fixed = {"type": IN_TURN if self.correlation else TYPE, "neighboring_relation": NEIGHBORING_RELATION}
        return {
            **fixed,
            **numbers,
            "clipping": list(self.clipping),
            "correlation": list(self.correlation),
            "augment": [list(augmentation) for augmentation in self.augment],
            "views": self.views,
        }

    @property
    def participations(self) -> int:
        """Steps that a record takes part in, where records take turns; 0 where they are drawn."""
        return participations(self.dataset_size, self.capacity, self.steps) if self.correlation else 0

    @property
    def sampling_rate(self) -> float:
        """Probability that a record is drawn, before truncation: ``threshold / 2^64``, rounded up."""
        nearest = self.sampling_threshold / 2**64
        return (
            math.nextafter(nearest, 2.0) if Fraction(nearest) * 2**64 < self.sampling_threshold else nearest
        )

    @property
    def noise_multiplier(self) -> float:
        """The noise multiplier: the float64 at or just below ``noise_multiplier_e9 / 10^9``.

        Where records take turns, of the whole run: divided by the root of :attr:`participations`.
        """
        if self.correlation:
            return effective_multiplier(self.noise_multiplier_e9, self.participations)
        nearest = self.noise_multiplier_e9 / 10**9
        return (
            math.nextafter(nearest, 0.0) if Fraction(nearest) * 10**9 > self.noise_multiplier_e9 else nearest
        )


def _shown(value: object) -> str:
    """A value of a stranger's document, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def to_dp_accounting(event: Event | Mapping[str, Any]) -> dp_accounting.DpEvent:
    """The event for any accountant of ``dp_accounting``, under ``NeighboringRelation.REPLACE_SPECIAL``.

    The sampling rate is rounded up and the noise multiplier down to float64. The sampler's and the noise's
    distance from their ideals is not in it: :func:`myelin.privacy.epsilon` adds that.
    """
    import dp_accounting

    checked = event if isinstance(event, Event) else Event.from_map(event)
    if checked.correlation:
        return dp_accounting.GaussianDpEvent(checked.noise_multiplier)
    step = dp_accounting.TruncatedSubsampledGaussianDpEvent(
        dataset_size=checked.dataset_size,
        sampling_probability=checked.sampling_rate,
        truncated_batch_size=checked.capacity,
        noise_multiplier=checked.noise_multiplier,
    )
    return dp_accounting.SelfComposedDpEvent(event=step, count=checked.steps)
