"""Tiles of 2×2 outputs, the patches of 4×4 inputs that they read, and the transform of a patch.

Shared by the kernels of :mod:`~.winograd` and their gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from .emit import Expr, Machine, constant, cuts, hold, load, loop, pieces, store
from .taps import Axis, Shape

#: Places of a patch, and products of a tile.
POSITIONS = 16


@dataclass(frozen=True)
class Band:
    """``count`` tiles from ``start`` along one axis that meet the same sources and outputs.

    ``sources`` lists which of a patch's four places are there, ``outputs`` which of a tile's two.
    """

    start: int
    count: int
    sources: tuple[int, ...]
    outputs: tuple[int, ...]


def bands(size: int, before: int, places: int) -> list[Band]:
    """Cut the tiles of one axis: ``size`` sources, ``before`` of them missing, ``places`` outputs."""
    tiles = -(-places // 2)
    sources, outputs = Axis(tiles, 2, -before, 4, size), Axis(tiles, 2, 0, 2, places)
    found: list[Band] = []
    for tile in range(tiles):
        met = tuple(tap for tap in range(4) if sources.meets(tile, tap))
        made = tuple(place for place in range(2) if outputs.meets(tile, place))
        if found and (found[-1].sources, found[-1].outputs) == (met, made):
            found[-1] = Band(found[-1].start, found[-1].count + 1, met, made)
        else:
            found.append(Band(tile, 1, met, made))
    return found


@dataclass(frozen=True)
class Tiles:
    """How the tiles of images lie: bands of rows and of columns."""

    rows: tuple[Band, ...]
    columns: tuple[Band, ...]

    @property
    def high(self) -> int:
        """Rows of tiles of an image."""
        return sum(band.count for band in self.rows)

    @property
    def wide(self) -> int:
        """Tiles of a row."""
        return sum(band.count for band in self.columns)


@dataclass(frozen=True)
class Block:
    """Rows of tiles of one image, or all of several, from an image and a row."""

    tiles: Tiles
    images: int
    rows: int
    image: Expr = 0
    row: Expr = 0

    @property
    def count(self) -> int:
        """Tiles."""
        return self.images * self.rows * self.tiles.wide


@dataclass(frozen=True)
class Spot:
    """One tile: its image, row and column, its number within the block, and its bands."""

    image: Expr
    row: Expr
    column: Expr
    number: Expr
    high: Band
    wide: Band


@contextmanager
def _only(condition: Expr) -> Iterator[None]:
    with T.If(condition), T.Then():
        yield


def walk(block: Block, then: Callable[[Spot], None]) -> None:
    """Every tile of a block."""
    tiles = block.tiles

    def line(image: Expr, row: Expr, first: Expr, high: Band) -> None:
        for wide in tiles.columns:
            with loop(wide.count) as k:
                column = wide.start + k
                then(Spot(image, row, column, first + column, high, wide))

    with loop(block.images) as e:
        image, start = block.image + e, e * (block.rows * tiles.wide)
        if block.rows == tiles.high:
            for high in tiles.rows:
                with loop(high.count) as k:
                    row = high.start + k
                    line(image, row, start + row * tiles.wide, high)
            return
        with loop(block.rows) as k:
            row = block.row + k
            for high in tiles.rows:
                with _only(tirx.all(row >= high.start, row < high.start + high.count)):
                    line(image, row, start + k * tiles.wide, high)


def plus(a: Expr | None, b: Expr | None) -> Expr | None:
    """A sum; None is zero."""
    return b if a is None else a if b is None else a + b


def minus(a: Expr | None, b: Expr | None, lanes: int) -> Expr | None:
    """A difference; None is zero."""
    return a if b is None else (constant(0.0, lanes) if a is None else a) - b


def _held(value: Expr | None, lanes: int) -> Expr | None:
    return None if value is None else hold(value, lanes)


def patch_transform(patch: Sequence[Sequence[Expr | None]], lanes: int) -> list[Expr]:
    """``Bᵀ d B``, row after row."""

    def across(d: Sequence[Expr | None]) -> list[Expr | None]:
        return [
            minus(d[0], d[2], lanes),
            plus(d[1], d[2]),
            minus(d[2], d[1], lanes),
            minus(d[1], d[3], lanes),
        ]

    columns = [[_held(v, lanes) for v in across([row[j] for row in patch])] for j in range(4)]
    zero = constant(0.0, lanes)
    done = [v for i in range(4) for v in across([column[i] for column in columns])]
    return [zero if value is None else value for value in done]


def store_patches(
    machine: Machine,
    block: Block,
    source: tuple[tirx.Buffer, Shape, Shape],
    channels: tuple[Expr, int],
    target: tuple[tirx.Buffer, Expr, int, int],
) -> None:
    """Transform the patches of a block.

    Args:
        machine: what to fit.
        block: whose patches.
        source: the data, its shape, and how far (top, left) the first patch begins before it.
        channels: first, and how many.
        target: buffer, place of the first element, distance of two positions and of two tiles.
    """
    (x, (_, h, w, c), (top, left)), (to, start, apart, row) = source, target

    def transform(spot: Spot) -> None:
        corner = ((spot.image * h + (spot.row * 2 - top)) * w + (spot.column * 2 - left)) * c + channels[0]
        for cut in cuts(channels[1], machine.lanes):
            with loop(cut.count) as k:
                for piece in pieces(cut.length, machine.lanes):
                    channel = cut.start + k * cut.length + piece.offset
                    patch = [
                        [
                            load(x, corner + (i * w + j) * c + channel, piece.lanes)
                            if i in spot.high.sources and j in spot.wide.sources
                            else None
                            for j in range(4)
                        ]
                        for i in range(4)
                    ]
                    at = start + spot.number * row + channel
                    for position, value in enumerate(patch_transform(patch, piece.lanes)):
                        store(to, at + position * apart, value, piece.lanes)

    walk(block, transform)


def tile_height(machine: Machine, count: int, vectors: int) -> int:
    """Rows of a register tile: those that take the fewest cycles for so many rows."""

    def cost(height: int) -> float:
        return sum(cut.count * machine.step_cost(cut.length, vectors) for cut in cuts(count, height))

    most = min(count, machine.tile_rows(vectors, machine.registers))
    return min(range(1, most + 1), key=lambda height: (cost(height), -height))
