"""Kernels over rows ``[…, n]``: softmax, normalisation, and their gradients.

Sums and greatest values of a row are taken in one fixed order, whatever the width of the machine's vectors:
element j belongs to partial result j mod 16, and the sixteen are then combined as a tree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tvm import tirx

from . import vectors
from .emit import (
    PARALLEL_WORK,
    Expr,
    Machine,
    Piece,
    Register,
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

#: Partial results of a row.
PARTS = 16

Combine = Callable[[Expr, Expr, int], Expr]


def plus(a: Expr, b: Expr, _lanes: int) -> Expr:
    """The sum."""
    return a + b


def larger(a: Expr, b: Expr, _lanes: int) -> Expr:
    """The greater one; whichever if one is NaN."""
    return tirx.Select(a > b, a, b)


class Parts:
    """Sixteen partial results, in as many registers as the machine needs."""

    def __init__(self, machine: Machine, start: float, dtype: str = "float32") -> None:
        self.lanes = machine.lanes
        self._registers = [Register(self.lanes, dtype) for _ in range(PARTS // self.lanes)]
        for register in self._registers:
            register.set(constant(start, self.lanes, dtype))

    def update(self, piece: Piece, new: Callable[[Expr], Expr]) -> None:
        """Replace the parts that the piece's elements belong to."""
        register, offset = self._registers[piece.offset // self.lanes], piece.offset % self.lanes
        register.set_part(offset, new(register.part(offset, piece.lanes)), piece.lanes)

    def combined(self, combine: Combine) -> Expr:
        """One result: the upper half with the lower half, until one is left."""
        values = [register.value for register in self._registers]
        lanes = self.lanes
        while len(values) > 1:
            half = len(values) // 2
            values = [hold(combine(values[i], values[i + half], lanes), lanes) for i in range(half)]
        value = hold(values[0], lanes)
        while lanes > 1:
            lanes //= 2
            low, high = (tirx.Shuffle([value], [first + i for i in range(lanes)]) for first in (0, lanes))
            value = hold(combine(low, high, lanes), lanes)
        return value


@contextmanager
def each_row(count: int, work: int) -> Iterator[Expr]:
    """A loop over rows, over threads where there is enough to do."""
    with loop(count, parallel=count * work >= PARALLEL_WORK) as row:
        yield row


def along(machine: Machine, length: int, visit: Callable[[Expr, Piece], None]) -> None:
    """Visit a row, 16 neighbours after 16: ``visit`` gets their first place and each piece of them."""
    for cut in cuts(length, PARTS):
        with loop(cut.count) as block:
            for piece in pieces(cut.length, machine.lanes):
                visit(cut.start + block * cut.length + piece.offset, piece)


def total(machine: Machine, length: int, value: Callable[[Expr, int], Expr]) -> Expr:
    """The sum of a row's values."""
    parts = Parts(machine, 0.0)
    along(machine, length, lambda at, piece: parts.update(piece, lambda old: old + value(at, piece.lanes)))
    return parts.combined(plus)


def dot(machine: Machine, length: int, pair: Callable[[Expr, int], tuple[Expr, Expr]]) -> Expr:
    """The sum of a row's products, each added with one rounding."""
    parts = Parts(machine, 0.0)

    def visit(at: Expr, piece: Piece) -> None:
        a, b = pair(at, piece.lanes)
        parts.update(piece, lambda old: fma(a, b, old, piece.lanes))

    along(machine, length, visit)
    return parts.combined(plus)


def softmax(machine: Machine, shape: tuple[int, ...]) -> tirx.PrimFunc:
    """Over the last axis: e**(x − greatest) over its sum; a row with NaN or ∞ is NaN."""
    *outer, n = shape

    def body(x: tirx.Buffer, y: tirx.Buffer) -> None:
        with each_row(math.prod(outer), 8 * n) as row:
            softmax_row(machine, (x, y), row * n, n)

    return kernel("softmax", [(shape, "float32")], [(shape, "float32")], body)


def softmax_row(machine: Machine, buffers: tuple[tirx.Buffer, tirx.Buffer], start: Expr, n: int) -> None:
    """Emit the softmax of one row, from the first buffer into the second; they may be the same one."""
    x, y = buffers
    tops, sums = Parts(machine, -math.inf), Parts(machine, 0.0)
    along(
        machine,
        n,
        lambda at, piece: tops.update(
            piece, lambda old: larger(load(x, start + at, piece.lanes), old, piece.lanes)
        ),
    )
    top = tops.combined(larger)

    def power(at: Expr, piece: Piece) -> None:
        shifted = hold(load(x, start + at, piece.lanes) - spread(top, piece.lanes), piece.lanes)
        value = vectors.exp_nonpositive(shifted, piece.lanes)
        store(y, start + at, value, piece.lanes)
        sums.update(piece, lambda old: old + value)

    along(machine, n, power)
    share = hold(tirx.FloatImm("float32", 1.0) / sums.combined(plus), 1)

    def scale(at: Expr, piece: Piece) -> None:
        value = load(y, start + at, piece.lanes) * spread(share, piece.lanes)
        store(y, start + at, value, piece.lanes)

    along(machine, n, scale)


def softmax_gradient(machine: Machine, shape: tuple[int, ...]) -> tirx.PrimFunc:
    """``y · (g − Σ g·y)`` over the last axis, from g and y."""
    *outer, n = shape

    def body(g: tirx.Buffer, y: tirx.Buffer, out: tirx.Buffer) -> None:
        with each_row(math.prod(outer), 2 * n) as row:
            softmax_gradient_row(machine, (g, y, out), row * n, n)

    values = (shape, "float32")
    return kernel("softmax_gradient", [values, values], [values], body)


def softmax_gradient_row(
    machine: Machine,
    buffers: tuple[tirx.Buffer, tirx.Buffer, tirx.Buffer],
    start: Expr,
    n: int,
    scale: float | None = None,
) -> None:
    """Emit ``y · (g − Σ g·y) · scale`` for one row of g, y and the result, which may be g's own."""
    g, y, out = buffers
    inner = dot(machine, n, lambda at, lanes: (load(g, start + at, lanes), load(y, start + at, lanes)))

    def visit(at: Expr, piece: Piece) -> None:
        lanes = piece.lanes
        rest = load(g, start + at, lanes) - spread(inner, lanes)
        value = load(y, start + at, lanes) * rest
        store(out, start + at, value if scale is None else value * constant(scale, lanes), lanes)

    along(machine, n, visit)


def normalise(machine: Machine, shape: tuple[int, ...], epsilon: float) -> tirx.PrimFunc:
    """Over the last axis: ``(x − mean) · rstd``, and ``rstd = 1 / √(variance + epsilon)``.

    The variance is that of the centred values, so that a large mean costs no digits.
    """
    *outer, n = shape
    share = tirx.FloatImm("float32", 1.0 / n)

    def body(x: tirx.Buffer, y: tirx.Buffer, rstd: tirx.Buffer) -> None:
        with each_row(math.prod(outer), 4 * n) as row:
            start = row * n
            mean = hold(total(machine, n, lambda at, lanes: load(x, start + at, lanes)) * share, 1)

            def centred(at: Expr, lanes: int) -> Expr:
                return hold(load(x, start + at, lanes) - spread(mean, lanes), lanes)

            def twice(at: Expr, lanes: int) -> tuple[Expr, Expr]:
                value = centred(at, lanes)
                return value, value

            variance = hold(dot(machine, n, twice) * share, 1)
            one, slack = tirx.FloatImm("float32", 1.0), tirx.FloatImm("float32", epsilon)
            inverse = hold(one / tirx.sqrt(variance + slack), 1)
            store(rstd, row, inverse)
            along(
                machine,
                n,
                lambda at, piece: store(
                    y, start + at, centred(at, piece.lanes) * spread(inverse, piece.lanes), piece.lanes
                ),
            )

    outputs = [(shape, "float32"), (tuple(outer), "float32")]
    return kernel("normalise", [(shape, "float32")], outputs, body)


def normalise_gradient(machine: Machine, shape: tuple[int, ...]) -> tirx.PrimFunc:
    """``rstd · (g − mean(g) − y · mean(g·y))`` over the last axis, from g, the normalised y, and rstd."""
    *outer, n = shape
    share = tirx.FloatImm("float32", 1.0 / n)

    def body(g: tirx.Buffer, y: tirx.Buffer, rstd: tirx.Buffer, out: tirx.Buffer) -> None:
        with each_row(math.prod(outer), 4 * n) as row:
            start = row * n
            first, second = Parts(machine, 0.0), Parts(machine, 0.0)

            def gather(at: Expr, piece: Piece) -> None:
                lanes = piece.lanes
                a, b = load(g, start + at, lanes), load(y, start + at, lanes)
                first.update(piece, lambda old: old + a)
                second.update(piece, lambda old: fma(a, b, old, lanes))

            along(machine, n, gather)
            mean, slope = (hold(parts.combined(plus) * share, 1) for parts in (first, second))
            factor = load(rstd, row)

            def visit(at: Expr, piece: Piece) -> None:
                lanes = piece.lanes
                centred = load(g, start + at, lanes) - spread(mean, lanes)
                along_y = load(y, start + at, lanes) * spread(slope, lanes)
                store(out, start + at, (centred - along_y) * spread(factor, lanes), lanes)

            along(machine, n, visit)

    values = (shape, "float32")
    return kernel("normalise_gradient", [values, values, (tuple(outer), "float32")], [values], body)
