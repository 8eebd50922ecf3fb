"""Max-pooling over channel-last tensors ``[m, h, w, c]``, windows wholly inside."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from .emit import (
    PARALLEL_WORK,
    Expr,
    Machine,
    Register,
    constant,
    kernel,
    load,
    loop,
    store,
    strips,
)

Shape = Sequence[int]


def _maximum(window: list[Expr], lanes: int) -> Expr:
    """The greatest value, NaN if there is one."""
    top = Register(lanes)
    top.set(window[0])
    for value in window[1:]:
        top.set(tirx.Select(tirx.any(value > top.value, tirx.isnan(value)), value, top.value))
    return top.value


def max_pool2d(machine: Machine, data: Shape, output: Shape, window: Shape, strides: Shape) -> tirx.PrimFunc:
    """``[m, h, w, c]`` to ``[m, p, q, c]``."""
    m, h, w, c = data
    _, p, q, _ = output

    def body(x: tirx.Buffer, y: tirx.Buffer) -> None:
        with loop(m, parallel=m * p * q * c >= PARALLEL_WORK // 8) as n, loop(p) as i, loop(q) as j:
            start = ((n * h + i * strides[0]) * w + j * strides[1]) * c
            for strip in strips(c, machine.lanes, 1):
                with loop(strip.count) as s:
                    for piece in strip.pieces:
                        at = strip.start + s * strip.step + piece.offset
                        values = _window(x, start + at, window, w * c, c, piece.lanes)
                        store(y, ((n * p + i) * q + j) * c + at, _maximum(values, piece.lanes), piece.lanes)

    return kernel("max_pool2d", [(tuple(data), "float32")], [(tuple(output), "float32")], body)


def _window(x: tirx.Buffer, start: Expr, window: Shape, row: int, column: int, lanes: int) -> list[Expr]:
    return [
        load(x, start + (i * row + j * column), lanes) for i in range(window[0]) for j in range(window[1])
    ]


def max_pool2d_gradient(
    machine: Machine, data: Shape, gradient: Shape, window: Shape, strides: Shape
) -> tirx.PrimFunc:
    """Gradient ``[m, p, q, c]`` and data ``[m, h, w, c]`` to the data's gradient.

    Each output's gradient goes to the first greatest value of its window, in row-major order.
    """
    m, h, w, c = data
    _, p, q, _ = gradient

    def body(g: tirx.Buffer, x: tirx.Buffer, y: tirx.Buffer) -> None:
        with loop(m, parallel=m * p * q * c >= PARALLEL_WORK // 8) as n:
            for strip in strips(h * w * c, machine.lanes, 1):
                with loop(strip.count) as s:
                    for piece in strip.pieces:
                        at = n * (h * w * c) + strip.start + s * strip.step + piece.offset
                        store(y, at, constant(0.0, piece.lanes), piece.lanes)
            with loop(p) as i, loop(q) as j:
                start = ((n * h + i * strides[0]) * w + j * strides[1]) * c
                for strip in strips(c, machine.lanes, 1):
                    with loop(strip.count) as s:
                        for piece in strip.pieces:
                            at = strip.start + s * strip.step + piece.offset
                            share = load(g, ((n * p + i) * q + j) * c + at, piece.lanes)
                            route(x, y, start + at, share, piece.lanes)

    def route(x: tirx.Buffer, y: tirx.Buffer, start: Expr, share: Expr, lanes: int) -> None:
        values = _window(x, start, window, w * c, c, lanes)
        top = _maximum(values, lanes)
        left, zero = Register(lanes), constant(0.0, lanes)
        left.set(share)
        for index, value in enumerate(values):
            place = start + (index // window[1] * (w * c) + index % window[1] * c)
            here = load(y, place, lanes) + tirx.Select(value.equal(top), left.value, zero)
            store(y, place, here, lanes)
            left.set(tirx.Select(value.equal(top), zero, left.value))

    inputs = [(tuple(gradient), "float32"), (tuple(data), "float32")]
    return kernel("max_pool2d_gradient", inputs, [(tuple(data), "float32")], body)
