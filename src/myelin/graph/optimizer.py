"""Optimizer → update function, once per logical step, on gradients that are private already."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, te, tirx

from myelin.model import SGD, Adam, AdamW, Optimizer

from .relax_ir import call_family, emit_function, family, tensor

__all__ = ["state_shapes", "update_function"]

_STEP_BITS = 31
"""Bits of a step number: an int32 from 1."""


def state_shapes(optimizer: Optimizer, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Shapes of the optimizer's state, which starts at zero.

    SGD: none without momentum, else one velocity per parameter. Adam and AdamW: all first moments, then all
    second moments.
    """
    if isinstance(optimizer, Adam | AdamW):
        return (*shapes, *shapes)
    return tuple(shapes) if optimizer.momentum else ()


def update_function(
    builder: relax.BlockBuilder,
    name: str,
    optimizer: Optimizer,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
) -> None:
    """Add ``name`` to ``builder``:
    ``(step_number, *parameters, *state, *noisy_gradients) → (*new parameters, *new state)``.

    ``step_number`` is int32 ``[1]``, 1 at the first step; all else is float32.
    """
    plain = [name.replace(".", "_") for name in names]
    step = relax.Var("step_number", tensor((1,), "int32"))

    def variables(suffix: str) -> list[relax.Var]:
        return [relax.Var(f"{p}{suffix}", tensor(s)) for p, s in zip(plain, shapes, strict=True)]

    parameters, gradients = variables(""), variables("_gradient")
    if isinstance(optimizer, Adam | AdamW):
        first, second = variables("_first_moment"), variables("_second_moment")
        state = [*first, *second]
        emit_function(
            builder,
            name,
            [step, *parameters, *state, *gradients],
            lambda: _adam(builder, optimizer, step, parameters, first, second, gradients),
        )
        return
    velocities = variables("_velocity") if optimizer.momentum else []
    emit_function(
        builder,
        name,
        [step, *parameters, *velocities, *gradients],
        lambda: _sgd(builder, optimizer, parameters, velocities, gradients),
    )


def _scaled(value: relax.Expr, factor: float) -> relax.Expr:
    return relax.op.multiply(value, relax.const(factor, "float32"))


def _sgd(
    builder: relax.BlockBuilder,
    optimizer: SGD,
    parameters: Sequence[relax.Expr],
    velocities: Sequence[relax.Expr],
    gradients: Sequence[relax.Expr],
) -> list[relax.Expr]:
    if velocities:
        gradients = [
            builder.emit(relax.op.add(_scaled(velocity, optimizer.momentum), gradient), name_hint="velocity")
            for velocity, gradient in zip(velocities, gradients, strict=True)
        ]
    stepped = [
        builder.emit(relax.op.subtract(value, _scaled(gradient, optimizer.learning_rate)), name_hint="value")
        for value, gradient in zip(parameters, gradients, strict=True)
    ]
    return [*stepped, *(gradients if velocities else [])]


def _adam(
    builder: relax.BlockBuilder,
    optimizer: Adam | AdamW,
    step: relax.Expr,
    parameters: Sequence[relax.Expr],
    first: Sequence[relax.Expr],
    second: Sequence[relax.Expr],
    gradients: Sequence[relax.Expr],
) -> list[relax.Expr]:
    op, beta1, beta2 = relax.op, optimizer.beta1, optimizer.beta2
    correction1, correction2 = _bias_corrections(builder, step, beta1, beta2)
    stepped, new_first, new_second = [], [], []
    for value, m, v, gradient in zip(parameters, first, second, gradients, strict=True):
        square = op.multiply(gradient, gradient)
        m = builder.emit(op.add(_scaled(m, beta1), _scaled(gradient, 1.0 - beta1)), name_hint="first_moment")
        v = builder.emit(op.add(_scaled(v, beta2), _scaled(square, 1.0 - beta2)), name_hint="second_moment")
        scale = op.add(op.sqrt(op.multiply(v, correction2)), relax.const(optimizer.epsilon, "float32"))
        move = op.divide(_scaled(op.multiply(m, correction1), optimizer.learning_rate), scale)
        if isinstance(optimizer, AdamW) and optimizer.weight_decay:
            value = _scaled(value, 1.0 - optimizer.learning_rate * optimizer.weight_decay)
        stepped.append(builder.emit(op.subtract(value, move), name_hint="value"))
        new_first.append(m)
        new_second.append(v)
    return [*stepped, *new_first, *new_second]


def _bias_corrections(
    builder: relax.BlockBuilder, step: relax.Expr, beta1: float, beta2: float
) -> tuple[relax.Expr, ...]:
    """``1 / (1 − βᵗ)`` for both, float32 ``[1]``; βᵗ is the product of β^(2ᵏ) over t's bits: no ``pow``."""
    t = te.placeholder((1,), "int32", name="step_number")

    def correction(beta: float, name: str) -> te.Tensor:
        def value(i: tirx.Var) -> tirx.PrimExpr:
            product = tirx.const(1.0, "float64")
            for bit in range(_STEP_BITS):
                is_set = (t[i] >> bit) & tirx.const(1, "int32")
                factor = tirx.const(beta ** (2.0**bit), "float64")
                product = product * tirx.Select(is_set == 1, factor, tirx.const(1.0, "float64"))
            return (tirx.const(1.0, "float64") / (tirx.const(1.0, "float64") - product)).astype("float32")

        return te.compute((1,), value, name=name)

    outputs = [correction(beta1, "first_correction"), correction(beta2, "second_correction")]
    function = family("adam.bias_correction", [t, *outputs])
    return call_family(builder, function, [step], [tensor((1,)), tensor((1,))], "correction")
