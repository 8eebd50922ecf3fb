"""Optimizer → update function, once per logical step, on gradients that are private already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import relax, tirx

from myelin.errors import BuildError
from myelin.model import SGD, Adam, AdamW, DPAdamBC, ExponentialMovingAverage, LearningRate, Optimizer

from .learning_rate import constant_rate, emit_numbers, one_minus_power, rate_at, wide
from .relax_ir import emit_function, tensor

__all__ = ["released_results", "state_shapes", "update_function"]


def state_shapes(
    optimizer: Optimizer, shapes: Sequence[tuple[int, ...]], average: ExponentialMovingAverage | None = None
) -> tuple[tuple[int, ...], ...]:
    """Shapes of the update's state, which starts at zero.

    SGD: none without momentum, else one velocity per parameter. The others: all first moments, then all
    second moments. Behind them, one average per parameter if there is one.
    """
    copies = (1 if optimizer.momentum else 0) if isinstance(optimizer, SGD) else 2
    return tuple(shapes) * (copies + (1 if average else 0))


def released_results(
    optimizer: Optimizer, shapes: Sequence[tuple[int, ...]], average: ExponentialMovingAverage | None = None
) -> tuple[int, ...]:
    """Which of the update's results is given out for each parameter: its value, or its average."""
    count = len(shapes)
    start = len(state_shapes(optimizer, shapes, average)) if average else 0
    return tuple(range(start, start + count))


def update_function(
    builder: relax.BlockBuilder,
    name: str,
    optimizer: Optimizer,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    average: ExponentialMovingAverage | None = None,
    noise_deviation: float | None = None,
) -> None:
    """Add ``name`` to ``builder``:
    ``(step_number, *parameters, *state, *noisy_gradients) → (*new parameters, *new state)``.

    ``step_number`` is int32 ``[1]``, 1 at the first step; all else is float32. Everything here reads noisy
    gradients, parameters, state and the public step number: post-processing. Every new value is made of old
    ones of its own coordinate.

    Args:
        noise_deviation: standard deviation of the noise in a coordinate of the gradients, which
            :class:`~myelin.model.DPAdamBC` needs.

    Raises:
        BuildError: the optimizer needs the noise's deviation, and it is not known.
    """
    plain = [name.replace(".", "_") for name in names]
    step = relax.Var("step_number", tensor((1,), "int32"))

    def variables(suffix: str) -> list[relax.Var]:
        return [relax.Var(f"{p}{suffix}", tensor(s)) for p, s in zip(plain, shapes, strict=True)]

    parameters, gradients = variables(""), variables("_gradient")
    if isinstance(optimizer, SGD):
        suffixes = ["_velocity"] if optimizer.momentum else []
    else:
        suffixes = ["_first_moment", "_second_moment"]
    state = [variables(suffix) for suffix in suffixes]
    averages = variables("_average") if average else []

    def body() -> list[relax.Expr]:
        new = (
            _sgd(builder, optimizer, step, parameters, state, gradients)
            if isinstance(optimizer, SGD)
            else _adam(builder, optimizer, step, parameters, state, gradients, noise_deviation)
        )
        return [*new, *(_average(builder, average, step, new, averages) if average else [])]

    flat = [variable for group in state for variable in group]
    emit_function(builder, name, [step, *parameters, *flat, *averages, *gradients], body)


def _scaled(value: relax.Expr, factor: float) -> relax.Expr:
    return relax.op.multiply(value, relax.const(factor, "float32"))


@dataclass(frozen=True)
class _Rate:
    """The learning rate of a step, and what decoupled weight decay leaves of a weight: numbers or ``[1]``."""

    rate: relax.Expr
    keep: relax.Expr | None


def _rate(builder: relax.BlockBuilder, rate: LearningRate, step: relax.Expr, weight_decay: float) -> _Rate:
    fixed = constant_rate(rate)
    if fixed is not None:
        keep = relax.const(1.0 - fixed * weight_decay, "float32") if weight_decay else None
        return _Rate(relax.const(fixed, "float32"), keep)
    numbers = {"rate": lambda t: rate_at(rate, t)}
    if weight_decay:
        numbers["keep"] = lambda t: tirx.op.fma(rate_at(rate, t), wide(-weight_decay), wide(1.0))
    values = emit_numbers(builder, step, "learning_rate", numbers)
    return _Rate(values["rate"], values.get("keep"))


def _sgd(
    builder: relax.BlockBuilder,
    optimizer: SGD,
    step: relax.Expr,
    parameters: Sequence[relax.Expr],
    state: Sequence[Sequence[relax.Expr]],
    gradients: Sequence[relax.Expr],
) -> list[relax.Expr]:
    op, rate = relax.op, _rate(builder, optimizer.learning_rate, step, 0.0).rate
    if optimizer.weight_decay:
        gradients = [
            builder.emit(op.add(gradient, _scaled(value, optimizer.weight_decay)), name_hint="penalised")
            for value, gradient in zip(parameters, gradients, strict=True)
        ]
    if state:
        gradients = [
            builder.emit(op.add(_scaled(velocity, optimizer.momentum), gradient), name_hint="velocity")
            for velocity, gradient in zip(state[0], gradients, strict=True)
        ]
    stepped = [
        builder.emit(op.subtract(value, op.multiply(gradient, rate)), name_hint="value")
        for value, gradient in zip(parameters, gradients, strict=True)
    ]
    return [*stepped, *(gradients if state else [])]


def _adam(
    builder: relax.BlockBuilder,
    optimizer: Adam | AdamW | DPAdamBC,
    step: relax.Expr,
    parameters: Sequence[relax.Expr],
    state: Sequence[Sequence[relax.Expr]],
    gradients: Sequence[relax.Expr],
    noise_deviation: float | None,
) -> list[relax.Expr]:
    op, beta1, beta2 = relax.op, optimizer.beta1, optimizer.beta2
    corrections = emit_numbers(
        builder,
        step,
        "bias_correction",
        {
            "first": lambda t: wide(1.0) / one_minus_power(beta1, t),
            "second": lambda t: wide(1.0) / one_minus_power(beta2, t),
        },
    )
    rate = _rate(
        builder,
        optimizer.learning_rate,
        step,
        optimizer.weight_decay if isinstance(optimizer, AdamW) else 0.0,
    )
    stepped, new_first, new_second = [], [], []
    for value, m, v, gradient in zip(parameters, *state, gradients, strict=True):
        square = op.multiply(gradient, gradient)
        m = builder.emit(op.add(_scaled(m, beta1), _scaled(gradient, 1.0 - beta1)), name_hint="first_moment")
        v = builder.emit(op.add(_scaled(v, beta2), _scaled(square, 1.0 - beta2)), name_hint="second_moment")
        scale = _scale(optimizer, op.multiply(v, corrections["second"]), noise_deviation)
        move = op.divide(op.multiply(op.multiply(m, corrections["first"]), rate.rate), scale)
        if rate.keep is not None:
            value = op.multiply(value, rate.keep)
        stepped.append(builder.emit(op.subtract(value, move), name_hint="value"))
        new_first.append(m)
        new_second.append(v)
    return [*stepped, *new_first, *new_second]


def _scale(
    optimizer: Adam | AdamW | DPAdamBC, second: relax.Expr, noise_deviation: float | None
) -> relax.Expr:
    """What a coordinate's move is divided by, from its corrected second moment."""
    op = relax.op
    if not isinstance(optimizer, DPAdamBC):
        return op.add(op.sqrt(second), relax.const(optimizer.epsilon, "float32"))
    if noise_deviation is None:
        raise BuildError(
            "DPAdamBC takes the noise's variance off its second moment, and the job's plan does not know it; "
            "use a myelin.privacy.DpPlan"
        )
    signal = op.subtract(second, relax.const(noise_deviation**2, "float32"))
    return op.sqrt(op.maximum(signal, relax.const(optimizer.floor, "float32")))


def _average(
    builder: relax.BlockBuilder,
    average: ExponentialMovingAverage,
    step: relax.Expr,
    values: Sequence[relax.Expr],
    averages: Sequence[relax.Expr],
) -> list[relax.Expr]:
    """``a + (1 − d)/(1 − dᵗ)·(w − a)``: the average so far, of weights that sum to 1.

    At the first step the factor is exactly 1, so that the zero that an average starts with leaves no trace.
    """
    op, decay = relax.op, average.decay
    share = emit_numbers(
        builder, step, "average", {"share": lambda t: wide(1.0 - decay) / one_minus_power(decay, t)}
    )["share"]
    return [
        builder.emit(op.add(old, op.multiply(op.subtract(value, old), share)), name_hint="average")
        for value, old in zip(values, averages, strict=False)
    ]
