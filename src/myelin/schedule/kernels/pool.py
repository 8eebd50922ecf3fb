"""Max-pooling over channel-last tensors ``[m, h, w, c]``, windows wholly inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from .emit import (
    PARALLEL_WORK,
    Expr,
    Machine,
    Register,
    cleared,
    constant,
    fenced,
    kernel,
    load,
    loop,
    store,
    strips,
)
from .taps import Shape


def _held(value: Expr, lanes: int) -> Expr:
    """A value in a register: a name alone would be written out again wherever it is used."""
    register = Register(lanes)
    register.set(value)
    return register.value


def _greater(value: Expr, top: Expr, lanes: int) -> Expr:
    """The greater of two, NaN if there is one."""
    return _held(tirx.Select(tirx.isnan(value), value, tirx.Select(value > top, value, top)), lanes)


def _maximum(window: Sequence[Expr], lanes: int) -> Expr:
    top = window[0]
    for value in window[1:]:
        top = _greater(value, top, lanes)
    return top


def _strips(machine: Machine, channels: int, then: Callable[[Expr, int], None]) -> None:
    """Call ``then`` with every vector of a pixel's channels: its first channel and its lanes."""
    for strip in strips(channels, machine.lanes, 1):
        with loop(strip.count) as s:
            for piece in strip.pieces:
                then(strip.start + s * strip.step + piece.offset, piece.lanes)


def max_pool2d(machine: Machine, data: Shape, output: Shape, window: Shape, strides: Shape) -> tirx.PrimFunc:
    """``[m, h, w, c]`` to ``[m, p, q, c]``."""
    m, h, w, c = data
    _, p, q, _ = output
    slides = window[1] == 2 and strides[1] == 1

    def body(x: tirx.Buffer, y: tirx.Buffer) -> None:
        def line(n: Expr, i: Expr) -> None:
            """One row of outputs."""
            start, to = (n * h + i * strides[0]) * (w * c), (n * p + i) * (q * c)

            def column(at: Expr, lanes: int) -> Expr:
                return _maximum([load(x, at + r * (w * c), lanes) for r in range(window[0])], lanes)

            def slide(channel: Expr, lanes: int) -> None:
                left = Register(lanes)
                left.set(column(start + channel, lanes))
                with loop(q) as j:
                    right = column(start + channel + (j + 1) * c, lanes)
                    store(y, to + channel + j * c, _greater(right, left.value, lanes), lanes)
                    left.set(right)

            if slides:
                _strips(machine, c, slide)
                return
            with loop(q) as j:

                def place(channel: Expr, lanes: int, j: Expr = j) -> None:
                    at = start + channel + j * (strides[1] * c)
                    columns = [column(at + k * c, lanes) for k in range(window[1])]
                    store(y, to + channel + j * c, _maximum(columns, lanes), lanes)

                _strips(machine, c, place)

        with loop(m, parallel=m * p * q * c >= PARALLEL_WORK // 8) as n, loop(p) as i:
            line(n, i)

    return kernel("max_pool2d", [(tuple(data), "float32")], [(tuple(output), "float32")], body)


def max_pool2d_gradient(
    machine: Machine, data: Shape, gradient: Shape, window: Shape, strides: Shape, mask: bool = False
) -> tirx.PrimFunc:
    """Gradient ``[m, p, q, c]`` and data ``[m, h, w, c]`` to the data's gradient.

    Each output's gradient goes to the first greatest value of its window, in row-major order. With ``mask``
    the result is zero where the data is not greater than zero: the gradient before a ReLU that made the data.
    """
    h, w = data[1], data[2]
    p, q = gradient[1], gradient[2]

    def body(g: tirx.Buffer, x: tirx.Buffer, y: tirx.Buffer) -> None:
        pool = _Backward(machine, data, gradient, window, strides, mask, (g, x, y))
        with loop(data[0], parallel=data[0] * p * q * data[3] >= PARALLEL_WORK // 8) as n:
            if window == strides:
                if p * strides[0] < h or q * strides[1] < w:
                    pool.clear(n)
                pool.apart(n)
            elif tuple(window) == (2, 2) and tuple(strides) == (1, 1):
                pool.sliding(n)
            else:
                pool.clear(n)
                pool.scattered(n)

    inputs = [(tuple(gradient), "float32"), (tuple(data), "float32")]
    return kernel("max_pool2d_gradient", inputs, [(tuple(data), "float32")], body)


class _Backward:
    """The gradient of one example, by how its windows meet."""

    def __init__(
        self,
        machine: Machine,
        data: Shape,
        gradient: Shape,
        window: Shape,
        strides: Shape,
        mask: bool,
        buffers: tuple[tirx.Buffer, tirx.Buffer, tirx.Buffer],
    ) -> None:
        self.machine, self.window, self.strides, self.mask = machine, window, strides, mask
        _, self.h, self.w, self.c = data
        _, self.p, self.q, _ = gradient
        self.g, self.x, self.y = buffers

    def starts(self, n: Expr, i: Expr) -> tuple[Expr, Expr]:
        """Where a row of windows begins in the gradient and in the data."""
        return (n * self.p + i) * (self.q * self.c), (n * self.h + i * self.strides[0]) * (self.w * self.c)

    def shares(self, source: Expr, at: Expr, lanes: int) -> list[tuple[Expr, Expr, Expr]]:
        """For each place of a window: where it is, its part of the window's gradient, its value."""
        row, column, zero = self.w * self.c, self.c, constant(0.0, lanes)
        places = [at + (i * row + j * column) for i in range(self.window[0]) for j in range(self.window[1])]
        values = [load(self.x, place, lanes) for place in places]
        top = _maximum(values, lanes)
        left = load(self.g, source, lanes)
        found = []
        for place, value in zip(places, values, strict=True):
            hit = value.equal(top)
            found.append((place, _held(tirx.Select(hit, left, zero), lanes), value))
            left = _held(tirx.Select(hit, zero, left), lanes)
        return found

    def put(self, at: Expr, part: Expr, value: Expr, lanes: int) -> None:
        """Store a finished part, which may be what is there already: fenced, or only some of it would be."""
        zero = constant(0.0, lanes)
        part = tirx.Select(value > zero, fenced(part, lanes), zero) if self.mask else part
        store(self.y, at, part, lanes)

    def clear(self, n: Expr) -> None:
        """Zeros everywhere."""
        size = self.h * self.w * self.c
        _strips(
            self.machine, size, lambda at, lanes: store(self.y, n * size + at, constant(0.0, lanes), lanes)
        )

    def apart(self, n: Expr) -> None:
        """Windows that do not meet: every place is written once."""
        with loop(self.p) as i, loop(self.q) as j:
            source, at = self.starts(n, i)

            def window(channel: Expr, lanes: int) -> None:
                here = at + j * (self.strides[1] * self.c) + channel
                for place, part, value in self.shares(source + j * self.c + channel, here, lanes):
                    self.put(place, part, value, lanes)

            _strips(self.machine, self.c, window)

    def sliding(self, n: Expr) -> None:
        """Windows of 2 × 2, one apart: a row's places are finished by the second row of windows over them.

        Parts are added in the order of the windows.
        """
        row, column = self.w * self.c, self.c

        def line(i: Expr, is_first: bool) -> None:
            source, at = self.starts(n, i)

            def slide(channel: Expr, lanes: int) -> None:
                upper, lower = cleared(lanes), cleared(lanes)
                with loop(self.q) as j:
                    here = at + channel + j * column
                    found = self.shares(source + channel + j * column, here, lanes)
                    (_, a, value), (_, b, _), (_, c, _), (_, d, _) = found
                    above = upper.value if is_first else load(self.y, here, lanes) + upper.value
                    self.put(here, _held(above + a, lanes), value, lanes)
                    store(self.y, here + row, lower.value + c, lanes)
                    upper.set(b)
                    lower.set(d)
                last = at + channel + (self.w - 1) * column
                above = upper.value if is_first else load(self.y, last, lanes) + upper.value
                self.put(last, _held(above, lanes), load(self.x, last, lanes), lanes)
                store(self.y, last + row, lower.value, lanes)

            _strips(self.machine, self.c, slide)

        line(0, True)
        if self.p > 1:
            with loop(self.p - 1) as i:
                line(i + 1, False)
        if self.mask:
            start = (n * self.h + self.h - 1) * row

            def finish(at: Expr, lanes: int) -> None:
                self.put(start + at, load(self.y, start + at, lanes), load(self.x, start + at, lanes), lanes)

            _strips(self.machine, row, finish)

    def scattered(self, n: Expr) -> None:
        """Any windows: add where they meet."""
        with loop(self.p) as i, loop(self.q) as j:
            source, at = self.starts(n, i)

            def window(channel: Expr, lanes: int) -> None:
                here = at + j * (self.strides[1] * self.c) + channel
                for place, part, _ in self.shares(source + j * self.c + channel, here, lanes):
                    store(self.y, place, load(self.y, place, lanes) + part, lanes)

            _strips(self.machine, self.c, window)
        if self.mask:
            size = self.h * self.w * self.c

            def finish(at: Expr, lanes: int) -> None:
                place = n * size + at
                self.put(place, load(self.y, place, lanes), load(self.x, place, lanes), lanes)

            _strips(self.machine, size, finish)
