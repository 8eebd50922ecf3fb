"""The oracle's losses, learning rates and updates: their definitions in float64, by NumPy's own functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from myelin.model import (
    SGD,
    AdamW,
    BinaryCrossEntropy,
    Constant,
    CosineDecay,
    CrossEntropy,
    DPAdamBC,
    ExponentialMovingAverage,
    Huber,
    LearningRate,
    LinearWarmUp,
    Loss,
    MeanSquaredError,
    Optimizer,
    StepDecay,
)

from .oracle_operators import Array

__all__ = ["apply_update", "learning_rate_at", "loss_gradient"]


def loss_gradient(loss: Loss, outputs: Array, label: float) -> Array:
    """Gradient of one example's loss by the model's outputs ``[1, outputs]``."""
    if isinstance(loss, BinaryCrossEntropy):
        return np.asarray(1 / (1 + np.exp(-outputs)) - (label == 1))
    if isinstance(loss, MeanSquaredError):
        return np.asarray(2 * (outputs - label))
    if isinstance(loss, Huber):
        error = outputs - label
        return np.asarray(np.where(np.abs(error) <= loss.delta, error, loss.delta * np.sign(error)))
    assert isinstance(loss, CrossEntropy)
    if label == loss.ignore_index:
        return np.zeros_like(outputs)
    exponentials = np.exp(outputs - outputs.max())
    onehot = (np.arange(outputs.shape[-1]) == label).astype(np.float64)
    target = (1 - loss.label_smoothing) * onehot + loss.label_smoothing / outputs.shape[-1]
    return np.asarray(exponentials / exponentials.sum() - target)


def learning_rate_at(rate: LearningRate, step_number: int) -> float:
    """``rate`` at a step, the first of which is 1."""
    if isinstance(rate, LinearWarmUp):
        if step_number <= rate.steps:
            return learning_rate_at(rate.then, 1) * step_number / rate.steps
        return learning_rate_at(rate.then, step_number - rate.steps)
    done = step_number - 1
    if isinstance(rate, CosineDecay):
        cosine = math.cos(math.pi * min(done, rate.steps) / rate.steps)
        return rate.final + (rate.initial - rate.final) * (1 + cosine) / 2
    if isinstance(rate, StepDecay):
        return float(rate.initial * rate.factor ** (done // rate.every))
    return rate.rate if isinstance(rate, Constant) else rate


def apply_update(
    optimizer: Optimizer,
    step_number: int,
    parameters: Sequence[Array],
    state: Sequence[Array],
    gradients: Sequence[Array],
    average: ExponentialMovingAverage | None = None,
    noise_deviation: float = 0.0,
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """One step of ``optimizer``: new parameters, new state in the order of ``TrainingGraph.state_shapes``."""
    count = len(parameters)
    own, averages = (list(state[:-count]), list(state[-count:])) if average else (list(state), [])
    rate = learning_rate_at(optimizer.learning_rate, step_number)
    if isinstance(optimizer, SGD):
        new, new_state = _sgd(optimizer, rate, parameters, own, gradients)
    else:
        new, new_state = _adam(optimizer, rate, step_number, parameters, own, gradients, noise_deviation)
    if average:
        new_state += [
            _averaged(average.decay, step_number, old, value)
            for old, value in zip(averages, new, strict=True)
        ]
    return tuple(new), tuple(new_state)


def _sgd(
    optimizer: SGD,
    rate: float,
    parameters: Sequence[Array],
    state: Sequence[Array],
    gradients: Sequence[Array],
) -> tuple[list[Array], list[Array]]:
    moves = [g + optimizer.weight_decay * p for p, g in zip(parameters, gradients, strict=True)]
    if state:
        moves = [optimizer.momentum * v + g for v, g in zip(state, moves, strict=True)]
    new = [p - rate * v for p, v in zip(parameters, moves, strict=True)]
    return new, moves if state else []


def _adam(
    optimizer: Optimizer,
    rate: float,
    step_number: int,
    parameters: Sequence[Array],
    state: Sequence[Array],
    gradients: Sequence[Array],
    noise_deviation: float,
) -> tuple[list[Array], list[Array]]:
    assert not isinstance(optimizer, SGD)
    beta1, beta2, count = optimizer.beta1, optimizer.beta2, len(parameters)
    first = [beta1 * m + (1 - beta1) * g for m, g in zip(state[:count], gradients, strict=True)]
    second = [beta2 * v + (1 - beta2) * g**2 for v, g in zip(state[count:], gradients, strict=True)]
    unbiased1, unbiased2 = 1 - beta1**step_number, 1 - beta2**step_number
    decay = 1 - rate * optimizer.weight_decay if isinstance(optimizer, AdamW) else 1.0

    def scale(v: Array) -> Array:
        if isinstance(optimizer, DPAdamBC):
            return np.asarray(np.sqrt(np.maximum(v / unbiased2 - noise_deviation**2, optimizer.floor)))
        return np.asarray(np.sqrt(v / unbiased2) + optimizer.epsilon)

    new = [
        decay * p - rate * (m / unbiased1) / scale(v)
        for p, m, v in zip(parameters, first, second, strict=True)
    ]
    return new, [*first, *second]


def _averaged(decay: float, step_number: int, old: Array, value: Array) -> Array:
    """The weighted mean of the values so far, from the mean before: ``old`` stands for decay + … + decay^(t −
    1)."""
    before = sum(decay**age for age in range(1, step_number))
    return np.asarray((before * old + value) / (before + 1))
