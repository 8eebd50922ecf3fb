"""Convolutions over channel-last tensors, one example after the other, no dilation, no groups.

Shapes: data ``[m, h, w, c]``, output ``[m, p, q, o]``, kernel ``[u, v, c, o]`` (or ``[u, v, o, c]`` for the
data gradient). Padding is done before, by :func:`pad`, so that no inner loop tests for borders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import tirx

from .emit import PARALLEL_WORK, Expr, Machine, constant, kernel, load, loop, pieces, store
from .grid import Grid, Step, accumulate

Shape = Sequence[int]


def _copy(
    target: tirx.Buffer, to: Expr, source: tirx.Buffer | None, start: Expr, length: int, lanes: int
) -> None:
    """Copy ``length`` neighbours, or write zeros where there is no source."""
    whole = length // lanes
    with loop(max(whole, 1)) as i:
        if whole:
            value = constant(0.0, lanes) if source is None else load(source, start + i * lanes, lanes)
            store(target, to + i * lanes, value, lanes)
    for piece in pieces(length - whole * lanes, lanes):
        at = whole * lanes + piece.offset
        value = constant(0.0, piece.lanes) if source is None else load(source, start + at, piece.lanes)
        store(target, to + at, value, piece.lanes)


def pad(machine: Machine, data: Shape, padding: Shape) -> tirx.PrimFunc:
    """``[m, h, w, c]`` with zeros around: padding is (top, left, bottom, right)."""
    m, h, w, c = data
    top, left, bottom, right = padding
    high, wide = h + top + bottom, w + left + right

    def body(x: tirx.Buffer, y: tirx.Buffer) -> None:
        with loop(m, parallel=m * high * wide * c >= PARALLEL_WORK // 4) as n:
            start = n * (high * wide * c)
            if top or left:
                _copy(y, start, None, 0, (top * wide + left) * c, machine.lanes)
            with loop(h) as row:
                to = start + ((row + top) * wide + left) * c
                _copy(y, to, x, (n * h + row) * (w * c), w * c, machine.lanes)
                if left + right:
                    # What is right of this row and left of the next is one piece; the last one is cut below.
                    gap = (left + right) * c
                    if bottom or not left:
                        _copy(y, to + w * c, None, 0, gap, machine.lanes)
                    else:
                        _copy(y, to + w * c, None, 0, right * c, machine.lanes)
                        if h > 1:
                            _copy(y, start + ((row + top) * wide) * c, None, 0, left * c, machine.lanes)
            if bottom:
                after = start + ((top + h) * wide) * c
                _copy(y, after, None, 0, bottom * wide * c, machine.lanes)

    return kernel("pad", [(tuple(data), "float32")], [((m, high, wide, c), "float32")], body)


def conv2d(machine: Machine, data: Shape, weight: Shape, strides: Shape) -> tirx.PrimFunc:
    """Padded data ``[m, h, w, c]`` and kernel ``[u, v, c, o]`` to ``[m, p, q, o]``."""
    m, h, w, c = data
    u, v, _, o = weight
    p, q = (h - u) // strides[0] + 1, (w - v) // strides[1] + 1
    grid = Grid(p, q, o, strides[0] * w * c, strides[1] * c, q * o, o)

    def body(x: tirx.Buffer, k: tirx.Buffer, y: tirx.Buffer) -> None:
        def steps(step: Step) -> None:
            with loop(u) as row, loop(v * c) as i:
                step(row * (w * c) + i, (row * (v * c) + i) * o)

        with loop(m, parallel=m * p * q * math.prod(weight) >= PARALLEL_WORK) as n:
            accumulate(machine, grid, (x, n * (h * w * c)), k, (y, n * (p * q * o)), steps)

    inputs = [(tuple(data), "float32"), (tuple(weight), "float32")]
    return kernel("conv2d", inputs, [((m, p, q, o), "float32")], body)


def conv2d_weight_gradient(
    machine: Machine, data: Shape, gradient: Shape, kernel_size: Shape, strides: Shape
) -> tirx.PrimFunc:
    """Each example's kernel gradient: padded ``[m, h, w, c]`` and ``[m, p, q, o]`` to ``[m, u, v, c, o]``."""
    m, h, w, c = data
    _, p, q, o = gradient
    u, v = kernel_size
    grid = Grid(u, v * c, o, w * c, 1, v * c * o, o)

    def body(x: tirx.Buffer, g: tirx.Buffer, y: tirx.Buffer) -> None:
        with loop(m, parallel=m * p * q * u * v * c * o >= PARALLEL_WORK) as n:

            def steps(step: Step) -> None:
                with loop(p) as i, loop(q) as j:
                    shift = i * (strides[0] * w * c) + j * (strides[1] * c)
                    step(shift, n * (p * q * o) + (i * q + j) * o)

            accumulate(machine, grid, (x, n * (h * w * c)), g, (y, n * (u * v * c * o)), steps)

    inputs = [(tuple(data), "float32"), (tuple(gradient), "float32")]
    return kernel("conv2d_weight_gradient", inputs, [((m, u, v, c, o), "float32")], body)


def gradient_padding(size: int, taps: int, stride: int, before: int, gradient: int) -> tuple[int, int]:
    """Zeros to put before and after one axis of the output gradient, for :func:`conv2d_data_gradient`."""
    low, high = 0, 0
    for phase in range(stride):
        _, count, start, reach = _phase(size, taps, stride, before, phase)
        if count:
            low = max(low, reach - 1 - start)
            high = max(high, start + count - gradient)
    return max(low, 0), max(high, 0)


def _phase(size: int, taps: int, stride: int, before: int, phase: int) -> tuple[int, int, int, int]:
    """Data places that meet taps phase, phase + stride, …: first, count, first output, count of taps."""
    first = (phase - before) % stride
    count = max(0, -(-(size - first) // stride))
    return first, count, (first + before - phase) // stride, max(0, -(-(taps - phase) // stride))


def conv2d_data_gradient(
    machine: Machine,
    gradient: Shape,
    weight: Shape,
    data: Shape,
    strides: Shape,
    padding: Shape,
    zeros: Shape,
) -> tirx.PrimFunc:
    """Padded output gradient ``[m, p, q, o]`` and kernel ``[u, v, o, c]`` to the data's ``[m, h, w, c]``.

    ``padding`` is (top, left) of the forward convolution; ``zeros`` (top, left) what the gradient was
    padded with. The places of the data are taken by their residue modulo the stride: those of one residue
    meet the same taps, so each residue is a dense convolution, and nothing is multiplied by zeros in
    between.
    """
    m, p, q, o = gradient
    u, v, _, c = weight
    _, h, w, _ = data

    def phase(y: int, x: int, n: Expr, g: tirx.Buffer, k: tirx.Buffer, out: tirx.Buffer) -> None:
        first_y, high, start_y, taps_y = _phase(h, u, strides[0], padding[0], y)
        first_x, wide, start_x, taps_x = _phase(w, v, strides[1], padding[1], x)
        if not high or not wide:
            return
        grid = Grid(high, wide, c, q * o, o, strides[0] * w * c, strides[1] * c)

        def steps(step: Step) -> None:
            if not taps_y or not taps_x:
                return
            # Taps are taken from the last to the first, so that addresses only grow.
            with loop(taps_y) as i, loop(taps_x) as j, loop(o) as channel:
                tap = ((taps_y - 1 - i) * strides[0] + y) * v + ((taps_x - 1 - j) * strides[1] + x)
                step((i * q + j) * o + channel, (tap * o + channel) * c)

        corner = (start_y + zeros[0] - max(taps_y - 1, 0)) * q + start_x + zeros[1] - max(taps_x - 1, 0)
        source = n * (p * q * o) + corner * o
        target = n * (h * w * c) + (first_y * w + first_x) * c
        accumulate(machine, grid, (g, source), k, (out, target), steps)

    def body(g: tirx.Buffer, k: tirx.Buffer, out: tirx.Buffer) -> None:
        with loop(m, parallel=m * h * w * c * o * u * v // (strides[0] * strides[1]) >= PARALLEL_WORK) as n:
            for y in range(strides[0]):
                for x in range(strides[1]):
                    phase(y, x, n, g, k, out)

    inputs = [(tuple(gradient), "float32"), (tuple(weight), "float32")]
    return kernel("conv2d_data_gradient", inputs, [(tuple(data), "float32")], body)
