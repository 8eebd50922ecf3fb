"""The recurrent part of an LSTM and its gradient: all positions of all examples in one call.

At each position the examples' states are the rows of one product with the recurrent weight, which comes
packed and stays in the second-level cache from one position to the next. What follows the product is done to
a strip of its sums while they are in the first-level cache. What one position hands to the next lies close
together in a scratch tensor: rows of one position of all examples are a sequence apart, and would drive each
other out of the caches. Formulas: :mod:`myelin.graph.recurrence`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from . import vectors
from .emit import (
    Expr,
    Machine,
    cleared,
    constant,
    cuts,
    fma,
    hold,
    kernel,
    load,
    loop,
    pieces,
    spread,
    store,
)
from .panels import STRIP_VECTORS, Factor, panel_elements, transpose

_Shape = tuple[int, ...]

#: Gates of a state, in the order i, f, g, o.
GATES = 4
#: Elements between rows of a scratch tensor, so that they do not fall on few sets of a first-level cache.
_PADDING = 16
#: Most elements of a panel of the weight and of the states that meet it: most of a first-level cache.
_NEAR_ELEMENTS = 7168


def gate_elements(machine: Machine, states: int) -> int:
    """Elements of a recurrent weight packed by :func:`pack_gates`."""
    return states * GATES * -(-states // machine.lanes) * machine.lanes


def pack_gates(machine: Machine, states: int, factor: Factor) -> tirx.PrimFunc:
    """A kernel that packs ``[h, 4h]``, as ``factor`` says it lies, for :func:`lstm_sequence`.

    ``[strip, pair, h, 2, lanes]``: a strip is a vector of states with all of their gates, which are summed
    pair after pair and then are all there. States past ``h`` hold zeros.
    """
    lanes, row, column = machine.lanes, factor.row_stride, factor.column_stride
    turned = row == 1 and states % lanes == 0

    def body(x: tirx.Buffer, y: tirx.Buffer) -> None:
        for strip in cuts(states, lanes):
            with loop(strip.count) as s, loop(GATES) as gate:
                first = strip.start + s * strip.length
                start = factor.start + (gate * states + first) * column
                to = first * (GATES * states) + (gate // 2 * (2 * states) + gate % 2) * lanes
                if turned:
                    with loop(states // lanes) as block:
                        at = start + block * lanes
                        rows = [load(x, at + c * column, lanes) for c in range(lanes)]
                        for r, value in enumerate(transpose(rows)):
                            store(y, to + (block * lanes + r) * (2 * lanes), value, lanes)
                    continue
                with loop(states) as k:
                    for c in range(lanes):
                        inside = c < strip.length
                        value = load(x, start + k * row + c * column) if inside else constant(0.0, 1)
                        store(y, to + k * (2 * lanes) + c, value)

    out = (gate_elements(machine, states),)
    return kernel("pack_gates", [(factor.shape, "float32")], [(out, "float32")], body)


def _each_block(count: int, most: int, visit: Callable[[Expr, int], None]) -> None:
    """Cut rows into blocks of at most ``most``, as equal as can be: ``visit(first, length)``."""
    blocks = -(-count // most)
    length, longer = divmod(count, blocks)
    for start, size, times in ((0, length + 1, longer), (longer * (length + 1), length, blocks - longer)):
        if times:
            with loop(times) as block:
                visit(start + block * size, size)


def _clear(machine: Machine, buffer: tirx.Buffer, first: Expr, length: int) -> None:
    """Zeros to neighbours."""
    for cut in cuts(length, machine.lanes):
        with loop(cut.count) as i:
            for piece in pieces(cut.length, machine.lanes):
                at = first + cut.start + i * cut.length + piece.offset
                store(buffer, at, constant(0.0, piece.lanes), piece.lanes)


def _sums(
    machine: Machine,
    left: tuple[tirx.Buffer, Sequence[Expr]],
    right: tuple[tirx.Buffer, Expr, int],
    depth: Expr,
    target: tuple[tirx.Buffer, Expr, int],
) -> None:
    """Products of rows, which begin at given places, and a panel of so many vectors: chains in ascending k.

    Written to rows so far apart.
    """
    (rows, starts), (panel, first, count), lanes = left, right, machine.lanes
    registers = [[cleared(lanes) for _ in range(count)] for _ in starts]
    with T.serial(depth) as k:
        values = [load(panel, first + (k * count + v) * lanes, lanes) for v in range(count)]
        for start, line in zip(starts, registers, strict=True):
            scalar = spread(load(rows, start + k), lanes)
            for value, register in zip(values, line, strict=True):
                register.add_product(scalar, value)
    buffer, start, apart = target
    for r, line in enumerate(registers):
        for v, register in enumerate(line):
            store(buffer, start + r * apart + v * lanes, register.value, lanes)


@dataclass(frozen=True)
class _Group:
    """So many examples, from the first one on, that go through all positions together.

    Attributes:
        first: number of the first example.
        count: of examples.
        steps: positions.
        states: of an example at a position.
    """

    first: Expr
    count: int
    steps: int
    states: int

    @property
    def width(self) -> int:
        """Gates of an example at a position."""
        return GATES * self.states

    @property
    def state_row(self) -> int:
        """Distance of examples' carried states."""
        return self.states + _PADDING

    @property
    def gate_row(self) -> int:
        """Distance of examples' carried gradients."""
        return self.width + _PADDING

    def row(self, n: Expr, t: Expr) -> Expr:
        """The row, of all positions of all examples, of one position of an example of the group."""
        return (self.first + n) * self.steps + t


def _group_size(machine: Machine, m: int, states: int) -> int:
    """As many examples as stay in the first-level cache with a panel; all of them if those are too few."""
    most = (_NEAR_ELEMENTS - GATES * machine.lanes * states) // (states + _PADDING)
    return m if most < 2 * _tile_rows(machine) else min(m, most)


def _tile_rows(machine: Machine) -> int:
    """Rows of a tile of two vectors."""
    return machine.tile_rows(2, machine.registers)


def lstm_sequence(machine: Machine, gates: _Shape) -> tirx.PrimFunc:
    """``gates [m, T, 4h]`` and the weight of :func:`pack_gates` to hidden, previous, cells, activations.

    ``hidden``, ``previous`` (hidden, one position later) and ``cells`` are ``[m, T, h]``, ``activations``
    ``[m, T, 4h]``. The last output is scratch.
    """
    m, steps, width = gates
    states, most = width // GATES, _group_size(machine, m, width // GATES)
    carried = 3 * most * (states + _PADDING)
    scratch = carried + most * GATES * machine.lanes

    def body(x: tirx.Buffer, w: tirx.Buffer, *out: tirx.Buffer) -> None:
        def examples(first: Expr, count: int) -> None:
            group = _Group(first, count, steps, states)
            _clear(machine, out[4], 0, carried)
            with loop(count) as n:
                _clear(machine, out[1], group.row(n, 0) * states, states)
            with loop(steps) as t:
                _position(machine, group, (x, w, *out), t)

        _each_block(m, most, examples)

    state = ((m, steps, states), "float32")
    inputs = [(gates, "float32"), ((gate_elements(machine, states),), "float32")]
    outputs = [state, state, state, (gates, "float32"), ((scratch,), "float32")]
    return kernel("lstm_sequence", inputs, outputs, body)


def _position(machine: Machine, group: _Group, buffers: tuple[tirx.Buffer, ...], t: Expr) -> None:
    """One position of a group: strip after strip of states, of all of its examples.

    Sums of a strip are all made before the first is looked at again: changing from one to the other costs.
    """
    _, w, *_, scratch = buffers
    half, pair_width = group.count * group.state_row, 2 * machine.lanes
    sums, apart = 3 * half, GATES * machine.lanes
    for strip in cuts(group.states, machine.lanes):
        with loop(strip.count) as s:
            first = strip.start + s * strip.length

            def block(n: Expr, rows: int, first: Expr = first) -> None:
                starts = [(t % 2) * half + (n + r) * group.state_row for r in range(rows)]
                for pair in range(GATES // 2):
                    panel = (w, (GATES * first + pair * pair_width) * group.states, 2)
                    target = (scratch, sums + n * apart + pair * pair_width, apart)
                    _sums(machine, (scratch, starts), panel, group.states, target)

            _each_block(group.count, _tile_rows(machine), block)
            for visit in (_activate, _cell):
                with loop(group.count) as n:
                    for piece in pieces(strip.length, machine.lanes):
                        at = sums + n * apart + piece.offset
                        places = [at + gate * machine.lanes for gate in range(GATES)]
                        visit(group, buffers, (n, t, first + piece.offset), places, piece.lanes)


def _activate(
    group: _Group,
    buffers: tuple[tirx.Buffer, ...],
    place: tuple[Expr, Expr, Expr],
    sums: Sequence[Expr],
    lanes: int,
) -> None:
    """Sums and the gates' inputs to activations, which take the place of the sums as well."""
    x, *_, activations, scratch = buffers
    n, t, k = place
    start = group.row(n, t) * group.width + k
    places = [start + gate * group.states for gate in range(GATES)]
    totals = [
        hold(load(scratch, source, lanes) + load(x, at, lanes), lanes)
        for source, at in zip(sums, places, strict=True)
    ]
    for value, source, at in zip(vectors.lstm_gates(totals, lanes), sums, places, strict=True):
        store(activations, at, value, lanes)
        store(scratch, source, value, lanes)


def _cell(
    group: _Group,
    buffers: tuple[tirx.Buffer, ...],
    place: tuple[Expr, Expr, Expr],
    sums: Sequence[Expr],
    lanes: int,
) -> None:
    """Activations to cells and hidden states."""
    _, _, hidden, previous, cells, _, scratch = buffers
    n, t, k = place
    at, half = group.row(n, t) * group.states + k, group.count * group.state_row
    carried = n * group.state_row + k
    i, f, g, o = (load(scratch, source, lanes) for source in sums)
    kept = hold(f * load(scratch, 2 * half + carried, lanes), lanes)
    new = hold(fma(i, g, kept, lanes), lanes)
    store(cells, at, new, lanes)
    store(scratch, 2 * half + carried, new, lanes)
    value = hold(o * vectors.tanh(new, lanes), lanes)
    store(hidden, at, value, lanes)
    store(scratch, (1 - t % 2) * half + carried, value, lanes)
    with T.If(t + 1 < group.steps), T.Then():
        store(previous, at + group.states, value, lanes)


def lstm_sequence_gradient(machine: Machine, gates: _Shape) -> tirx.PrimFunc:
    """Gradient ``[m, T, h]``, cells, activations and the packed ``[4h, h]`` to δ ``[m, T, 4h]``.

    A further output is scratch.
    """
    m, steps, width = gates
    states, strip_width = width // GATES, machine.lanes * STRIP_VECTORS
    most = _tile_rows(machine)
    group = _Group(0, m, steps, states)
    carried = m * (2 * group.gate_row + group.state_row)
    scratch = carried + most * strip_width

    def body(*buffers: tirx.Buffer) -> None:
        _clear(machine, buffers[-1], 2 * m * group.gate_row, m * group.state_row)
        with loop(steps) as back:

            def block(n: Expr, rows: int) -> None:
                for strip in cuts(states, strip_width):
                    with loop(strip.count) as s:
                        first = strip.start + s * strip.length
                        _slopes(machine, group, buffers, (n, rows, back, first, strip.length))

            _each_block(m, most, block)

    state = ((m, steps, states), "float32")
    panels = ((panel_elements(machine, width, states),), "float32")
    outputs = [(gates, "float32"), ((scratch,), "float32")]
    return kernel("lstm_sequence_gradient", [state, state, (gates, "float32"), panels], outputs, body)


def _slopes(
    machine: Machine,
    group: _Group,
    buffers: tuple[tirx.Buffer, ...],
    place: tuple[Expr, int, Expr, Expr, int],
) -> None:
    """δ of a strip of states of a block of examples at one position."""
    *_, w, _result, scratch = buffers
    n, rows, back, first, columns = place
    half = group.count * group.gate_row
    starts = [((back + 1) % 2) * half + (n + r) * group.gate_row for r in range(rows)]
    count = -(-columns // machine.lanes)
    # The last position has none after it.
    depth = tirx.Select(back > 0, tirx.IntImm("int32", group.width), tirx.IntImm("int32", 0))
    sums = group.count * (2 * group.gate_row + group.state_row)
    _sums(
        machine,
        (scratch, starts),
        (w, first * group.width, count),
        depth,
        (scratch, sums, count * machine.lanes),
    )
    with loop(rows) as r:
        for piece in pieces(columns, machine.lanes):
            at = sums + r * (count * machine.lanes) + piece.offset
            _slope(group, buffers, (n + r, back, first + piece.offset), at, piece.lanes)


def _slope(
    group: _Group, buffers: tuple[tirx.Buffer, ...], place: tuple[Expr, Expr, Expr], carried: Expr, lanes: int
) -> None:
    """δ from the gradient at the hidden state and what the position after carries."""
    gradient, cells, activations, _, result, scratch = buffers
    n, back, k = place
    t = group.steps - 1 - back
    row, half = group.row(n, t), group.count * group.gate_row
    of_cell = 2 * half + n * group.state_row + k
    one = constant(1.0, lanes)
    i, f, c, o = (load(activations, row * group.width + p * group.states + k, lanes) for p in range(GATES))
    bent = vectors.tanh(load(cells, row * group.states + k, lanes), lanes)
    dh = hold(load(gradient, row * group.states + k, lanes) + load(scratch, carried, lanes), lanes)
    slope = hold(one - bent * bent, lanes)
    dc = hold(fma(hold(dh * o, lanes), slope, load(scratch, of_cell, lanes), lanes), lanes)
    before = load(cells, tirx.max((row - 1) * group.states, 0) + k, lanes)
    before = tirx.Select(spread(t > 0, lanes), before, constant(0.0, lanes))
    slopes = [
        dc * c * i * (one - i),
        dc * before * f * (one - f),
        dc * i * (one - c * c),
        dh * bent * o * (one - o),
    ]
    for number, value in enumerate(slopes):
        at = number * group.states + k
        kept = hold(value, lanes)
        store(result, row * group.width + at, kept, lanes)
        store(scratch, (back % 2) * half + n * group.gate_row + at, kept, lanes)
    store(scratch, of_cell, dc * f, lanes)
