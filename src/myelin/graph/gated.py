"""The recurrent part of a GRU, a whole sequence in one call, as of an LSTM (:mod:`~myelin.graph.recurrence`).

With the gates' inputs ``x W_ihᵀ + b_ih`` given for all positions, what is added to the recurrent product
(``b_hh``) given as ``added``, and ``h₋₁ = 0``, position t has, cut into r, z, n::

    p = added[t] + h[t−1] Wᵀ
    r, z = σ(gates[t] + p)      n = tanh(gates[t] + r·p)      h[t] = (1 − z)·n + z·h[t−1]

and the gradient, from the last position to the first, with δ[t] at ``gates`` and ε[t] at ``p``::

    dh = gradient[t] + z[t+1]·dh[t+1] + ε[t+1] W
    δ_n = dh·(1 − z)·(1 − n²)     δ_z = dh·(h[t−1] − n)·z·(1 − z)     δ_r = δ_n·p_n·r·(1 − r)
    ε = δ_r, δ_z, δ_n·r

``r`` multiplies the recurrent product with its own bias (Cho et al. 2014, as PyTorch and cuDNN have it). W
takes part at every position, with ``h[t−1]`` as input and ε[t] as output gradient: an ordinary linear layer
over the sequence to the rules of privacy, with ε the gradient at ``added``.
"""

from __future__ import annotations

from typing import Any

from tvm import relax, tirx
from tvm.tirx.script import builder as T  # noqa: N812  (TVM's own name for it)

from myelin.model.operators import call

from .relax_ir import call_family, loops, shape_of, tensor

__all__ = ["GRADIENTS", "LOWER"]

_ONE = tirx.const(1.0, "float32")
_ZERO = tirx.const(0.0, "float32")


def _sequence(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    """``gates, added [m, t, 3h], transposed [h, 3h] → hidden, previous [m, t, h], activations``.

    ``activations`` ``[m, t, 4h]`` are r, z, n and the n-part of p.
    """
    gates, added, weight = value.args
    batch, steps, width = shape_of(gates)
    states = width // 3
    shapes = [(batch, steps, states)] * 2 + [(batch, steps, 4 * states)]

    def body(x: Any, b: Any, w: Any, hidden: Any, previous: Any, activations: Any) -> None:
        with T.parallel(batch) as n, T.serial(steps) as t:
            row, state = (n * steps + t) * width, (n * steps + t) * states
            own = (n * steps + t) * (4 * states)
            with T.serial(states) as k:
                before = tirx.max(state - states + k, k)
                T.buffer_store(previous, tirx.Select(t > 0, hidden[before], _ZERO), [state + k])
                T.buffer_store(activations, b[row + k], [own + k])
                T.buffer_store(activations, b[row + states + k], [own + states + k])
                T.buffer_store(activations, b[row + 2 * states + k], [own + 3 * states + k])
            with T.serial(states) as k:
                for part, place in ((0, 0), (1, 1), (2, 3)):
                    with T.serial(states) as j:
                        at, from_ = own + place * states + j, k * width + part * states + j
                        total = tirx.op.fma(previous[state + k], w[from_], activations[at])
                        T.buffer_store(activations, total, [at])
            with T.serial(states) as k:
                for gate in range(2):
                    at = own + gate * states + k
                    bent = tirx.sigmoid(activations[at] + x[row + gate * states + k])
                    T.buffer_store(activations, bent, [at])
                inner = tirx.op.fma(
                    activations[own + k], activations[own + 3 * states + k], x[row + 2 * states + k]
                )
                T.buffer_store(activations, tirx.tanh(inner), [own + 2 * states + k])
                z, new = (activations[own + place * states + k] for place in (1, 2))
                T.buffer_store(hidden, (_ONE - z) * new + z * previous[state + k], [state + k])

    inputs = [(batch, steps, width), (batch, steps, width), (states, width)]
    function = loops("gru.sequence", inputs, shapes, body)
    transposed = builder.emit(relax.op.permute_dims(weight), name_hint="transposed")
    return call_family(builder, function, [gates, added, transposed], [tensor(s) for s in shapes], "states")


def _sequence_gradient(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    """``gradient, previous [m, t, h], activations [m, t, 4h], recurrent [3h, h] → δ, ε [m, t, 3h]``."""
    batch, steps, states = shape_of(value.args[0])
    width = 3 * states

    def body(g: Any, previous: Any, activations: Any, w: Any, of_gates: Any, of_product: Any) -> None:
        with T.parallel(batch) as n:
            # The gradient at the state that comes from the position after; on the stack, as of an LSTM.
            carried = T.alloc_buffer(
                (states,), "float32", scope="local", layout=None, annotations={"disable_lower_builtin": True}
            )
            with T.serial(states) as k:
                T.buffer_store(carried, _ZERO, [k])
            with T.serial(steps) as back:
                t = steps - 1 - back
                row, state = (n * steps + t) * width, (n * steps + t) * states
                own = (n * steps + t) * (4 * states)
                with T.serial(states) as k:
                    r, z, new, inner = (T.Bind(activations[own + place * states + k]) for place in range(4))
                    dh = T.Bind(g[state + k] + carried[k])
                    of_new = T.Bind(dh * (_ONE - z) * (_ONE - new * new))
                    of_z = T.Bind(dh * (previous[state + k] - new) * z * (_ONE - z))
                    of_r = T.Bind(of_new * inner * r * (_ONE - r))
                    for place, slope in enumerate((of_r, of_z, of_new)):
                        T.buffer_store(of_gates, slope, [row + place * states + k])
                    for place, slope in enumerate((of_r, of_z, of_new * r)):
                        T.buffer_store(of_product, slope, [row + place * states + k])
                    T.buffer_store(carried, dh * z, [k])
                with T.serial(width) as j, T.serial(states) as k:
                    total = tirx.op.fma(of_product[row + j], w[j * states + k], carried[k])
                    T.buffer_store(carried, total, [k])

    inputs, shape = [shape_of(argument) for argument in value.args], (batch, steps, width)
    function = loops("gru.sequence_gradient", inputs, [shape, shape], body)
    return call_family(builder, function, list(value.args), [tensor(shape), tensor(shape)], "gates_gradient")


def _of_gru(
    output: relax.Var, value: relax.Call, gradient: relax.Var, context: relax.BlockBuilder
) -> list[relax.Expr]:
    previous, activations = (relax.TupleGetItem(output, place) for place in (1, 2))
    weight = value.args[2]
    both = context.emit(
        call("gru_gradient", [relax.TupleGetItem(gradient, 0), previous, activations, weight])
    )
    return [*(relax.TupleGetItem(both, place) for place in range(2)), relax.op.grad.no_grad(weight)]


GRADIENTS = {"gru": _of_gru}
"""Gradient of the operator that a model is traced to."""

LOWER = {"gru": _sequence, "gru_gradient": _sequence_gradient}
"""Lowering of both operators."""
