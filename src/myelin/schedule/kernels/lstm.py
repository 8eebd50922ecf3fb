"""The recurrent part of an LSTM and its gradient: all positions of all examples in one call.

At each position the examples' states are the rows of one product with the recurrent weight, which comes
packed and stays in the second-level cache from one position to the next. Formulas:
:mod:`myelin.graph.recurrence`.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from . import vectors
from .blocking import Blocking, Epilogue, Product
from .emit import Expr, Machine, constant, cuts, fma, hold, kernel, load, loop, pieces, spread, store
from .gemm import Operands, emit_product
from .panels import Factor, panel_elements

_Shape = tuple[int, ...]


def _each_state(machine: Machine, states: int, visit: Callable[[Expr, int], None]) -> None:
    """Visit the states of an example, vector after vector: ``visit(place, lanes)``."""
    for cut in cuts(states, machine.lanes):
        with loop(cut.count) as i:
            for piece in pieces(cut.length, machine.lanes):
                visit(cut.start + i * cut.length + piece.offset, piece.lanes)


def _of_states(gates: _Shape) -> Product:
    """``gates[:, t] + previous[:, t] Wᵀ``, from position 0; the start of position t is added to it."""
    m, steps, width = gates
    states = width // 4
    left = Factor((m, steps, states), (), steps * states, 1)
    target = Factor(gates, (), steps * width, 1)
    return Product((), m, states, width, left, None, target, Epilogue(residual=True))


def lstm_sequence(machine: Machine, gates: _Shape) -> tirx.PrimFunc:
    """``gates [m, T, 4h]`` and the packed ``[h, 4h]`` to hidden, previous, cells and activations.

    ``hidden``, ``previous`` (hidden, one position later) and ``cells`` are ``[m, T, h]``, ``activations``
    ``[m, T, 4h]``. A last output is scratch, if there is one.
    """
    m, steps, width = gates
    states, product = width // 4, _of_states(gates)
    scratch = Blocking(product, machine).scratch
    state = ((m, steps, states), "float32")
    outputs = [state, state, state, (gates, "float32")]
    if scratch:
        outputs.append(((scratch,), "float32"))

    def body(x: tirx.Buffer, w: tirx.Buffer, *out: tirx.Buffer) -> None:
        hidden, previous, cells, activations, *rest = out
        operands = Operands(previous, w, activations, rest[0] if rest else None, residual=x)
        with loop(steps) as t:
            with loop(m) as n:
                place = (n * steps + t) * states

                def carry(k: Expr, lanes: int, place: Expr = place) -> None:
                    before = load(hidden, tirx.max(place - states, 0) + k, lanes)
                    store(previous, place + k, _after_first(t, before, lanes), lanes)

                _each_state(machine, states, carry)
            emit_product(machine, product, operands, t * states, t * width)
            with loop(m) as n:
                row = n * steps + t

                def cell(k: Expr, lanes: int, row: Expr = row) -> None:
                    _cell(hidden, cells, activations, (row, states, t), k, lanes)

                _each_state(machine, states, cell)

    inputs = [(gates, "float32"), ((panel_elements(machine, states, width),), "float32")]
    return kernel("lstm_sequence", inputs, outputs, body)


def _after_first(t: Expr, value: Expr, lanes: int) -> Expr:
    """The value, or zeros at the first position."""
    return tirx.Select(spread(t > 0, lanes), value, constant(0.0, lanes))


def _cell(
    hidden: tirx.Buffer,
    cells: tirx.Buffer,
    activations: tirx.Buffer,
    place: tuple[Expr, int, Expr],
    k: Expr,
    lanes: int,
) -> None:
    """Gates to activations, cells and hidden states."""
    row, states, t = place
    gates = []
    for number, function in enumerate((vectors.sigmoid, vectors.sigmoid, vectors.tanh, vectors.sigmoid)):
        at = row * (4 * states) + number * states + k
        gates.append(function(hold(load(activations, at, lanes), lanes), lanes))
        store(activations, at, gates[-1], lanes)
    i, f, g, o = gates
    before = load(cells, tirx.max((row - 1) * states, 0) + k, lanes)
    kept = hold(f * _after_first(t, before, lanes), lanes)
    new = hold(fma(i, g, kept, lanes), lanes)
    store(cells, row * states + k, new, lanes)
    store(hidden, row * states + k, o * vectors.tanh(new, lanes), lanes)


def lstm_sequence_gradient(machine: Machine, gates: _Shape) -> tirx.PrimFunc:
    """Gradient ``[m, T, h]``, cells, activations and the packed ``[4h, h]`` to δ ``[m, T, 4h]``.

    Further outputs are scratch: what is carried from position to position, ``[2, m, h]``, and the product's.
    """
    m, steps, width = gates
    states = width // 4
    left = Factor(gates, (), steps * width, 1)
    product = Product((), m, width, states, left, None, Factor((2, m, states), (), states, 1))
    scratch = Blocking(product, machine).scratch
    outputs: list[tuple[_Shape, str]] = [(gates, "float32"), ((2, m, states), "float32")]
    if scratch:
        outputs.append(((scratch,), "float32"))

    def body(
        g: tirx.Buffer, cells: tirx.Buffer, activations: tirx.Buffer, w: tirx.Buffer, *out: tirx.Buffer
    ) -> None:
        result, carried, *rest = out
        operands = Operands(result, w, carried, rest[0] if rest else None)
        _each_state(machine, 2 * m * states, lambda k, lanes: store(carried, k, constant(0.0, lanes), lanes))
        with loop(steps) as back:
            t = steps - 1 - back
            with loop(m) as n:

                def slope(k: Expr, lanes: int, n: Expr = n) -> None:
                    sources = (g, cells, activations, carried, result)
                    _slopes(sources, (n, n * steps + t, m, states, t), k, lanes)

                _each_state(machine, states, slope)
            with T.If(t > 0), T.Then():
                emit_product(machine, product, operands, t * width, 0)

    state = ((m, steps, states), "float32")
    panels = ((panel_elements(machine, width, states),), "float32")
    return kernel("lstm_sequence_gradient", [state, state, (gates, "float32"), panels], outputs, body)


def _slopes(
    buffers: tuple[tirx.Buffer, ...], place: tuple[Expr, Expr, int, int, Expr], k: Expr, lanes: int
) -> None:
    """δ of one position from the gradient at its hidden state and what the position after carries."""
    g, cells, activations, carried, result = buffers
    n, row, m, states, t = place
    one = constant(1.0, lanes)
    i, f, c, o = (load(activations, row * (4 * states) + p * states + k, lanes) for p in range(4))
    bent = vectors.tanh(load(cells, row * states + k, lanes), lanes)
    of_hidden, of_cell = n * states + k, (m + n) * states + k
    dh = hold(load(g, row * states + k, lanes) + load(carried, of_hidden, lanes), lanes)
    slope = hold(one - bent * bent, lanes)
    dc = hold(fma(hold(dh * o, lanes), slope, load(carried, of_cell, lanes), lanes), lanes)
    before = _after_first(t, load(cells, tirx.max((row - 1) * states, 0) + k, lanes), lanes)
    slopes = [
        dc * c * i * (one - i),
        dc * before * f * (one - f),
        dc * i * (one - c * c),
        dh * bent * o * (one - o),
    ]
    for number, value in enumerate(slopes):
        store(result, row * (4 * states) + number * states + k, value, lanes)
    store(carried, of_cell, dc * f, lanes)
