"""Optimizers. Each takes gradients that are private already: clipped, summed, noised, divided.

So whatever an optimizer does, with weight decay, a schedule of the learning rate or an average of the
weights, is post-processing and costs no privacy. All of it runs in the enclave, coordinate by coordinate.
"""

from __future__ import annotations

from dataclasses import dataclass

from .checks import is_real, require
from .learning_rate import Constant, CosineDecay, LearningRate, LinearWarmUp, StepDecay, largest_rate

__all__ = ["SGD", "Adam", "AdamW", "DPAdamBC", "ExponentialMovingAverage", "Optimizer"]

_RATES = (Constant, CosineDecay, LinearWarmUp, StepDecay)


def _check(optimizer: object, positive: tuple[str, ...], fractions: tuple[str, ...]) -> None:
    """Learning rate, numbers above 0, and numbers in [0, 1)."""
    name, rate = type(optimizer).__name__, getattr(optimizer, "learning_rate", None)
    if not isinstance(rate, _RATES):
        kinds = ", ".join(kind.__name__ for kind in _RATES[:-1])
        expected = f"a number above 0, {kinds} or {_RATES[-1].__name__}"
        require(is_real(rate) and rate > 0, f"{name} learning_rate", rate, expected)  # type: ignore[operator]
    for field in positive:
        value = getattr(optimizer, field)
        require(is_real(value) and value > 0, f"{name} {field}", value, "a number above 0")
    for field in fractions:
        value = getattr(optimizer, field)
        require(is_real(value) and 0 <= value < 1, f"{name} {field}", value, "a number in [0, 1)")


@dataclass(frozen=True)
class SGD:
    """SGD with heavy-ball momentum and weight decay as an L2 penalty, as PyTorch has them:
    ``g ← g + weight_decay·w``, ``v ← momentum·v + g``, ``w ← w − learning_rate·v``.

    The penalty is added to the noisy gradient, after clipping: it is a function of the weights, which are
    released, and uses up none of an example's clipping norm.
    """

    learning_rate: LearningRate
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self, (), ("momentum",))
        holds = is_real(self.weight_decay) and self.weight_decay >= 0
        require(holds, "SGD weight_decay", self.weight_decay, "a number from 0")


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1)."""

    learning_rate: LearningRate = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _check(self, ("epsilon",), ("beta1", "beta2"))


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    Every parameter first loses ``learning_rate·weight_decay`` of itself, then moves as with :class:`Adam`.
    """

    learning_rate: LearningRate = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        _check(self, ("epsilon",), ("beta1", "beta2"))
        require(
            is_real(self.weight_decay) and 0 <= self.weight_decay * largest_rate(self.learning_rate) < 1,
            "AdamW weight_decay",
            self.weight_decay,
            "a number from 0 to below 1 / learning_rate",
        )


@dataclass(frozen=True)
class DPAdamBC:
    """Adam that takes the noise's variance off its second moment (DP-AdamBC, Tang, Shpilevskiy and Lécuyer
    2024): ``w ← w − learning_rate·m̂ / √max(v̂ − φ², floor)``.

    ``m̂`` and ``v̂`` are Adam's corrected moments, and ``φ = noise_multiplier × sensitivity /
    expected_batch_size`` the standard deviation of the noise in each coordinate of the gradient, which the
    compiler takes from the job's plan. Adam's moment holds φ² in every coordinate, so that where noise
    prevails it moves all of them alike. ``floor`` bounds the step where little is left, as Adam's epsilon².
    """

    learning_rate: LearningRate = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    floor: float = 5e-8

    def __post_init__(self) -> None:
        _check(self, ("floor",), ("beta1", "beta2"))


Optimizer = SGD | Adam | AdamW | DPAdamBC


@dataclass(frozen=True)
class ExponentialMovingAverage:
    """Release an average of the weights instead of the last ones; training goes on with the last ones.

    After step T the average is ``Σ decay^(T − t)·w_t`` over t = 1 … T, divided by ``Σ decay^(T − t)``: the
    random initial weights are no part of it, and a short run is averaged over what there is. It is computed
    in the enclave from weights that are private already: post-processing, without a cost.
    """

    decay: float

    def __post_init__(self) -> None:
        holds = is_real(self.decay) and 0 <= self.decay < 1
        require(holds, "ExponentialMovingAverage decay", self.decay, "a number in [0, 1)")
