"""Weight gradients of convolutions of 3×3, stride 1, with 16 products a tile in place of 36.

:mod:`~.winograd` makes a tile of outputs by ``Aᵀ (U ∘ V) A`` from ``U = G k Gᵀ``. So the gradient of the
kernel is ``Gᵀ (Σ_tiles W ∘ V) G``, with ``W = A g Aᵀ`` of the tile's 2×2 output gradients: for each of the 16
positions a product ``[c, tiles] × [tiles, o]``. Each sum is one chain of fused multiply-adds over the tiles,
row by row, and over the examples where those are summed.

A kept gradient is what is written here, whatever its rounding: its norm is taken of these numbers, and these
are what is clipped and summed. A ghost norm bounds the error of the direct sum; that sum stays direct.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tvm import tirx

from ...privacy.tiles import KEPT_FINISH, SUM_FINISH, tiled_multiply_adds
from .emit import (
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
from .squares import Bound, square_sum
from .taps import Shape
from .winograd_tiles import (
    POSITIONS,
    Block,
    Spot,
    Tiles,
    bands,
    minus,
    plus,
    store_patches,
    tile_height,
    walk,
)

# Elements of the transformed patches that stay in a second-level cache of 1 MiB: half of it.
_PATCH_ELEMENTS = 131072
# Most tiles of the examples that are summed in one go, if one example has not more.
_TILES = 64
# Elements of a kept gradient that are written before their squares are summed: half of such a cache. The
# order of that sum follows from it, so it is the same for every target.
_KEPT_ELEMENTS = 131072
# Inputs whose patches are transformed in one go are a multiple of this, if there are so many.
_ALIGNED = 16
# Inputs of the sums that are finished in one go, so that they stay in a first-level cache.
_FINISHED = 24
# Elements between rows and matrices, so that they do not fall on the same sets of a cache.
_PADDING = 16


def winograd_gradient_pays(data: Shape, gradient: Shape, kernel_size: Shape, strides: Shape) -> bool:
    """Whether :func:`winograd_weight_gradient` is worth it.

    For data ``[m, h, w, c]`` and output gradient ``[m, p, q, o]``; see :func:`winograd_pays`.
    """
    kernel, places = (*kernel_size, data[3], gradient[3]), (gradient[1], gradient[2])
    return tiled_multiply_adds(kernel, tuple(strides), places, KEPT_FINISH) is not None


def winograd_sum_pays(data: Shape, gradient: Shape, kernel_size: Shape, strides: Shape) -> bool:
    """Whether :func:`winograd_weight_gradient_sum` is worth it: it finishes once for all examples."""
    kernel, places = (*kernel_size, data[3], gradient[3]), (gradient[1], gradient[2])
    return tiled_multiply_adds(kernel, tuple(strides), places, SUM_FINISH) is not None


@dataclass(frozen=True)
class _Layer:
    """The gradient but its buffers: ``images`` go at a time, and ``channels`` inputs."""

    machine: Machine
    data: tuple[int, ...]
    gradient: tuple[int, ...]
    before: tuple[int, int]
    tiles: Tiles
    images: int
    channels: int

    @property
    def count(self) -> int:
        """Tiles of a block."""
        return self.images * self.tiles.high * self.tiles.wide

    @property
    def strips(self) -> Strips:
        """Strips of outputs."""
        return Strips(self.gradient[3], self.machine.lanes)

    @property
    def width(self) -> int:
        """Of the widest strip, as it is stored."""
        return min(self.strips.width, self.strips.stored)

    @property
    def row(self) -> int:
        """Distance of two tiles' patches."""
        return self.channels + _PADDING

    @property
    def patches(self) -> int:
        """Distance of two positions' patches."""
        return self.count * self.row + _PADDING

    @property
    def gradients(self) -> int:
        """Distance of two positions' output gradients of a strip."""
        return self.count * self.width + _PADDING

    @property
    def kernel_size(self) -> int:
        """Elements of the result."""
        return 9 * self.data[3] * self.gradient[3]


def _layer(machine: Machine, data: Shape, gradient: Shape, padding: Shape, images: int, most: int) -> _Layer:
    (_, h, w, _), (_, p, q, _) = data, gradient
    tiles = Tiles(tuple(bands(h, padding[0], p)), tuple(bands(w, padding[1], q)))
    most = min(most, _PATCH_ELEMENTS // (POSITIONS * images * tiles.high * tiles.wide))
    channels = min(data[3], -(-balanced(data[3], max(1, most)) // _ALIGNED) * _ALIGNED)
    return _Layer(machine, tuple(data), tuple(gradient), (padding[0], padding[1]), tiles, images, channels)


@dataclass(frozen=True)
class _Part:
    """Inputs from ``channel`` and one strip of outputs from ``column``, stored in ``width``.

    ``patch`` is where their patches begin in a tile's, ``sums`` where the first sum is, and ``rows`` how many
    inputs lie from one position's to the next.
    """

    channel: Expr
    channels: int
    column: Expr
    columns: int
    width: int
    sums: Expr
    rows: int
    patch: Expr = 0


def _each_strip(layer: _Layer, then: Callable[[Expr, int, int], None]) -> None:
    """First output, how many, and how many are stored, of every strip."""
    strips = layer.strips
    if strips.whole:
        with loop(strips.whole) as strip:
            then(strip * strips.width, strips.width, strips.width)
    if strips.rest:
        then(strips.whole * strips.width, strips.rest, strips.rest_width)


def _each_channels(layer: _Layer, then: Callable[[Expr, int], None]) -> None:
    """First input and how many, of every part of the inputs."""
    for cut in cuts(layer.data[3], layer.channels):
        with loop(cut.count) as k:
            then(cut.start + k * cut.length, cut.length)


def _spread_gradient(g: Sequence[Sequence[Expr | None]], lanes: int) -> list[Expr]:
    """``A g Aᵀ``, row after row."""

    def across(d: Sequence[Expr | None]) -> list[Expr | None]:
        return [d[0], plus(d[0], d[1]), minus(d[0], d[1], lanes), minus(None, d[1], lanes)]

    columns = [
        [None if v is None else hold(v, lanes) for v in across([row[j] for row in g])] for j in range(2)
    ]
    zero = constant(0.0, lanes)
    done = [v for i in range(4) for v in across([column[i] for column in columns])]
    return [zero if value is None else value for value in done]


def _store_gradients(
    layer: _Layer, block: Block, part: _Part, g: tirx.Buffer, scratch: tirx.Buffer, start: Expr
) -> None:
    """Transform the output gradients of one strip."""
    _, p, q, o = layer.gradient

    def transform(spot: Spot) -> None:
        corner = ((spot.image * p + spot.row * 2) * q + spot.column * 2) * o + part.column
        at = start + spot.number * part.width
        for piece in pieces(part.columns, layer.machine.lanes):
            tile = [
                [
                    load(g, corner + (i * q + j) * o + piece.offset, piece.lanes)
                    if i in spot.high.outputs and j in spot.wide.outputs
                    else None
                    for j in range(2)
                ]
                for i in range(2)
            ]
            for position, value in enumerate(_spread_gradient(tile, piece.lanes)):
                store(scratch, at + position * layer.gradients + piece.offset, value, piece.lanes)
        for piece in pieces(part.width - part.columns, layer.machine.lanes):
            for position in range(POSITIONS):
                to = at + position * layer.gradients + part.columns + piece.offset
                store(scratch, to, constant(0.0, piece.lanes), piece.lanes)

    walk(block, transform)


def _products(
    layer: _Layer, part: _Part, scratch: tirx.Buffer, sums: tirx.Buffer, size: tuple[int, bool]
) -> None:
    """The sums of a part over ``size[0]`` tiles, from zero or, if ``size[1]``, from what is there."""
    lanes, (count, goes_on) = layer.machine.lanes, size
    offsets = range(0, part.width, lanes)
    with loop(POSITIONS) as position:
        for cut in cuts(part.channels, tile_height(layer.machine, part.channels, len(offsets))):
            with loop(cut.count) as k:
                channel = cut.start + k * cut.length
                to = part.sums + (position * part.rows + channel) * part.width
                registers = [[cleared(lanes) for _ in offsets] for _ in range(cut.length)]
                if goes_on:
                    for r, line in enumerate(registers):
                        for offset, register in zip(offsets, line, strict=True):
                            register.set(load(sums, to + r * part.width + offset, lanes))
                there = POSITIONS * layer.patches + position * layer.gradients
                with loop(count) as t:
                    vectors = [load(scratch, there + t * part.width + offset, lanes) for offset in offsets]
                    at = position * layer.patches + t * layer.row + part.patch + channel
                    for r, line in enumerate(registers):
                        scalar = spread(load(scratch, at + r), lanes)
                        for vector, register in zip(vectors, line, strict=True):
                            register.add_product(scalar, vector)
                for r, line in enumerate(registers):
                    for offset, register in zip(offsets, line, strict=True):
                        store(sums, to + r * part.width + offset, register.value, lanes)


def _finish(layer: _Layer, part: _Part, sums: tirx.Buffer, y: tirx.Buffer, start: Expr) -> None:
    """``Gᵀ s G`` of a part's sums, written to a gradient ``[3, 3, c, o]`` from ``start``."""
    c, o = layer.data[3], layer.gradient[3]

    def along(s: Sequence[Expr], lanes: int) -> list[Expr]:
        half = constant(0.5, lanes)
        even, odd = hold((s[1] + s[2]) * half, lanes), (s[1] - s[2]) * half
        return [s[0] + even, odd, even + s[3]]

    with loop(part.channels) as r:
        found: list[list[Expr]] = []
        cut = pieces(part.columns, layer.machine.lanes)
        for piece in cut:
            at = part.sums + r * part.width + piece.offset
            apart = part.rows * part.width
            s = [load(sums, at + position * apart, piece.lanes) for position in range(POSITIONS)]
            columns = [[hold(v, piece.lanes) for v in along(s[j::4], piece.lanes)] for j in range(4)]
            rows = [along([column[i] for column in columns], piece.lanes) for i in range(3)]
            found.append([hold(value, piece.lanes) for row in rows for value in row])
        # Neighbours together: the taps of a large kernel all fall on the same set of a cache.
        for tap in range(9):
            to = start + (tap * c + part.channel + r) * o + part.column
            for piece, values in zip(cut, found, strict=True):
                store(y, to + piece.offset, values[tap], piece.lanes)


def _transform_patches(
    layer: _Layer, block: Block, x: tirx.Buffer, scratch: tirx.Buffer, channels: tuple[Expr, int]
) -> None:
    source, target = (x, layer.data, layer.before), (scratch, 0, layer.patches, layer.row)
    store_patches(layer.machine, block, source, channels, target)


def winograd_weight_gradient(
    machine: Machine, data: Shape, gradient: Shape, padding: Shape, bound: Bound | None = None
) -> tirx.PrimFunc:
    """Each example's kernel gradient, ``[m, 3, 3, c, o]``, from ``[m, h, w, c]`` and ``[m, p, q, o]``.

    ``padding`` is (top, left). With ``bound``, a second output ``[m]``, as of :func:`conv2d_weight_gradient`.
    The last output is scratch.
    """
    m, c, o = data[0], data[3], gradient[3]
    layer = _layer(machine, data, gradient, padding, 1, _KEPT_ELEMENTS // (9 * o))
    size, before = layer.kernel_size, POSITIONS * (layer.patches + layer.gradients)
    finished = min(_FINISHED, layer.channels)

    def finish(scratch: tirx.Buffer, y: tirx.Buffer, whole: _Part, start: Expr) -> None:
        for cut in cuts(whole.channels, finished):
            with loop(cut.count) as k:
                patch = cut.start + k * cut.length
                channel = whole.channel + patch
                part = replace(whole, channel=channel, channels=cut.length, rows=cut.length, patch=patch)
                _products(layer, part, scratch, scratch, (layer.count, False))
                _finish(layer, part, scratch, y, start)

    def body(x: tirx.Buffer, g: tirx.Buffer, y: tirx.Buffer, *rest: tirx.Buffer) -> None:
        scratch = rest[-1]
        with loop(m) as n:
            block = Block(layer.tiles, 1, layer.tiles.high, n, 0)
            squares = cleared(1, "float64")

            def inputs(channel: Expr, channels: int) -> None:
                _transform_patches(layer, block, x, scratch, (channel, channels))

                def strip(column: Expr, columns: int, width: int) -> None:
                    whole = _Part(channel, channels, column, columns, width, before, channels)
                    _store_gradients(layer, block, whole, g, scratch, POSITIONS * layer.patches)
                    finish(scratch, y, whole, n * size)

                _each_strip(layer, strip)
                if bound is not None:
                    with loop(9) as tap:
                        written = square_sum(y, n * size + (tap * c + channel) * o, channels * o)
                        squares.set(squares.value + written)

            _each_channels(layer, inputs)
            if bound is not None:
                store(rest[0], n, bound(squares.value))

    outputs: list[tuple[tuple[int, ...], str]] = [((m, 3, 3, c, o), "float32")]
    if bound is not None:
        outputs.append(((m,), "float32"))
    outputs.append(((before + POSITIONS * finished * layer.width,), "float32"))
    inputs = [(tuple(data), "float32"), (tuple(gradient), "float32")]
    return kernel("winograd_weight_gradient", inputs, outputs, body)


def winograd_weight_gradient_sum(
    machine: Machine, data: Shape, gradient: Shape, padding: Shape
) -> tirx.PrimFunc:
    """The kernel gradient summed over examples, ``[3, 3, c, o]``; the second output is scratch."""
    m, tiles = data[0], -(-gradient[1] // 2) * -(-gradient[2] // 2)
    layer = _layer(machine, data, gradient, padding, balanced(m, max(1, _TILES // tiles)), data[3])
    before, c = POSITIONS * (layer.patches + layer.gradients), data[3]
    elements = POSITIONS * c * layer.strips.stored

    def part_of(channel: Expr, channels: int, column: Expr, columns: int, width: int) -> _Part:
        sums = before + column * (POSITIONS * c) + channel * width
        return _Part(channel, channels, column, columns, width, sums, c)

    def body(x: tirx.Buffer, g: tirx.Buffer, y: tirx.Buffer, scratch: tirx.Buffer) -> None:
        def add(block: Block, goes_on: bool) -> None:
            count = block.count

            def inputs(channel: Expr, channels: int) -> None:
                _transform_patches(layer, block, x, scratch, (channel, channels))

                def strip(column: Expr, columns: int, width: int) -> None:
                    part = part_of(channel, channels, column, columns, width)
                    _store_gradients(layer, block, part, g, scratch, POSITIONS * layer.patches)
                    _products(layer, part, scratch, scratch, (count, goes_on))

                _each_strip(layer, strip)

            _each_channels(layer, inputs)

        for cut in _first_alone(cuts(m, layer.images)):
            with loop(cut.count) as k:
                image = cut.start + k * cut.length
                add(Block(layer.tiles, cut.length, layer.tiles.high, image, 0), cut.start > 0)
        _each_strip(
            layer,
            lambda column, columns, width: _finish(
                layer, part_of(0, c, column, columns, width), scratch, y, 0
            ),
        )

    inputs = [(tuple(data), "float32"), (tuple(gradient), "float32")]
    outputs = [((3, 3, c, gradient[3]), "float32"), ((before + elements,), "float32")]
    return kernel("winograd_weight_gradient_sum", inputs, outputs, body)


def _first_alone(cut: list[Cut]) -> list[Cut]:
    """The same blocks, the first of them in a cut of its own."""
    first = cut[0]
    if first.count == 1:
        return cut
    rest = Cut(first.start + first.length, first.length, first.count - 1)
    return [Cut(first.start, first.length, 1), rest, *cut[1:]]
