"""Weight gradients of convolutions: of each example, or of a batch, with or without a factor per example.

Shapes: data ``[m, h, w, c]`` (or as an :class:`Image` says), output gradient ``[m, p, q, o]``, gradient of
the kernel ``[u, v, c, o]``. Each element sums over the places of the output row by row, fused; places whose
tap is beyond a border are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from .emit import (
    PARALLEL_WORK,
    Expr,
    Machine,
    Piece,
    Register,
    Strip,
    cleared,
    constant,
    fma,
    kernel,
    load,
    loop,
    spread,
    store,
    strips,
)
from .squares import Bound, square_sum
from .taps import Axis, Image, Shape, channel_last, forward_axis

# An example's input and output gradient that are larger than this are not kept for another tile.
_CACHED_BYTES = 1 << 18


@dataclass(frozen=True)
class _Layer:
    machine: Machine
    source: Image
    rows: Axis
    columns: Axis
    width: int
    vectors: int
    length: int

    @property
    def kernel_size(self) -> int:
        return self.rows.taps * self.columns.taps * self.source.channels * self.width

    @property
    def outputs(self) -> int:
        return self.rows.places * self.columns.places * self.width

    @property
    def work(self) -> int:
        """Multiply-adds of one example, about."""
        return self.rows.places * self.columns.places * self.kernel_size


def _choose(machine: Machine, columns: Axis, channels: int, width: int) -> tuple[int, int]:
    """Vectors and inputs of the tile that needs the fewest cycles for one step."""
    whole = -(-width // machine.lanes)
    best: tuple[float, int, int, int] | None = None
    for vectors in (1, 2):
        if vectors > whole:
            continue
        most = machine.places(vectors)
        line = columns.taps * channels if channels * 2 <= most else channels
        for length in range(1, min(line, most) + 1):
            tiles, rest = divmod(line, length)
            cost = 0.0
            for size, count in ((length, tiles), (rest, 1)):
                if size:
                    cost += count * machine.step_cost(size, vectors)
            cost *= -(-whole // vectors) / line
            key = (cost, -length * vectors, length, vectors)
            if best is None or key < best:
                best = key
    assert best is not None
    return best[3], best[2]


def _layer(
    machine: Machine, data: Image, gradient: Shape, size: Shape, strides: Shape, padding: Shape
) -> _Layer:
    _, p, q, o = gradient
    rows = forward_axis(data.rows, size[0], strides[0], padding[0], p)
    columns = forward_axis(data.columns, size[1], strides[1], padding[1], q)
    vectors, length = _choose(machine, columns, data.channels, o)
    return _Layer(machine, data, rows, columns, o, vectors, length)


def _met(axis: Axis, tap: Expr) -> tuple[Expr, Expr]:
    """First place that meets a tap, and how many do."""
    s = axis.stride
    if all(axis.meets(i, t) for i in (0, axis.places - 1) for t in (0, axis.taps - 1)):
        return 0, axis.places
    first = tirx.floordiv(tirx.max(0, -axis.offset - tap) + (s - 1), s)
    end = tirx.floordiv(tirx.max(0, axis.size - axis.offset - tap) + (s - 1), s)
    return first, tirx.max(0, tirx.min(axis.places, end) - first)


def _between(count: Expr) -> AbstractContextManager[Expr]:
    return loop(count) if isinstance(count, int) else T.serial(count)


@dataclass(frozen=True)
class _Place:
    """Where a tile is: row of the kernel, its column (None: the tile spans columns), first line, strip."""

    row: Expr
    column: Expr | None
    line: Expr
    length: int
    strip: Strip
    at: Expr


def _walk(layer: _Layer, then: Callable[[_Place], None]) -> None:
    """All tiles of one gradient."""
    channels, taps = layer.source.channels, layer.columns.taps
    most = layer.machine.places(layer.vectors)
    spans = channels * 2 <= most
    line = taps * channels if spans else channels
    whole, rest = divmod(line, layer.length)
    for strip in strips(layer.width, layer.machine.lanes, layer.vectors):
        with loop(strip.count) as s, loop(layer.rows.taps) as row:
            at = strip.start + s * strip.step
            if spans:
                for start in range(0, line, layer.length):
                    length = min(layer.length, line - start)
                    then(_Place(row, None, start, length, strip, at))
                continue
            with loop(taps) as column:
                with loop(whole) as number:
                    then(_Place(row, column, number * layer.length, layer.length, strip, at))
                if rest:
                    then(_Place(row, column, whole * layer.length, rest, strip, at))


def _columns(layer: _Layer, place: _Place) -> list[tuple[Expr, Expr, tuple[int, ...]]]:
    """Runs of output columns: first, how many, and which lines of the tile they meet."""
    if place.column is not None:
        first, count = _met(layer.columns, place.column)
        return [(first, count, tuple(range(place.length)))]
    found: list[tuple[int, int, tuple[int, ...]]] = []
    for j in range(layer.columns.places):
        taps = [(place.line + i) // layer.source.channels for i in range(place.length)]
        met = tuple(i for i, tap in enumerate(taps) if layer.columns.meets(j, tap))
        if found and found[-1][2] == met:
            found[-1] = (found[-1][0], found[-1][1] + 1, met)
        else:
            found.append((j, 1, met))
    return [run for run in found if run[2]]


def _reduce(
    layer: _Layer,
    place: _Place,
    n: Expr,
    buffers: tuple[tirx.Buffer, tirx.Buffer],
    lines: list[list[Register]],
) -> None:
    """Add one example's places to a tile's registers."""
    (x, g), source = buffers, layer.source
    cut: Sequence[Piece] = place.strip.pieces
    offsets = []
    for i in range(place.length):
        line = place.line + i
        if place.column is None:
            tap, channel = divmod(line, source.channels)
            offsets.append(tap * source.column + channel * source.channel)
        else:
            offsets.append(i * source.channel)
    start = n * source.example + (layer.rows.offset + place.row) * source.row
    start = start + layer.columns.offset * source.column
    if place.column is not None:
        start = start + place.column * source.column + place.line * source.channel
    first, count = _met(layer.rows, place.row)
    q = layer.columns.places
    with _between(count) as i_:
        i = first + i_
        here = start + i * (layer.rows.stride * source.row)
        there = n * layer.outputs + i * (q * layer.width) + place.at
        for begin, many, met in _columns(layer, place):
            with _between(many) as j_:
                j = begin + j_
                row = there + j * layer.width
                vectors = [load(g, row + piece.offset, piece.lanes) for piece in cut]
                shift = here + j * (layer.columns.stride * source.column)
                for number in met:
                    scalar = load(x, shift + offsets[number])
                    for piece, vector, register in zip(cut, vectors, lines[number], strict=True):
                        register.add_product(spread(scalar, piece.lanes), vector)


def _target(layer: _Layer, place: _Place) -> Expr:
    """Where a tile's first element is in a gradient ``[u, v, c, o]``."""
    row = place.row * layer.columns.taps + (0 if place.column is None else place.column)
    return (row * layer.source.channels + place.line) * layer.width + place.at


def _registers(place: _Place) -> list[list[Register]]:
    return [[cleared(piece.lanes) for piece in place.strip.pieces] for _ in range(place.length)]


def conv2d_weight_gradient(
    machine: Machine,
    data: Shape,
    gradient: Shape,
    kernel_size: Shape,
    strides: Shape,
    padding: Shape = (0, 0, 0, 0),
    source: Image | None = None,
    bound: Bound | None = None,
) -> tirx.PrimFunc:
    """Each example's kernel gradient, ``[m, u, v, c, o]``.

    With ``bound``, a second output ``[m]``: what it makes of each gradient's sum of squares, taken while the
    gradient is still in cache.
    """
    layer = _layer(machine, source or channel_last(data), gradient, kernel_size, strides, padding)
    m = gradient[0]

    def body(x: tirx.Buffer, g: tirx.Buffer, y: tirx.Buffer, *norm: tirx.Buffer) -> None:
        with loop(m, parallel=m * layer.work >= PARALLEL_WORK) as n:

            def tile(place: _Place) -> None:
                registers = _registers(place)
                _reduce(layer, place, n, (x, g), registers)
                target = n * layer.kernel_size + _target(layer, place)
                for i, line in enumerate(registers):
                    for piece, register in zip(place.strip.pieces, line, strict=True):
                        store(y, target + i * layer.width + piece.offset, register.value, piece.lanes)

            _walk(layer, tile)
            if bound is not None:
                store(norm[0], n, bound(square_sum(y, n * layer.kernel_size, layer.kernel_size)))

    outputs = [((m, *kernel_size, layer.source.channels, layer.width), "float32")]
    if bound is not None:
        outputs.append(((m,), "float32"))
    inputs = [(layer.source.declared, "float32"), (tuple(gradient), "float32")]
    return kernel("conv2d_weight_gradient", inputs, outputs, body)


def _each(
    layer: _Layer,
    at: Expr,
    cut: Sequence[Piece],
    lines: list[list[Register]],
    then: Callable[[Expr, int, Register], None],
) -> None:
    """Every register of a tile, with its place in the gradient."""
    for i, line in enumerate(lines):
        for piece, register in zip(cut, line, strict=True):
            then(at + i * layer.width + piece.offset, piece.lanes, register)


def _merge(y: tirx.Buffer, to: Expr, lanes: int, register: Register, factor: Expr | None) -> None:
    """Write a sum that went on from what is there; or add a gradient, times its factor if that is > 0."""
    if factor is None:
        store(y, to, register.value, lanes)
        return
    many, old = spread(factor, lanes), load(y, to, lanes)
    new = fma(many, register.value, old, lanes)
    store(y, to, tirx.Select(many > constant(0.0, lanes), new, old), lanes)


def conv2d_weight_gradient_sum(
    machine: Machine,
    data: Shape,
    gradient: Shape,
    kernel_size: Shape,
    strides: Shape,
    padding: Shape = (0, 0, 0, 0),
    source: Image | None = None,
    weighted: bool = False,
) -> tirx.PrimFunc:
    """The kernel gradient summed over examples, ``[u, v, c, o]``.

    With ``weighted``, coefficients ``[m]`` are an argument after the gradient: each example's gradient is
    summed by itself, to the bit as :func:`conv2d_weight_gradient` would, and then added times its coefficient
    by selection: where that is not greater than zero, nothing of the example is added.
    """
    layer = _layer(machine, source or channel_last(data), gradient, kernel_size, strides, padding)
    m = gradient[0]

    # Where one example fills the cache, the sum goes by examples, not by tiles.
    by_example = 4 * (layer.source.example + layer.outputs) > _CACHED_BYTES

    def body(x: tirx.Buffer, g: tirx.Buffer, *rest: tirx.Buffer) -> None:
        y = rest[-1]

        def add(place: _Place, n: Expr) -> None:
            at, cut = _target(layer, place), place.strip.pieces
            registers = _registers(place)
            if not weighted:
                _each(layer, at, cut, registers, lambda to, lanes, r: r.set(load(y, to, lanes)))
            _reduce(layer, place, n, (x, g), registers)
            factor = load(rest[0], n) if weighted else None
            _each(layer, at, cut, registers, lambda to, lanes, r: _merge(y, to, lanes, r, factor))

        def clear(place: _Place) -> None:
            at, cut = _target(layer, place), place.strip.pieces
            zeros = _registers(place)
            _each(layer, at, cut, zeros, lambda to, lanes, r: store(y, to, r.value, lanes))

        def tile(place: _Place) -> None:
            clear(place)
            with loop(m) as n:
                add(place, n)

        if by_example:
            _walk(layer, clear)
            with loop(m) as n:
                _walk(layer, lambda place: add(place, n))
        else:
            _walk(layer, tile)

    inputs = [(layer.source.declared, "float32"), (tuple(gradient), "float32")]
    if weighted:
        inputs.append(((m,), "float32"))
    outputs = [((*kernel_size, layer.source.channels, layer.width), "float32")]
    return kernel("conv2d_weight_gradient_sum", inputs, outputs, body)
