"""Kernels of convolutions put into the order that a kernel reads, and their gradients put back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from .conv import weight_blocks
from .emit import PARALLEL_WORK, Expr, Machine, kernel, load, loop, store
from .taps import Shape

# Bytes that stay in the second-level cache beside what else is there.
_CACHED_BYTES = 1 << 18


def _copy(source: tirx.Buffer, start: Expr, target: tirx.Buffer, to: Expr) -> None:
    store(target, to, load(source, start))


def blocked_weight(weight: Shape, block: int, backward: bool = False) -> tirx.PrimFunc:
    """A kernel ``[o, c, u, v]`` as :func:`conv2d` reads it: flat, blocks of ``block`` outputs.

    Each block is ``[u, v, c, block]``. With ``backward``, as :func:`conv2d_data_gradient` reads it: blocks of
    inputs, each ``[u, v, o, block]``.
    """
    o, c, u, v = weight
    taps = u * v
    rows, width, row, column = (o, c, c * taps, taps) if backward else (c, o, taps, c * taps)
    size = math.prod(weight)

    def body(k: tirx.Buffer, out: tirx.Buffer) -> None:
        for part in weight_blocks(width, block):
            with loop(part.count, parallel=size >= PARALLEL_WORK) as number, loop(rows) as r:
                first = part.start + number * part.width
                with loop(part.width) as i, loop(taps) as tap:
                    to = first * (taps * rows) + (tap * rows + r) * part.width + i
                    _copy(k, r * row + (first + i) * column + tap, out, to)

    return kernel("blocked_weight", [(tuple(weight), "float32")], [((size,), "float32")], body)


def turned(rows: Sequence[Expr], lanes: int) -> list[Expr]:
    """A square of ``lanes`` vectors with rows and columns exchanged, by interleaving its halves."""
    low = [part for i in range(lanes // 2) for part in (i, lanes + i)]
    high = [part + lanes // 2 for part in low]
    half = lanes // 2
    for _ in range(lanes.bit_length() - 1):
        pairs = list(zip(rows[:half], rows[half:], strict=True))
        rows = [T.Bind(tirx.Shuffle(list(pair), order)) for pair in pairs for order in (low, high)]
    return list(rows)


def weight_order(machine: Machine, gradient: Shape) -> tirx.PrimFunc:
    """A kernel's gradient ``[u, v, c, o]`` as the kernel itself is: ``[o, c, u, v]``.

    Squares of as many places as a vector has lanes are turned in registers; what is left over goes one by
    one.
    """
    u, v, c, o = gradient
    taps, lanes = u * v, machine.lanes
    length = taps * c
    whole, squares = o // lanes, length // lanes

    def row(place: Expr) -> Expr:
        """Where a place of the result, counted within one output, begins in the gradient."""
        return (place % taps * c + place // taps) * o

    def square(g: tirx.Buffer, out: tirx.Buffer, output: Expr, place: Expr) -> None:
        rows = [load(g, row(place + i) + output, lanes) for i in range(lanes)]
        for i, value in enumerate(turned(rows, lanes)):
            store(out, (output + i) * length + place, value, lanes)

    def body(g: tirx.Buffer, out: tirx.Buffer) -> None:
        if whole:
            # Reading in order pays for a large gradient, writing in order for one that is in cache.
            large, tasks = 4 * math.prod(gradient) > _CACHED_BYTES, whole * squares
            if squares:
                with loop(tasks, parallel=math.prod(gradient) >= PARALLEL_WORK) as task:
                    i, number = (task // whole, task % whole) if large else (task % squares, task // squares)
                    square(g, out, number * lanes, i * lanes)
            if length % lanes:
                with loop(length % lanes) as i, loop(whole * lanes) as output:
                    place = squares * lanes + i
                    _copy(g, row(place) + output, out, output * length + place)
        if o % lanes:
            with loop(o % lanes) as j, loop(length) as place:
                output = whole * lanes + j
                _copy(g, row(place) + output, out, output * length + place)

    return kernel("weight_order", [(tuple(gradient), "float32")], [((o, c, u, v), "float32")], body)


def image_order(
    machine: Machine, shape: Shape, last: bool, declared: tuple[int, ...] | None = None
) -> tirx.PrimFunc:
    """Images ``[m, c, h, w]`` to ``[m, h, w, c]`` if ``last``, else the other way.

    ``declared`` is the argument's own shape, if it is another one of as many elements.
    """
    m, *size = shape
    rows, columns = (size[0], size[1] * size[2]) if last else (size[0] * size[1], size[2])
    result = (m, size[1], size[2], size[0]) if last else (m, size[2], size[0], size[1])
    lanes = machine.lanes
    high, wide = rows - rows % lanes, columns - columns % lanes

    def body(x: tirx.Buffer, y: tirx.Buffer) -> None:
        with loop(m, parallel=math.prod(shape) >= PARALLEL_WORK // 4) as n:
            start = n * (rows * columns)

            def one(i: Expr, j: Expr) -> None:
                _copy(x, start + i * columns + j, y, start + j * rows + i)

            if high and wide:
                with loop(high // lanes) as i, loop(wide // lanes) as j:
                    at = start + i * lanes * columns + j * lanes
                    square = [load(x, at + k * columns, lanes) for k in range(lanes)]
                    to = start + j * lanes * rows + i * lanes
                    for k, value in enumerate(turned(square, lanes)):
                        store(y, to + k * rows, value, lanes)
            if columns > wide and high:
                with loop(high) as i, loop(columns - wide) as j:
                    one(i, wide + j)
            if rows > high:
                with loop(rows - high) as i, loop(columns) as j:
                    one(high + i, j)

    source = [(tuple(declared or shape), "float32")]
    return kernel("image_order", source, [(result, "float32")], body)
