"""The mechanism that a contract buys and a certificate reports: DpEvent (protocol section 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TypeAlias

from myelin.errors import InputError, ProtocolError
from myelin.privacy.augment import ExecutedViews, check_views
from myelin.privacy.banded import check_correlation, participations
from myelin.privacy.clipping_rule import Executed, check_executed
from myelin.wire import Shape

__all__ = ["Accountant", "DpEvent", "default_accountant"]

Accountant: TypeAlias = Callable[[list[dict[str, object]], float], float]
"""Gives ε of the composition of events (as maps) at a δ; ``math.inf`` where there is none."""

_TYPE = "truncated-poisson-gaussian"
_IN_TURN = "cyclic-banded-gaussian"
_RELATION = "replace-special"


_ARRAYS = ("clipping", "correlation", "augment")


@dataclass(frozen=True)
class DpEvent:
    """``steps`` truncated-Poisson-subsampled Gaussian releases, as integers.

    Real numbers are scaled by 10⁹; the sampling rate is ``sampling_threshold / 2^64``. The privacy unit is
    one record, replaced by one that contributes nothing; the number of records is public.
    """

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

    @classmethod
    def from_map(cls, value: object, *, refusal: str = "contract_malformed") -> DpEvent:
        """Read the protocol's map; raises the error named ``refusal``."""
        shape = Shape(refusal)
        names = [field.name for field in fields(cls) if field.name not in _ARRAYS]
        read = shape.map(value, "event", ("type", "neighboring_relation", *_ARRAYS, *names))
        numbers = {name: shape.uint(read[name], f"event, {name}") for name in names}
        try:
            clipping = check_executed(read["clipping"], numbers["clipping_norm_e9"])
            sizes = (numbers["dataset_size"], max(numbers["capacity"], 1), numbers["sampling_threshold"])
            correlation = check_correlation(read["correlation"], *sizes)
            augment = check_views(numbers["views"], read["augment"])
        except InputError as error:
            raise ProtocolError.named(refusal, f"event, {error}") from None
        kind = _IN_TURN if correlation else _TYPE
        for key, only in (("type", kind), ("neighboring_relation", _RELATION)):
            if read[key] != only:
                raise shape.refuse(f"event, {key}", repr(only), repr(read[key])[:80])
        return cls(**numbers, clipping=clipping, correlation=correlation, augment=augment)

    def to_map(self) -> dict[str, object]:
        """The protocol's map."""
        fixed = {"type": _IN_TURN if self.correlation else _TYPE, "neighboring_relation": _RELATION}
        arrays = {
            "clipping": list(self.clipping),
            "correlation": list(self.correlation),
            "augment": [list(augmentation) for augmentation in self.augment],
        }
        return {**fixed, **asdict(self), **arrays}

    def describe(self) -> str:
        """One line for people."""
        if self.correlation:
            times = participations(self.dataset_size, max(self.capacity, 1), self.steps)
            return (
                f"{self.steps} steps, in which {self.dataset_size} records take turns, {self.capacity} a "
                f"step and {times} times each, clipped to {self.clipping_norm_e9 / 1e9:g}{self._rule()}, "
                f"noise {self.noise_multiplier_e9 / 1e9:g} × sensitivity {self.sensitivity_e9 / 1e9:g}, "
                f"correlated over {len(self.correlation)} steps{self._views()}"
            )
        rate = self.sampling_threshold / 2**64
        return (
            f"{self.steps} steps, each of {self.dataset_size} records drawn with probability {rate:.6g}, at "
            f"most {self.capacity} used, clipped to {self.clipping_norm_e9 / 1e9:g}{self._rule()}, noise "
            f"{self.noise_multiplier_e9 / 1e9:g} × sensitivity {self.sensitivity_e9 / 1e9:g}{self._views()}"
        )

    def _views(self) -> str:
        """What the model sees of a record, where that is not the record."""
        if not self.augment:
            return ""
        said = ", ".join(" ".join(str(part) for part in augmentation) for augmentation in self.augment)
        seen = "one augmented view" if self.views == 1 else f"the mean over {self.views} augmented views"
        return f"; of a record, {seen} ({said})"

    def _rule(self) -> str:
        """How it is clipped, where that is not by one bound for the whole gradient."""
        name, *numbers = self.clipping
        if name == "automatic":
            return f" (automatic, stability {int(numbers[0]) / 1e9:g})"
        if name == "adaptive":
            first, quantile, rate, weight = (int(number) / 1e9 for number in numbers)
            return (
                f" (adaptive, in units of the norm: from {first:g} to quantile {quantile:g} at rate "
                f"{rate:g}, a record counts {2 * weight:.3g})"
            )
        if name == "per-layer":
            shown = ", ".join(f"{int(bound) / 1e9:.3g}" for bound in numbers[:8])
            return f" (per layer: {shown}{', …' if len(numbers) > 8 else ''})"
        return ""


def default_accountant(events: list[dict[str, object]], delta: float) -> float:
    """The package's accountant (``dp_accounting``, PLD); imported only when it is first asked."""
    from myelin.privacy import accountant

    return accountant.epsilon(events, delta)


def epsilon_of(
    accountant: Accountant, events: Sequence[DpEvent | Mapping[str, object]], delta: float, what: str
) -> float:
    """ε of the composition; what the accountant cannot account for is an error, never a small number."""
    maps = [event.to_map() if isinstance(event, DpEvent) else dict(event) for event in events]
    try:
        epsilon = float(accountant(maps, delta))
    except (ValueError, ArithmeticError) as error:
        raise InputError(f"{what}: the accountant refuses the mechanism: {error}") from error
    except MemoryError:
        raise ProtocolError.named("budget_exhausted", f"{what}: too large to account for") from None
    if not epsilon >= 0:  # NaN too
        raise ProtocolError.named("budget_exhausted", f"{what}: the accountant gave {epsilon}")
    return epsilon
