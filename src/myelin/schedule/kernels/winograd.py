"""Convolutions of 3×3, stride 1, with 16 products for four outputs in place of 36: Winograd's F(2×2, 3×3).

Outputs are taken in tiles of 2×2, each from a patch of 4×4 inputs (Lavin and Gray 2016, arXiv:1509.09308,
section 4.1). With ``U = G k Gᵀ`` of each kernel and ``V = Bᵀ d B`` of each patch, both 4×4, the tile is
``Aᵀ (Σ_channels U ∘ V) A``: for each of the 16 positions a product ``[tiles, c] × [c, o]``.

A block of tiles whose patches, transformed, stay in the second-level cache goes through all channels; strip
by strip of output channels, its sums are made and turned into outputs while they are in cache. Taps beyond a
border are left out. Each sum is one chain of fused multiply-adds over the channels, and the transforms are
sums in one fixed order: neither blocks, tiles, vector width nor an example's slot change a result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from ...privacy.tiles import tiles_pay
from .conv import Finish
from .emit import (
    PARALLEL_WORK,
    Cut,
    Expr,
    Machine,
    balanced,
    cleared,
    constant,
    cuts,
    hold,
    kernel,
    load,
    loop,
    pieces,
    spread,
    store,
)
from .panels import Strips
from .taps import Shape
from .winograd_tiles import POSITIONS, Block, Spot, Tiles, bands, store_patches, tile_height, walk

# Elements of a block's transformed patches: a quarter of a second-level cache of 1 MiB.
_PATCH_ELEMENTS = 65536
# A transformed kernel of this size is read from beyond that cache, so for twice as many patches at a time.
_KERNEL_ELEMENTS = 262144
_NONE = Finish()
# Most threads that a kernel is cut for: each has scratch of its own.
_TASKS = 4
# Elements between matrices that are written at the same time, so that they fall on different sets of a cache.
_PADDING = 16


def winograd_pays(data: Shape, outputs: Shape, kernel_size: Shape, strides: Shape) -> bool:
    """Whether :func:`winograd_conv2d` is worth it for data ``[m, h, w, c]`` and outputs ``[m, p, q, o]``.

    See :mod:`myelin.privacy.tiles`, which counts the multiply-adds.
    """
    return tiles_pay((*kernel_size, data[3], outputs[3]), tuple(strides), (outputs[1], outputs[2]))


def _output_transform(sums: Sequence[Expr], lanes: int) -> list[list[Expr]]:
    """``Aᵀ s A`` of 16 sums, row after row."""

    def along(s: Sequence[Expr]) -> list[Expr]:
        return [(s[0] + s[1]) + s[2], (s[1] - s[2]) - s[3]]

    columns = [[hold(v, lanes) for v in along(sums[j::4])] for j in range(4)]
    return [along([column[i] for column in columns]) for i in range(2)]


@dataclass(frozen=True)
class _Layer:
    """A convolution but its buffers; ``block`` is a whole block of it, ``before`` the padding."""

    machine: Machine
    data: tuple[int, ...]
    outputs: tuple[int, ...]
    before: tuple[int, int]
    tiles: Tiles
    finish: Finish

    @property
    def most(self) -> tuple[int, int]:
        """Images and rows of tiles of a whole block."""
        c, o = self.data[3], self.outputs[3]
        most = _PATCH_ELEMENTS * (2 if POSITIONS * c * o >= _KERNEL_ELEMENTS else 1)
        limit = max(1, most // (POSITIONS * c * self.tiles.wide))
        if limit < self.tiles.high:
            return 1, balanced(self.tiles.high, limit)
        return balanced(self.data[0], limit // self.tiles.high), self.tiles.high

    @property
    def strips(self) -> Strips:
        """Strips of output channels."""
        return Strips(self.outputs[3], self.machine.lanes)

    @property
    def patches(self) -> int:
        """Elements of one position's transformed patches of a block."""
        images, rows = self.most
        return images * rows * self.tiles.wide * self.data[3] + _PADDING

    @property
    def sums(self) -> int:
        """Elements of one position's sums of a block and a strip."""
        images, rows = self.most
        return images * rows * self.tiles.wide * min(self.strips.width, self.strips.stored) + _PADDING

    @property
    def groups(self) -> int:
        """How many parts the strips are cut into for threads, where there are few blocks for them."""
        (images, rows), m = self.most, self.data[0]
        few = -(-m // images) * -(-self.tiles.high // rows) < 2 * _TASKS
        return _divisor(self.strips.whole, _TASKS) if few and self.is_large else 1

    @property
    def is_large(self) -> bool:
        """Whether it is worth waking other threads."""
        m, p, q, o = self.outputs
        return m * p * q * o * self.data[3] * 4 >= PARALLEL_WORK

    @property
    def scratch(self) -> int:
        """Elements that a block needs."""
        return POSITIONS * (self.patches + self.groups * self.sums)

    def tasks(self, blocks: int) -> int:
        """How many parts so many blocks are cut into for threads."""
        return _divisor(blocks, _TASKS) if self.groups == 1 and self.is_large else 1

    @property
    def cut(self) -> list[tuple[Cut, Cut, int]]:
        """Blocks of images, of rows of tiles within them, and into how many tasks they are cut."""
        images, rows = self.most
        return [
            (several, part, self.tasks(several.count * part.count))
            for several in cuts(self.data[0], images)
            for part in cuts(self.tiles.high, rows)
        ]


def _divisor(count: int, most: int) -> int:
    """The greatest divisor up to ``most``; 1 of nothing."""
    return max(d for d in range(1, most + 1) if count % d == 0) if count else 1


def winograd_elements(machine: Machine, inputs: int, outputs: int) -> int:
    """Elements of a transformed kernel."""
    return POSITIONS * inputs * Strips(outputs, machine.lanes).stored


def winograd_conv2d(
    machine: Machine, data: Shape, outputs: Shape, padding: Shape, finish: Finish = _NONE
) -> tirx.PrimFunc:
    """Data ``[m, h, w, c]`` to ``[m, p, q, o]`` by a kernel from :func:`winograd_weight`.

    Args:
        machine: what to fit.
        data: its shape.
        outputs: shape of the result.
        padding: (top, left): how far the first patch begins before the data.
        finish: bias ``[o]`` or mask ``[m, p, q, o]`` is an argument after the kernel.

    The second output is scratch.
    """
    (_, h, w, c), (_, p, q, o) = data, outputs
    tiles = Tiles(tuple(bands(h, padding[0], p)), tuple(bands(w, padding[1], q)))
    layer = _Layer(machine, tuple(data), tuple(outputs), (padding[0], padding[1]), tiles, finish)
    inputs: list[tuple[tuple[int, ...], str]] = [
        (tuple(data), "float32"),
        ((winograd_elements(machine, c, o),), "float32"),
    ]
    if finish.bias or finish.mask:
        inputs.append(((o,) if finish.bias else tuple(outputs), "float32"))

    def body(x: tirx.Buffer, u: tirx.Buffer, *rest: tirx.Buffer) -> None:
        buffers = (x, u, rest[0] if len(rest) == 3 else None, rest[-2], rest[-1])
        for several, part, tasks in layer.cut:
            each = several.count * part.count // tasks
            with loop(tasks, parallel=tasks > 1) as task, loop(each) as index:
                number = task * each + index
                image = several.start + number // part.count * several.length
                row = part.start + number % part.count * part.length
                block = Block(tiles, several.length, part.length, image, row)
                _block(layer, block, buffers, task * layer.scratch)

    elements = layer.scratch * max(tasks for _, _, tasks in layer.cut)
    result = [(tuple(outputs), "float32"), ((elements,), "float32")]
    return kernel("winograd_conv2d", inputs, result, body)


_Buffers = tuple[tirx.Buffer, tirx.Buffer, tirx.Buffer | None, tirx.Buffer, tirx.Buffer]


def _block(layer: _Layer, block: Block, buffers: _Buffers, own: Expr) -> None:
    """One block of tiles, through all channels; ``own`` is where its scratch begins."""
    (x, u, _, _, scratch), c = buffers, layer.data[3]
    source, target = (x, layer.data, layer.before), (scratch, own, layer.patches, c)
    store_patches(layer.machine, block, source, (0, c), target)
    strips = layer.strips
    for first, count, columns, width in (
        (0, strips.whole, strips.width, strips.width),
        (strips.whole, 1, strips.rest, strips.rest_width),
    ):
        if count and columns:
            groups = layer.groups if count % layer.groups == 0 else 1
            with loop(groups, parallel=groups > 1) as group, loop(count // groups) as index:
                column = (first + group * (count // groups) + index) * strips.width
                sums = own + POSITIONS * (layer.patches + group * layer.sums)
                _products(layer, block, (u, scratch), (own, sums), (column, width))
                _outputs(layer, block, buffers, sums, (column, columns, width))


def _products(
    layer: _Layer,
    block: Block,
    buffers: tuple[tirx.Buffer, tirx.Buffer],
    own: tuple[Expr, Expr],
    strip: tuple[Expr, int],
) -> None:
    """The sums of one strip of output channels, position by position.

    ``own`` says where patches and sums begin, ``strip`` where it does and how wide it is.
    """
    (column, width), (u, scratch) = strip, buffers
    c, lanes = layer.data[3], layer.machine.lanes
    offsets = range(0, width, lanes)
    with loop(POSITIONS) as position:
        for cut in cuts(block.count, tile_height(layer.machine, block.count, len(offsets))):
            with loop(cut.count) as k:
                row = cut.start + k * cut.length
                registers = [[cleared(lanes) for _ in offsets] for _ in range(cut.length)]
                at = own[0] + position * layer.patches + row * c
                with loop(c) as channel:
                    step = column * (POSITIONS * c) + (position * c + channel) * width
                    vectors = [load(u, step + offset, lanes) for offset in offsets]
                    for r, line in enumerate(registers):
                        scalar = spread(load(scratch, at + r * c + channel), lanes)
                        for vector, register in zip(vectors, line, strict=True):
                            register.add_product(scalar, vector)
                to = own[1] + position * layer.sums + row * width
                for r, line in enumerate(registers):
                    for offset, register in zip(offsets, line, strict=True):
                        store(scratch, to + r * width + offset, register.value, lanes)


def _outputs(layer: _Layer, block: Block, buffers: _Buffers, own: Expr, strip: tuple[Expr, int, int]) -> None:
    """Sums from ``own`` to outputs; ``strip`` is its first column, how many, and how many are stored."""
    _, _, extra, y, scratch = buffers
    (_, p, q, o), finish, (column, columns, width) = layer.outputs, layer.finish, strip

    def transform(spot: Spot) -> None:
        start = own + spot.number * width
        to = ((spot.image * p + spot.row * 2) * q + spot.column * 2) * o + column
        for piece in pieces(columns, layer.machine.lanes):
            zero = constant(0.0, piece.lanes)
            sums = [
                load(scratch, start + position * layer.sums + piece.offset, piece.lanes)
                for position in range(POSITIONS)
            ]
            made = _output_transform(sums, piece.lanes)
            bias = load(extra, column + piece.offset, piece.lanes) if finish.bias else None
            for i in spot.high.outputs:
                for j in spot.wide.outputs:
                    value, at = made[i][j], to + (i * q + j) * o + piece.offset
                    if bias is not None:
                        value = T.Bind(value + bias)
                    if finish.relu:
                        value = tirx.Select(value < zero, zero, value)
                    if finish.mask:
                        value = tirx.Select(load(extra, at, piece.lanes) > zero, value, zero)
                    store(y, at, value, piece.lanes)

    walk(block, transform)


def winograd_weight(machine: Machine, weight: Shape, backward: bool = False) -> tirx.PrimFunc:
    """A kernel ``[o, c, 3, 3]``, transformed, as :func:`winograd_conv2d` reads it.

    Strips of outputs, each ``[positions, c, strip]``; outputs past the last are zero. With ``backward``, for
    the data gradient: the kernel turned by half, outputs and inputs exchanged.
    """
    o, c, _, _ = weight
    rows, columns, row, column = (o, c, c * 9, 9) if backward else (c, o, 9, c * 9)
    strips, lanes = Strips(columns, machine.lanes), machine.lanes

    def strip(k: tirx.Buffer, u: tirx.Buffer, first: Expr, made: int, width: int) -> None:
        stay = {"disable_lower_builtin": True}
        stage = T.alloc_buffer((9 * width,), "float32", scope="local", layout=None, annotations=stay)
        with loop(rows) as r:
            with loop(made) as i:
                for tap in range(9):
                    at = r * row + (first + i) * column + (8 - tap if backward else tap)
                    store(stage, tap * width + i, load(k, at))
            if made < width:
                with loop(width - made) as i:
                    for tap in range(9):
                        store(stage, tap * width + made + i, constant(0.0, 1))
            for offset in range(0, width, lanes):
                taps = [load(stage, tap * width + offset, lanes) for tap in range(9)]
                for position, value in enumerate(_kernel_transform(taps, lanes)):
                    to = first * (POSITIONS * rows) + (position * rows + r) * width + offset
                    store(u, to, value, lanes)

    def body(k: tirx.Buffer, u: tirx.Buffer) -> None:
        if strips.whole:
            with loop(strips.whole, parallel=math.prod(weight) >= PARALLEL_WORK) as s:
                strip(k, u, s * strips.width, strips.width, strips.width)
        if strips.rest:
            strip(k, u, strips.whole * strips.width, strips.rest, strips.rest_width)

    out = ((winograd_elements(machine, rows, columns),), "float32")
    return kernel("winograd_weight", [(tuple(weight), "float32")], [out], body)


def _kernel_transform(taps: Sequence[Expr], lanes: int) -> list[Expr]:
    """``G k Gᵀ``, row after row."""
    half = constant(0.5, lanes)

    def along(g: Sequence[Expr]) -> list[Expr]:
        outer = hold(g[0] + g[2], lanes)
        return [g[0], (outer + g[1]) * half, (outer - g[1]) * half, g[2]]

    columns = [[hold(v, lanes) for v in along(taps[j::3])] for j in range(3)]
    return [v for i in range(4) for v in along([column[i] for column in columns])]
