"""ε of executed mechanisms, and budgets, by privacy loss distributions (PLD).

*Guarantee*: :func:`epsilon` is an upper bound. The PLD is discretised pessimistically (``dp_accounting``,
connect the dots); the distance between the implemented noise and sampler and their ideals is subtracted from
δ (:func:`myelin.privacy.total_variation_of`); the result is rounded up. It holds under the assumption that
AES-256 is a pseudorandom permutation: the key of sampler and noise is known to nobody.

Computing needs ``dp_accounting``, which is imported at the first call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from myelin.errors import InputError

from .banded import BandedNoise
from .event import Event, to_dp_accounting
from .noise import slack
from .sampling import sampler_slack

if TYPE_CHECKING:
    import dp_accounting

__all__ = ["calibrate", "compose", "epsilon", "total_variation_of"]

EventLike: TypeAlias = Event | Mapping[str, Any]

_INTERVAL: Final = 5e-4
"""Width of the PLD's grid. Coarser is faster and gives a larger ε: a test bounds by how much."""

_SMALL: Final = 0.1
_FINE_INTERVAL: Final = 1e-4
"""Of an ε below :data:`_SMALL`, of which the grid's width would be more than a hundredth."""

_COARSE_INTERVAL: Final = 4e-3
"""Width of the grid while a calibration is still searching."""

_POINTS_MAX: Final = 5e7
"""Most points of one event's PLD: 400 MB an array. A document that asks for more is not computed."""

_STEP_E6: Final = 1_000_000


def _checked(events: EventLike | Iterable[EventLike]) -> tuple[Event, ...]:
    if isinstance(events, Event | Mapping):
        events = (events,)
    return tuple(event if isinstance(event, Event) else Event.from_map(event) for event in events)


def compose(events: EventLike | Iterable[EventLike]) -> dp_accounting.ComposedDpEvent:
    """All events together, for any accountant of ``dp_accounting`` (which must use ``REPLACE_SPECIAL``)."""
    import dp_accounting

    return dp_accounting.ComposedDpEvent([to_dp_accounting(event) for event in _checked(events)])


def total_variation_of(events: EventLike | Iterable[EventLike]) -> float:
    """Bound of the total variation distance between what the events' mechanisms output and what is accounted
    for.

    Noise: :func:`myelin.privacy.noise.slack`; sampler: :func:`myelin.privacy.sampling.sampler_slack`. Adds
        over steps.
    """
    return sum(
        slack(event.parameters, event.steps)[1]
        + (0.0 if event.correlation else sampler_slack(event.dataset_size, event.steps))
        for event in _checked(events)
    )


@lru_cache(maxsize=64)
def _privacy_loss(mechanism: tuple[int, int, int, int, int], interval: float) -> Any:
    """The composed PLD of one event's mechanism: the event's fields that the accountant reads."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as pld

    dataset_size, threshold, capacity, noise_multiplier_e9, steps = mechanism
    event = Event(
        dataset_size=dataset_size,
        sampling_threshold=threshold,
        capacity=capacity,
        noise_multiplier_e9=noise_multiplier_e9,
        clipping_norm_e9=1,
        sensitivity_e9=1,
        expected_batch_size=1,
        steps=steps,
        parameters=1,
    )
    return pld.from_truncated_subsampled_gaussian_mechanism(
        dataset_size=dataset_size,
        sampling_probability=event.sampling_rate,
        truncated_batch_size=capacity,
        noise_multiplier=event.noise_multiplier,
        value_discretization_interval=interval,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    ).self_compose(steps)


@lru_cache(maxsize=64)
def _gaussian_loss(multiplier: float, interval: float) -> Any:
    """The PLD of one Gaussian mechanism: a whole run in which records take turns."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_gaussian_mechanism(
        multiplier,
        value_discretization_interval=interval,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    )


@lru_cache(maxsize=64)
def _composed_loss(events: tuple[Event, ...], interval: float) -> Any:
    losses = []
    for event in events:
        if event.correlation:
            losses.append(_gaussian_loss(event.noise_multiplier, interval))
            continue
        draw = (event.dataset_size, event.sampling_threshold, event.capacity)
        losses.append(_privacy_loss((*draw, event.noise_multiplier_e9, event.steps), interval))
    total = losses[0]
    for loss in losses[1:]:
        total = total.compose(loss)
    return total


def epsilon(events: EventLike | Iterable[EventLike], delta: float) -> float:
    """The ε at ``delta`` of one event, or of several on the same records, composed; rounded up to 1e-6.

    Args:
        events: one DpEvent map or :class:`Event`, or a sequence of them. No events cost nothing: 0.
        delta: above 0 and below 1.

    Returns:
        ε; ``inf`` when the implementation's own distance from the ideal uses up δ, when ε is past what
        float64 holds, or when an event's noise is so small, or its steps so many, that its loss is not
        computed: a stranger's document must not cost minutes or all memory.

    Errors: :class:`myelin.errors.InputError` for a malformed event or δ.
    """
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta < 1:
        raise InputError(f"delta: expected a number above 0 and below 1, got {delta!r}. 1e-5 is usual.")
    checked = tuple(sorted(_checked(events)))
    if any(_points(event) > _POINTS_MAX for event in checked):
        return math.inf
    if not checked:
        return 0.0
    value = _epsilon(checked, float(delta), _INTERVAL)
    if value < _SMALL and all(
        _points(event) * _INTERVAL / _FINE_INTERVAL <= _POINTS_MAX for event in checked
    ):
        return min(value, _epsilon(checked, float(delta), _FINE_INTERVAL))
    return value


def _points(event: Event) -> float:
    """About how many points an event's PLD has: ten standard deviations of the composed loss on either side.

    One step's loss varies with the noise, by ``1 / multiplier``, and with whether the record is drawn, by at
    most half of ``1 / (2 multiplier²)``.
    """
    inverse = 1 / event.noise_multiplier
    return 20 * math.sqrt(1 if event.correlation else event.steps) * (inverse + inverse**2 / 4) / _INTERVAL


def _epsilon(checked: tuple[Event, ...], delta: float, interval: float) -> float:
    loss = _composed_loss(checked, interval)
    distance = total_variation_of(checked)
    # P̃ within t of P and Q̃ within t of Q: P̃(S) <= P(S) + t <= e^ε Q(S) + δ' + t <= e^ε Q̃(S) + δ' + (1 +
    # e^ε) t. So ε(δ') serves for δ when δ' + (1 + e^ε) t <= δ. ε(δ') falls as δ' grows; a smaller δ' is tried
    # until it fits.
    share = (1 + math.exp(min(float(loss.get_epsilon_for_delta(delta)), 700.0))) * distance
    for _ in range(60):
        if share >= delta:
            return math.inf
        value = float(loss.get_epsilon_for_delta(delta - share))
        needed = (1 + math.exp(min(value, 700.0))) * distance
        if needed <= share:
            return _ceil_e6(value)
        share = needed * (1 + 1e-9)
    return math.inf


def _ceil_e6(value: float) -> float:
    return math.ceil(value * _STEP_E6) / _STEP_E6 if math.isfinite(value) else math.inf


def calibrate(
    target_epsilon: float,
    delta: float,
    *,
    dataset_size: int,
    expected_batch_size: int,
    capacity: int,
    steps: int,
    parameters: int = 2**24,
    correlation: BandedNoise | None = None,
) -> float:
    """The smallest noise multiplier, to 0.001, whose ε at ``delta`` is at most ``target_epsilon``.

    Args:
        target_epsilon: above 0.
        delta: above 0 and below 1.
        dataset_size: records of all owners together.
        expected_batch_size: as in :class:`myelin.privacy.DpPlan`.
        capacity: as in :class:`myelin.privacy.DpPlan`.
        steps: as in :class:`myelin.privacy.DpPlan`.
        parameters: coordinates noised per step; more than there are is safe.
        correlation: as in :class:`myelin.privacy.DpPlan`.

    Errors: :class:`myelin.errors.InputError` when no multiplier up to 10,000 is enough.
    """
    if (
        isinstance(target_epsilon, bool)
        or not isinstance(target_epsilon, int | float)
        or not target_epsilon > 0
    ):
        raise InputError(f"target_epsilon: expected a number above 0, got {target_epsilon!r}.")

    numbers = correlation.coefficients_e9 if correlation else ()
    threshold = 0 if correlation else min((expected_batch_size << 64) // dataset_size, 2**64 - 1)

    def fits(multiplier_e3: int, interval: float) -> bool:
        event = Event(
            dataset_size=dataset_size,
            sampling_threshold=threshold,
            capacity=capacity,
            noise_multiplier_e9=multiplier_e3 * 10**6,
            clipping_norm_e9=1,
            sensitivity_e9=1 + len(numbers),
            expected_batch_size=expected_batch_size,
            steps=steps,
            parameters=parameters,
            correlation=numbers,
        )
        return _epsilon((event,), float(delta), interval) <= target_epsilon

    # Start where the PLD is cheap (much noise) and walk down: an event with little noise is slow and never
    # needed.
    high = 8_000
    while not fits(high, _COARSE_INTERVAL):
        high *= 4
        if high > 10_000_000:
            raise InputError(
                f"target_epsilon: no noise multiplier up to 10,000 reaches {target_epsilon} at delta {delta} "
                f"({steps} steps, capacity {capacity}). Allow a larger epsilon or delta, or fewer steps."
            )
    low = high // 2
    while low > 10 and fits(low, _COARSE_INTERVAL):
        high, low = low, low // 2
    high = _bisect(low, high, lambda multiplier: fits(multiplier, _COARSE_INTERVAL))
    # What fits on the coarse grid fits on the fine one; the fine one may allow a little less noise.
    stride = 1
    while high - stride > 10 and fits(high - stride, _INTERVAL):
        high, stride = high - stride, 2 * stride
    return _bisect(max(high - stride, 10), high, lambda multiplier: fits(multiplier, _INTERVAL)) / 1000


def _bisect(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The smallest value above ``low`` that fits, given that ``high`` does."""
    while high - low > 1:
        middle = (high + low) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
