"""Loops around a register tile, for all convolutions: a grid of scalar places against rows of vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from .emit import Expr, Machine, Strip, cuts, loop, store, strips, tile

Step = Callable[[Expr, Expr], None]


@dataclass(frozen=True)
class Tiling:
    """A register tile: ``rows`` × ``columns`` places times ``vectors`` vectors."""

    rows: int
    columns: int
    vectors: int


def choose(machine: Machine, rows: int, columns: int, width: int) -> Tiling:
    """The tile that needs the fewest cycles for one step of the reduction over the whole grid.

    By a simple count: a cycle does one vector multiply-add or two loads; fewer than eight accumulators
    leave the adder waiting.
    """
    whole = -(-width // machine.lanes)
    best: tuple[float, int, int, int] | None = None
    for vectors in (1, 2, 4):
        if vectors > whole:
            continue
        most = machine.tile_rows(vectors, 1 << 30)
        for high in range(1, min(rows, most) + 1):
            for wide in range(1, min(columns, most // high) + 1):
                cost = 0.0
                for y in cuts(rows, high):
                    for x in cuts(columns, wide):
                        places = y.length * x.length
                        each = max(places * vectors, 8.0, 0.5 * (places + vectors))
                        cost += y.count * x.count * (each + 0.5)
                cost *= -(-whole // vectors)
                if best is None or cost < best[0]:
                    best = (cost, high, wide, vectors)
    assert best is not None
    return Tiling(best[1], best[2], best[3])


@dataclass(frozen=True)
class Grid:
    """Rows × columns of places ``(y, x)``: each has a scalar to read and ``width`` results to write.

    A place's scalar begins at ``source + y * source_row + x * source_column``; its results at ``target`` +
    likewise.
    """

    rows: int
    columns: int
    width: int
    source_row: int
    source_column: int
    target_row: int
    target_column: int


def accumulate(
    machine: Machine,
    grid: Grid,
    scalars: tuple[tirx.Buffer, Expr],
    vectors: tirx.Buffer,
    target: tuple[tirx.Buffer, Expr],
    steps: Callable[[Step], None],
) -> None:
    """For every place and column: the sum over ``steps`` of scalar × vector, in the steps' order.

    ``steps`` calls what it is given with an offset for the scalars and the place in ``vectors`` of the
    step's row.
    """
    tiling = choose(machine, grid.rows, grid.columns, grid.width)
    source, source_start = scalars
    for strip in strips(grid.width, machine.lanes, tiling.vectors):
        for high in cuts(grid.rows, tiling.rows):
            for wide in cuts(grid.columns, tiling.columns):
                with loop(strip.count) as s, loop(high.count) as i, loop(wide.count) as j:
                    y, x = high.start + i * high.length, wide.start + j * wide.length
                    base = source_start + y * grid.source_row + x * grid.source_column
                    column = strip.start + s * strip.step
                    out = target[1] + y * grid.target_row + x * grid.target_column + column
                    _block(
                        grid,
                        (high.length, wide.length),
                        strip,
                        (source, base),
                        vectors,
                        (target[0], out),
                        column,
                        steps,
                    )


def _block(
    grid: Grid,
    size: tuple[int, int],
    strip: Strip,
    scalars: tuple[tirx.Buffer, Expr],
    vectors: tirx.Buffer,
    target: tuple[tirx.Buffer, Expr],
    column: Expr,
    steps: Callable[[Step], None],
) -> None:
    places = [(i, j) for i in range(size[0]) for j in range(size[1])]
    sources = [scalars[1] + (i * grid.source_row + j * grid.source_column) for i, j in places]

    def run(step: Step) -> None:
        steps(lambda shift, row: step(shift, row + column))

    registers = tile(sources, strip.pieces, run, scalars[0], vectors)
    for (i, j), line in zip(places, registers, strict=True):
        start = target[1] + (i * grid.target_row + j * grid.target_column)
        for piece, register in zip(strip.pieces, line, strict=True):
            store(target[0], start + piece.offset, register.value, piece.lanes)
