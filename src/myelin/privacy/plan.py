"""The differential-privacy plan of a job: how records are drawn, clipped, noised, and how often."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from myelin.errors import InputError

from .augment import MOST_AUGMENTATIONS, MOST_VIEWS, Augmentation, ExecutedViews
from .banded import BandedNoise
from .clipping_rule import AdaptiveClipping, ClippingRule, Executed, FlatClipping

__all__ = ["DpPlan"]

_MOST_RECORDS = 2**31
_MOST_SLOTS = 2**24
_MOST_STEPS = 2**32 - 1
_SCALE_E9 = 10**9
_MOST_E9 = 2**63 - 1


def _integer(name: str, value: object, lowest: int, highest: int, advice: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(
            f"DpPlan.{name}: expected a whole number, got {value!r} ({type(value).__name__}). {advice}"
        )
    if not lowest <= value <= highest:
        raise InputError(f"DpPlan.{name}: expected {lowest} to {highest}, got {value}. {advice}")


def _real(name: str, value: object, expected: str, allowed: Callable[[float], bool], advice: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"DpPlan.{name}: expected {expected}, got {value!r}. {advice}")
    if not allowed(float(value)):
        raise InputError(f"DpPlan.{name}: expected {expected}, got {value!r}. {advice}")


@dataclass(frozen=True)
class DpPlan:
    """How a job is made private. Every number here is public; it is measured into the image and signed by all
    owners.

    Attributes:
        dataset_size: records of all owners together. 1 to 2^31.
        expected_batch_size: expected number of records drawn in a step, and the public number by which every
            sum is divided, whatever was drawn. Less than or equal to ``dataset_size``.
        capacity: most records that a step uses. If more are drawn, a uniformly random subset of this size
            stays. At least ``expected_batch_size``; four standard deviations above it makes truncation rare.
        microbatch: examples of one physical batch, the static batch size of the compiled step. A step always
            runs ``ceil(capacity / microbatch)`` physical batches.
        steps: logical steps, each one draw, one noise and one update.
        noise_multiplier: standard deviation of the noise in units of the sensitivity.
        clipping_norm: most L2 norm that one record adds to the sum of gradients; with adaptive clipping, of
            the first step.
        delta: the δ at which ε is reported.
        clipping: how gradients are made no longer than the clipping norm: :class:`FlatClipping`,
            :class:`AutomaticClipping`, :class:`PerLayerClipping` or :class:`AdaptiveClipping`. ε is the same
            for all.
        correlation: how noise is correlated over steps, :class:`BandedNoise`, for records that take turns in
            fixed batches of ``capacity``, which must then be the expected batch size: no amplification is
            claimed. None for independent noise and records that are drawn.
        augment: what makes another view of a record at every step, in order: :class:`RandomFlip`,
            :class:`RandomCrop`. ε does not depend on it (:mod:`myelin.privacy.augment`).
        views: of a record at a step. Its gradient is that of the mean of their losses, clipped as one. Above
            1, a physical batch is one record's views: the microbatch is 1.

    Numbers that enter signed documents are integers in units of 1e-9: the noise multiplier is rounded down
    and the clipping norm up, and the mechanism runs with what was rounded.

    Errors: :class:`myelin.errors.InputError` names the field, what was expected, what was got and what to do.
    """

    dataset_size: int
    expected_batch_size: int
    capacity: int
    microbatch: int
    steps: int
    noise_multiplier: float
    clipping_norm: float
    delta: float
    clipping: ClippingRule = field(default_factory=FlatClipping)
    correlation: BandedNoise | None = None
    augment: tuple[Augmentation, ...] = ()
    views: int = 1

    def __post_init__(self) -> None:
        """Check every field, and how they fit together."""
        _integer(
            "dataset_size", self.dataset_size, 1, _MOST_RECORDS, "Give the records of all owners together."
        )
        _integer(
            "expected_batch_size",
            self.expected_batch_size,
            1,
            self.dataset_size,
            "A step cannot draw more records than dataset_size; give a smaller batch.",
        )
        _integer(
            "capacity",
            self.capacity,
            self.expected_batch_size,
            _MOST_SLOTS,
            f"A batch of {self.expected_batch_size} expected records needs room for its fluctuation; "
            f"try {self._roomy_capacity()}.",
        )
        _integer("microbatch", self.microbatch, 1, self.capacity, "Give at most the capacity.")
        _integer("steps", self.steps, 1, _MOST_STEPS, "Give the number of logical steps.")
        _real(
            "noise_multiplier",
            self.noise_multiplier,
            "a number of at least 0.01 and at most 1e9",
            lambda value: 0.01 <= value <= 1e9,
            "Less noise gives no privacy; myelin.privacy.calibrate finds the multiplier of a target epsilon.",
        )
        _real(
            "clipping_norm",
            self.clipping_norm,
            "a number of at least 1e-6 and at most 1e9",
            lambda value: 1e-6 <= value <= 1e9,
            "1.0 is the usual choice.",
        )
        _real(
            "delta",
            self.delta,
            "a number above 0 and below 1",
            lambda value: 0 < value < 1,
            f"Well below 1 / dataset_size, for example {0.1 / self.dataset_size:.0e}.",
        )
        if not isinstance(self.clipping, ClippingRule):
            raise InputError(
                f"DpPlan.clipping: expected a clipping rule, got {self.clipping!r}. "
                "Give FlatClipping(), AutomaticClipping(), PerLayerClipping() or AdaptiveClipping()."
            )
        if isinstance(self.clipping, AdaptiveClipping):
            self.clipping.half_weight(self)
        self._check_correlation()
        self._check_views()

    def _check_views(self) -> None:
        """Augmentations that are known, and a physical batch for each record that has several views."""
        given = self.augment
        if not isinstance(given, list | tuple) or not all(isinstance(one, Augmentation) for one in given):
            raise InputError(
                f"DpPlan.augment: expected a list of augmentations, got {given!r}. "
                "Give [RandomFlip(), RandomCrop(padding=4)]."
            )
        object.__setattr__(self, "augment", tuple(given))
        if len(given) > MOST_AUGMENTATIONS:
            raise InputError(
                f"DpPlan.augment: expected at most {MOST_AUGMENTATIONS} augmentations, got {len(given)}. "
                "Leave some out."
            )
        _integer("views", self.views, 1, MOST_VIEWS, "4 to 16 are usual.")
        if self.views > 1 and not given:
            raise InputError(
                f"DpPlan.views: expected 1 without augmentations, got {self.views}: all views would be the "
                "record itself. Give augment=[RandomFlip(), RandomCrop(padding=4)]."
            )
        if self.views > 1 and self.microbatch != 1:
            raise InputError(
                f"DpPlan.microbatch: expected 1 with {self.views} views, whose gradients become one record's "
                f"before it is clipped, got {self.microbatch}. Give microbatch=1: a physical batch is then "
                f"{self.views} examples."
            )

    def _check_correlation(self) -> None:
        """Records that take turns: all batches full but the last, turns as far apart as there are bands."""
        if self.correlation is None:
            return
        if not isinstance(self.correlation, BandedNoise):
            raise InputError(
                f"DpPlan.correlation: expected BandedNoise or None, got {self.correlation!r}. "
                "Give BandedNoise(bands=8)."
            )
        if isinstance(self.clipping, AdaptiveClipping):
            raise InputError(
                "DpPlan.correlation: expected None with AdaptiveClipping, got BandedNoise. Noise of earlier "
                "steps is taken off in the units that it was added in; use another clipping rule."
            )
        if self.capacity != self.expected_batch_size:
            raise InputError(
                f"DpPlan.capacity: expected the batch size, {self.expected_batch_size}, where records take "
                f"turns, got {self.capacity}. Nothing fluctuates, so it needs no room."
            )
        batches = -(-self.dataset_size // self.capacity)
        if self.correlation.bands > batches:
            raise InputError(
                f"DpPlan.correlation: expected at most {batches} bands, the batches that {self.dataset_size} "
                f"records make, got {self.correlation.bands}. A record would take part again too soon."
            )

    def _roomy_capacity(self) -> int:
        """A capacity that is rarely exceeded: four standard deviations above the expected batch."""
        spread = math.sqrt(self.expected_batch_size)
        return min(
            max(self.dataset_size, self.expected_batch_size), math.ceil(self.expected_batch_size + 4 * spread)
        )

    @property
    def sampling_threshold(self) -> int:
        """A record is drawn when its 64-bit word is below this: ``floor(expected_batch_size / dataset_size ×
        2^64)``.

        At most ``2^64 − 1``, so that a full batch leaves out a record with probability 2^-64; 0 where
        records take turns.
        """
        if self.correlation is not None:
            return 0
        return min((self.expected_batch_size << 64) // self.dataset_size, 2**64 - 1)

    @property
    def sampling_rate(self) -> float:
        """Probability that a record is drawn in a step, before truncation."""
        return self.sampling_threshold / 2**64

    @property
    def noise_multiplier_e9(self) -> int:
        """The noise multiplier in units of 1e-9, rounded down."""
        return _scaled(self.noise_multiplier, math.floor)

    @property
    def clipping_norm_e9(self) -> int:
        """Most that a record adds to the sum, in units of 1e-9, rounded up: the clipping norm.

        With adaptive clipping, which sums in units of it, the norm of gradient and count together.
        """
        if isinstance(self.clipping, AdaptiveClipping):
            return self.clipping.contribution_e9(self)
        return _scaled(self.clipping_norm, math.ceil)

    @property
    def contribution_norm(self) -> float:
        """Most that a record adds to the sum, no less than :attr:`clipping_norm_e9` says."""
        if isinstance(self.clipping, AdaptiveClipping):
            return math.nextafter(self.clipping_norm_e9 / _SCALE_E9, math.inf)
        return self.clipping_norm

    @property
    def physical_batches(self) -> int:
        """Physical batches of a step: always all of them, however many records were drawn."""
        return -(-self.capacity // self.microbatch)

    @property
    def executed_augment(self) -> ExecutedViews:
        """The augmentations as plan and event carry them."""
        return tuple(augmentation.executed() for augmentation in self.augment)

    def noise_deviation(self, parameters: int) -> float:
        """Standard deviation of the noise in each coordinate of the gradient that the optimizer takes:
        ``noise_multiplier × sensitivity / expected_batch_size``.

        Args:
            parameters: coordinates noised in each step.

        Errors: :class:`myelin.errors.BuildError` where the sensitivity cannot be bounded.
        """
        from .noise import SIGMA_UNITS
        from .sensitivity import noise_deviation, sensitivity_e9

        return noise_deviation(self, sensitivity_e9(self, parameters, self.microbatch, SIGMA_UNITS))

    def event(
        self,
        parameters: int,
        sensitivity_e9: int,
        dataset_size: int | None = None,
        clipping: Executed | None = None,
    ) -> dict[str, Any]:
        """The planned mechanism as the protocol's DpEvent map (docs/protocol.md, section 7).

        Args:
            parameters: coordinates noised in each step.
            sensitivity_e9: L2 sensitivity of the sum with all rounding, in units of 1e-9, rounded up.
            dataset_size: records that were really there; ``self.dataset_size`` when not given. The sampling
                threshold is measured into the image and stays the plan's.
            clipping: the rule with the model's numbers; the plan's own when not given, for rules that need no
                model.

        Errors: :class:`myelin.errors.InputError` for a value outside its range, or a sensitivity below the
            clipping norm.
        """
        records = self.dataset_size if dataset_size is None else dataset_size
        _integer("event(parameters)", parameters, 1, 2**40, "Give the number of noised coordinates.")
        _integer("event(dataset_size)", records, 1, _MOST_RECORDS, "Give the number of records.")
        _integer(
            "event(sensitivity_e9)",
            sensitivity_e9,
            self.clipping_norm_e9,
            _MOST_E9,
            "The sensitivity includes the clipping norm and every rounding, so it cannot be below the norm.",
        )
        return {
            "type": "cyclic-banded-gaussian" if self.correlation else "truncated-poisson-gaussian",
            "neighboring_relation": "replace-special",
            "dataset_size": records,
            "sampling_threshold": self.sampling_threshold,
            "capacity": self.capacity,
            "noise_multiplier_e9": self.noise_multiplier_e9,
            "clipping_norm_e9": self.clipping_norm_e9,
            "sensitivity_e9": sensitivity_e9,
            "expected_batch_size": self.expected_batch_size,
            "steps": self.steps,
            "parameters": parameters,
            "correlation": list(self.correlation.coefficients_e9 if self.correlation else ()),
            "clipping": list(clipping or self.clipping.executed(self, ())),
            "augment": [list(augmentation) for augmentation in self.executed_augment],
            "views": self.views,
        }

    def as_dict(self) -> dict[str, Any]:
        """Every field by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _scaled(value: float, rounding: Callable[[float], int]) -> int:
    """``value`` in units of 1e-9. A value written with at most nine decimals is taken as written."""
    numerator, denominator = float(value).as_integer_ratio()
    nearest = round(value * _SCALE_E9)
    if nearest / _SCALE_E9 == value:
        return nearest
    quotient, remainder = divmod(numerator * _SCALE_E9, denominator)
    return quotient + (1 if rounding is math.ceil and remainder else 0)
