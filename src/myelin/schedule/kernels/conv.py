"""Convolutions and their data gradients, one example after the other, no dilation, no groups.

Shapes: data ``[m, h, w, c]``, output ``[m, p, q, o]``; kernels in :func:`weight_blocks`. Taps beyond a border
are left out: rows by the bounds of a loop, columns by code of their own for the tiles at either side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from .emit import (
    PARALLEL_WORK,
    Expr,
    Machine,
    Piece,
    Register,
    cleared,
    constant,
    kernel,
    load,
    loop,
    pieces,
    spread,
    store,
)
from .taps import Axis, Image, Run, Shape, backward_phases, channel_last, forward_axis, runs

# A kernel larger than this is walked block by block, over all examples, so that each block is read once.
_CACHED_BYTES = 1 << 18
# Loops over so few channels are written out, for so many places at a time.
_FEW, _PLACES_OF_FEW = 4, 8


@dataclass(frozen=True)
class Tile:
    """A register tile: ``columns`` places of one row × ``vectors`` vectors of output channels."""

    columns: int
    vectors: int


def choose_tile(
    machine: Machine, columns: Axis, width: int, channels: int, widths: Sequence[int] = (1, 2, 3, 4)
) -> Tile:
    """The tile that needs the fewest cycles for one step of the reduction over one row.

    Few places where the reduction is short: the compiler would keep the scalars that neighbours share in
    registers that it does not have.
    """
    whole = -(-width // machine.lanes)
    most = _PLACES_OF_FEW if channels <= _FEW else columns.places
    best: tuple[float, int, int, int] | None = None
    for vectors in widths:
        if vectors > max(whole, widths[0]):
            continue
        for wide in range(1, min(columns.places, most, machine.places(vectors)) + 1):
            cost = 0.0
            for run in runs(columns, wide):
                for vectors_now, count in _vector_counts(whole, vectors):
                    steps = (machine.step_cost(len(met), vectors_now) for met in run.met if met)
                    cost += run.count * count * sum(steps)
            key = (cost, -wide * vectors, wide, vectors)
            if best is None or key < best:
                best = key
    assert best is not None
    return Tile(best[2], best[3])


def _vector_counts(whole: int, vectors: int) -> list[tuple[int, int]]:
    rest = whole % vectors
    return [(vectors, whole // vectors), *([(rest, 1)] if rest else [])]


@dataclass(frozen=True)
class Block:
    """``count`` blocks of ``width`` output channels from ``start``."""

    start: int
    width: int
    count: int


def weight_blocks(length: int, width: int) -> list[Block]:
    """How a kernel's last axis is cut: block after block, each ``[taps and inputs, block]`` and compact."""
    whole, rest = divmod(length, width)
    cut = [Block(0, width, whole)] if whole else []
    return [*cut, Block(whole * width, rest, 1)] if rest else cut


@dataclass(frozen=True)
class Finish:
    """What is done to a sum before it is written: add a bias, then ReLU; or zero where a mask is not > 0."""

    bias: bool = False
    relu: bool = False
    mask: bool = False


@dataclass(frozen=True)
class _Part:
    """One dense convolution: axes, where its outputs go, and which tap of the kernel each of its taps is."""

    rows: Axis
    columns: Axis
    target: tuple[int, int, int]
    taps: tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class _Layer:
    """Everything about a kernel but its buffers."""

    machine: Machine
    source: Image
    example_out: int
    width: int
    kernel_rows: int
    kernel_columns: int
    block: int
    tiles: tuple[Tile, ...]
    finish: Finish

    @property
    def depth(self) -> int:
        """Terms of one output: taps times inputs."""
        return self.kernel_rows * self.kernel_columns * self.source.channels


def block_width(machine: Machine, data: Shape, weight: Shape, strides: Shape, padding: Shape) -> int:
    """Output channels of one block of :func:`conv2d`'s kernel ``[u, v, c, o]``."""
    axis = _forward_axes(data, weight, strides, padding)[1]
    return _block(machine, weight[3], choose_tile(machine, axis, weight[3], weight[2]))


def gradient_block_width(
    machine: Machine, gradient: Shape, weight: Shape, data: Shape, strides: Shape, padding: Shape
) -> int:
    """Channels of one block of :func:`conv2d_data_gradient`'s kernel ``[u, v, o, c]``."""
    return _block(machine, weight[3], _backward_tiles(machine, gradient, weight, data, strides, padding)[0])


def _block(machine: Machine, width: int, tile: Tile) -> int:
    return min(width, tile.vectors * machine.lanes)


def _forward_axes(data: Shape, weight: Shape, strides: Shape, padding: Shape) -> tuple[Axis, Axis]:
    (_, h, w, _), (u, v, _, _), (top, left, bottom, right) = data, weight, padding
    p, q = (h + top + bottom - u) // strides[0] + 1, (w + left + right - v) // strides[1] + 1
    return forward_axis(h, u, strides[0], top, p), forward_axis(w, v, strides[1], left, q)


def _backward_tiles(
    machine: Machine, gradient: Shape, weight: Shape, data: Shape, strides: Shape, padding: Shape
) -> list[Tile]:
    phases = backward_phases(data[2], weight[1], strides[1], padding[1], gradient[2])
    main = max(phases, key=lambda phase: phase.axis.places * phase.axis.taps)
    vectors = choose_tile(machine, main.axis, weight[3], weight[2]).vectors
    return [choose_tile(machine, phase.axis, weight[3], weight[2], (vectors,)) for phase in phases]


def conv2d(
    machine: Machine,
    data: Shape,
    weight: Shape,
    strides: Shape,
    padding: Shape = (0, 0, 0, 0),
    source: Image | None = None,
    finish: Finish = Finish(),
) -> tirx.PrimFunc:
    """Data ``[m, h, w, c]`` and kernel ``[u, v, c, o]`` in blocks, and a bias if asked, to ``[m, p, q, o]``.

    Args:
        machine: what to fit.
        data: its shape.
        weight: shape of the kernel; its argument is flat, cut by :func:`block_width`.
        strides: (height, width).
        padding: (top, left, bottom, right), zeros that are not read.
        source: how the data lies, if not channel-last.
        finish: bias ``[o]`` (an argument after the kernel) and ReLU.

    Every output is the sum over (row of taps, tap, channel), in this order, fused.
    """
    (m, _, _, _), (u, v, _, o) = data, weight
    rows, columns = _forward_axes(data, weight, strides, padding)
    p, q = rows.places, columns.places
    tile = choose_tile(machine, columns, o, data[3])
    image = source or channel_last(data)
    layer = _Layer(machine, image, p * q * o, o, u, v, _block(machine, o, tile), (tile,), finish)
    part = _Part(rows, columns, (0, q * o, o), ((0, 1), (0, 1)))
    extra = [((o,), "float32")] if finish.bias else []
    return _build("conv2d", layer, [part], extra, (m, p, q, o))


def conv2d_data_gradient(
    machine: Machine,
    gradient: Shape,
    weight: Shape,
    data: Shape,
    strides: Shape,
    padding: Shape,
    finish: Finish = Finish(),
) -> tirx.PrimFunc:
    """Output gradient ``[m, p, q, o]`` and kernel ``[u, v, o, c]`` in blocks to the data's ``[m, h, w, c]``.

    ``padding`` is the forward convolution's. The places of the data are taken by their residue modulo the
    stride, each residue a dense convolution. With the finish's ``mask``, data ``[m, h, w, c]`` is an
    argument after the kernel, and the gradient is zero where it is not greater than zero.
    """
    p, q = gradient[1:3]
    u, v, _, c = weight
    _, h, w, _ = data
    tiles = _backward_tiles(machine, gradient, weight, data, strides, padding)
    parts, own = [], []
    for y in backward_phases(h, u, strides[0], padding[0], p):
        for x, tile in zip(backward_phases(w, v, strides[1], padding[1], q), tiles, strict=True):
            taps = (
                (y.first_tap + max(y.axis.taps - 1, 0) * strides[0], -strides[0]),
                (x.first_tap + max(x.axis.taps - 1, 0) * strides[1], -strides[1]),
            )
            target = ((y.first_place * w + x.first_place) * c, strides[0] * w * c, strides[1] * c)
            parts.append(_Part(y.axis, x.axis, target, taps))
            own.append(tile)
    block = _block(machine, c, tiles[0])
    layer = _Layer(machine, channel_last(gradient), h * w * c, c, u, v, block, tuple(own), finish)
    extra = [(tuple(data), "float32")] if finish.mask else []
    return _build("conv2d_data_gradient", layer, parts, extra, tuple(data))


def _build(
    name: str,
    layer: _Layer,
    parts: Sequence[_Part],
    extra: Sequence[tuple[tuple[int, ...], str]],
    shape: tuple[int, ...],
) -> tirx.PrimFunc:
    m, depth = layer.source.examples, layer.depth
    work = m * math.prod(shape[1:]) * depth
    large = depth * layer.width * 4 > _CACHED_BYTES

    def body(x: tirx.Buffer, k: tirx.Buffer, *rest: tirx.Buffer) -> None:
        for block in weight_blocks(layer.width, layer.block):
            with loop(m * block.count, parallel=work >= PARALLEL_WORK) as task:
                if large:
                    number, n = task // m, task % m
                else:
                    n, number = task // block.count, task % block.count
                column = block.start + number * block.width
                for part, tile in zip(parts, layer.tiles, strict=True):
                    _part(layer, part, tile, block.width, (n, column), (x, k, *rest))

    inputs = [(layer.source.declared, "float32"), ((depth * layer.width,), "float32"), *extra]
    return kernel(name, inputs, [(shape, "float32")], body)


def _part(
    layer: _Layer,
    part: _Part,
    tile: Tile,
    width: int,
    at: tuple[Expr, Expr],
    buffers: tuple[tirx.Buffer, ...],
) -> None:
    """One block of output channels of one example."""
    n, column = at
    with loop(part.rows.places) as i:
        for run in runs(part.columns, tile.columns):
            with loop(run.count) as j:
                place = run.start + j * run.length
                cut = pieces(width, layer.machine.lanes)
                lines = [[cleared(piece.lanes) for piece in cut] for _ in range(run.length)]
                if part.rows.taps and part.columns.taps:
                    _reduce(layer, part, run, (n, i, place, column), cut, lines, buffers)
                target = n * layer.example_out + part.target[0] + i * part.target[1] + place * part.target[2]
                for number, line in enumerate(lines):
                    to = target + number * part.target[2] + column
                    _finish(layer, line, cut, to, column, buffers)


def _reduce(
    layer: _Layer,
    part: _Part,
    run: Run,
    at: tuple[Expr, Expr, Expr, Expr],
    cut: list[Piece],
    lines: list[list[Register]],
    buffers: tuple[tirx.Buffer, ...],
) -> None:
    """Add all taps and inputs that a tile meets to its registers."""
    (n, i, place, column), source, width = at, layer.source, cut[-1].offset + cut[-1].lanes
    x, k = buffers[:2]
    (row_tap, row_step), (column_tap, column_step) = part.taps
    first, count = part.rows.taps_of(i)
    start = n * source.example + (i * part.rows.stride + part.rows.offset) * source.row
    start = start + (place * part.columns.stride + part.columns.offset) * source.column

    def step(met: Sequence[int], shift: Expr, row: Expr) -> None:
        vectors = [load(k, row + piece.offset, piece.lanes) for piece in cut]
        for number in met:
            scalar = load(x, shift + number * part.columns.stride * source.column)
            for piece, vector, register in zip(cut, vectors, lines[number], strict=True):
                register.add_product(spread(scalar, piece.lanes), vector)

    with loop(count) if isinstance(count, int) else T.serial(count) as t:
        tap = first + t
        line = start + tap * source.row
        row = ((row_tap + tap * row_step) * layer.kernel_columns + column_tap) * source.channels * width
        row = row + column * layer.depth
        for number, met in enumerate(run.met):
            if met:
                here, there = (
                    line + number * source.column,
                    row + number * column_step * source.channels * width,
                )
                if source.channels <= _FEW:
                    for channel in range(source.channels):
                        step(met, here + channel * source.channel, there + channel * width)
                    continue
                with loop(source.channels) as channel:
                    step(met, here + channel * source.channel, there + channel * width)


def _finish(
    layer: _Layer,
    line: list[Register],
    cut: list[Piece],
    to: Expr,
    column: Expr,
    buffers: tuple[tirx.Buffer, ...],
) -> None:
    out = buffers[-1]
    for piece, register in zip(cut, line, strict=True):
        value, zero = register.value, constant(0.0, piece.lanes)
        if layer.finish.bias:
            value = T.Bind(value + load(buffers[2], column + piece.offset, piece.lanes))
        if layer.finish.relu:
            value = tirx.Select(value < zero, zero, value)
        if layer.finish.mask:
            mask = load(buffers[2], to + piece.offset, piece.lanes)
            value = tirx.Select(mask > zero, value, zero)
        store(out, to + piece.offset, value, piece.lanes)
