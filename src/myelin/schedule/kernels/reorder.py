"""Kernels of convolutions put into the order that a kernel reads, and their gradients put back."""

from __future__ import annotations

import math

from tvm import tirx

from .conv import weight_blocks
from .emit import PARALLEL_WORK, Expr, kernel, load, loop, store
from .taps import Shape


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


def weight_order(gradient: Shape) -> tirx.PrimFunc:
    """A kernel's gradient ``[u, v, c, o]`` as the kernel itself is: ``[o, c, u, v]``."""
    u, v, c, o = gradient
    taps, near = u * v, 16

    def body(g: tirx.Buffer, out: tirx.Buffer) -> None:
        for part in weight_blocks(o, near):
            # Outputs that share a cache line are read together.
            with (
                loop(part.count, parallel=math.prod(gradient) >= PARALLEL_WORK) as number,
                loop(c) as channel,
            ):
                first = part.start + number * part.width
                with loop(part.width) as i, loop(taps) as tap:
                    to = ((first + i) * c + channel) * taps + tap
                    _copy(g, (tap * c + channel) * o + first + i, out, to)

    return kernel("weight_order", [(tuple(gradient), "float32")], [((o, c, u, v), "float32")], body)


def image_order(shape: Shape, last: bool) -> tirx.PrimFunc:
    """Images ``[m, c, h, w]`` to ``[m, h, w, c]`` if ``last``, else the other way."""
    m, *size = shape
    rows, columns = (size[0], size[1] * size[2]) if last else (size[0] * size[1], size[2])
    result = (m, size[1], size[2], size[0]) if last else (m, size[2], size[0], size[1])

    def body(x: tirx.Buffer, y: tirx.Buffer) -> None:
        with loop(m, parallel=math.prod(shape) >= PARALLEL_WORK // 4) as n:
            for part in weight_blocks(columns, 16):
                with loop(part.count) as number, loop(part.width) as j, loop(rows) as i:
                    column = part.start + number * part.width + j
                    start = n * (rows * columns)
                    _copy(x, start + i * columns + column, y, start + column * rows + i)

    return kernel("image_order", [(tuple(shape), "float32")], [(result, "float32")], body)
