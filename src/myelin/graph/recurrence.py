"""The recurrent part of an LSTM, a whole sequence in one call: no example waits for another at any step.

With the gates' inputs ``x W_ihᵀ + b`` given for all positions, and ``h₋₁ = c₋₁ = 0``, position t has::

    a = gates[t] + h[t−1] Wᵀ        cut into i, f, g, o
    i, f, o = σ(a)   g = tanh(a)
    c[t] = f·c[t−1] + i·g           h[t] = o·tanh(c[t])

and the gradient, from the last position to the first, with δ[t] the gradient at ``a`` of position t::

    dh = gradient[t] + δ[t+1] W
    dc = dh·o·(1 − tanh(c[t])²) + f[t+1]·dc[t+1]
    δ = dc·g·i·(1 − i), dc·c[t−1]·f·(1 − f), dc·i·(1 − g²), dh·tanh(c[t])·o·(1 − o)

The weight W takes part at every position, with ``h[t−1]`` as input and δ[t] as output gradient: the family
gives ``previous``, the hidden states moved by one position, so that W is an ordinary linear layer over the
sequence to the rules of privacy (Hochreiter and Schmidhuber 1997; gates as Gers et al. 2000).
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


def _sigmoid(x: tirx.PrimExpr) -> tirx.PrimExpr:
    return tirx.sigmoid(x)


def _sequence(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    """``gates [m, t, 4h], transposed [h, 4h] → hidden, previous, cells [m, t, h], activations``."""
    gates, weight = value.args
    batch, steps, width = shape_of(gates)
    states = width // 4
    shapes = [(batch, steps, states)] * 3 + [(batch, steps, width)]

    def body(x: Any, w: Any, hidden: Any, previous: Any, cells: Any, activations: Any) -> None:
        with T.parallel(batch) as n, T.serial(steps) as t:
            row, state = (n * steps + t) * width, (n * steps + t) * states
            with T.serial(states) as k:
                before = tirx.max(state - states + k, k)
                T.buffer_store(previous, tirx.Select(t > 0, hidden[before], _ZERO), [state + k])
            with T.serial(width) as j:
                T.buffer_store(activations, x[row + j], [row + j])
            with T.serial(states) as k, T.serial(width) as j:
                total = tirx.op.fma(previous[state + k], w[k * width + j], activations[row + j])
                T.buffer_store(activations, total, [row + j])
            with T.serial(states) as k:
                for gate in range(4):
                    at = row + gate * states + k
                    apply = tirx.tanh if gate == 2 else _sigmoid
                    T.buffer_store(activations, apply(activations[at]), [at])
                i, f, g, o = (activations[row + gate * states + k] for gate in range(4))
                before = tirx.max(state - states + k, k)
                kept = tirx.Select(t > 0, f * cells[before], _ZERO)
                T.buffer_store(cells, tirx.op.fma(i, g, kept), [state + k])
                T.buffer_store(hidden, o * tirx.tanh(cells[state + k]), [state + k])

    function = loops("lstm.sequence", [(batch, steps, width), (states, width)], shapes, body)
    transposed = builder.emit(relax.op.permute_dims(weight), name_hint="transposed")
    return call_family(builder, function, [gates, transposed], [tensor(s) for s in shapes], "states")


def _sequence_gradient(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    """``gradient, cells [m, t, h], activations [m, t, 4h], recurrent [4h, h] → δ [m, t, 4h]``."""
    batch, steps, width = shape_of(value.args[2])
    states = width // 4

    def body(g: Any, cells: Any, activations: Any, w: Any, result: Any) -> None:
        with T.parallel(batch) as n:
            # Gradients at the state that come from the position after: of h, then of c.
            # On the stack: the code generator then sees that nothing else points there.
            carried = T.alloc_buffer(
                (2 * states,),
                "float32",
                scope="local",
                layout=None,
                annotations={"disable_lower_builtin": True},
            )
            with T.serial(2 * states) as k:
                T.buffer_store(carried, _ZERO, [k])
            with T.serial(steps) as back:
                t = steps - 1 - back
                row, state = (n * steps + t) * width, (n * steps + t) * states
                with T.serial(states) as k:
                    gate = [activations[row + place * states + k] for place in range(4)]
                    i, f, c, o = (T.Bind(part) for part in gate)
                    bent = T.Bind(tirx.tanh(cells[state + k]))
                    dh = T.Bind(g[state + k] + carried[k])
                    dc = T.Bind(carried[states + k] + dh * o * (_ONE - bent * bent))
                    before = tirx.Select(t > 0, cells[tirx.max(state - states + k, k)], _ZERO)
                    slopes = [
                        dc * c * i * (_ONE - i),
                        dc * before * f * (_ONE - f),
                        dc * i * (_ONE - c * c),
                        dh * bent * o * (_ONE - o),
                    ]
                    for place, slope in enumerate(slopes):
                        T.buffer_store(result, slope, [row + place * states + k])
                    T.buffer_store(carried, dc * f, [states + k])
                    T.buffer_store(carried, _ZERO, [k])
                with T.serial(width) as j, T.serial(states) as k:
                    total = tirx.op.fma(result[row + j], w[j * states + k], carried[k])
                    T.buffer_store(carried, total, [k])

    inputs = [shape_of(argument) for argument in value.args]
    function = loops("lstm.sequence_gradient", inputs, [(batch, steps, width)], body)
    return call_family(builder, function, list(value.args), [tensor((batch, steps, width))], "gates_gradient")


def _of_lstm(
    output: relax.Var, value: relax.Call, gradient: relax.Var, _context: relax.BlockBuilder
) -> list[relax.Expr]:
    cells, activations = (relax.TupleGetItem(output, place) for place in (2, 3))
    of_hidden = relax.TupleGetItem(gradient, 0)
    of_gates = call("lstm_gradient", [of_hidden, cells, activations, value.args[1]])
    return [of_gates, relax.op.grad.no_grad(value.args[1])]


GRADIENTS = {"lstm": _of_lstm}
"""Gradient of the operator that a model is traced to."""

LOWER = {"lstm": _sequence, "lstm_gradient": _sequence_gradient}
"""Lowering of both operators."""
