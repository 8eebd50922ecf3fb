"""Panels: the right factor of a product in the order in which its kernel reads it.

A matrix ``[k, n]`` is cut into strips of a few vectors of columns, and a strip is stored row after row:
``[strip, k, width]``. The last strip is narrower, a whole number of vectors; columns past ``n`` hold zeros.
Reading a strip is then reading memory in order, whatever the strides of the matrix were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from .emit import Expr, Machine, constant, kernel, load, loop, pieces, store

#: Vectors in a strip of columns: with two, a tile reads little from memory for what it computes.
STRIP_VECTORS = 2

Select = Callable[[Expr, Expr, int], Expr]
"""``(row, vector, lanes)`` to what is packed of a row, instead of the row itself."""


@dataclass(frozen=True)
class Factor:
    """How a matrix, or a batch of matrices, lies in a tensor.

    Element ``(row, column)`` of item ``(i, j, …)`` is at ``start + i·batch[0] + j·batch[1] + … +
    row·row_stride + column·column_stride``; a stride of zero in ``batch`` shares one matrix.
    """

    shape: tuple[int, ...]
    batch: tuple[int, ...]
    row_stride: int
    column_stride: int
    start: int = 0

    def transposed(self) -> Factor:
        """The same matrices, rows for columns."""
        return Factor(self.shape, self.batch, self.column_stride, self.row_stride, self.start)


@dataclass(frozen=True)
class Strips:
    """How columns are cut: ``whole`` strips of ``width``, and one of ``rest`` columns padded to lanes."""

    columns: int
    lanes: int

    @property
    def width(self) -> int:
        """Columns of a whole strip."""
        return self.lanes * STRIP_VECTORS

    @property
    def whole(self) -> int:
        """Number of whole strips."""
        return self.columns // self.width

    @property
    def rest(self) -> int:
        """Columns of the narrower strip, or zero."""
        return self.columns % self.width

    @property
    def rest_width(self) -> int:
        """What the narrower strip is padded to."""
        return -(-self.rest // self.lanes) * self.lanes

    @property
    def count(self) -> int:
        """Number of strips."""
        return self.whole + bool(self.rest)

    @property
    def stored(self) -> int:
        """Columns with padding."""
        return self.whole * self.width + self.rest_width


def panel_elements(machine: Machine, k: int, n: int) -> int:
    """Elements of a packed ``[k, n]``."""
    return k * Strips(n, machine.lanes).stored


def pack_panels(
    machine: Machine,
    source: tuple[tirx.Buffer, Expr, int, int],
    size: tuple[int, int],
    target: tuple[tirx.Buffer, Expr],
    select: Select | None = None,
) -> None:
    """Emit the packing of ``[k, n]``.

    Args:
        machine: gives the strips' width.
        source: buffer, place of the first element, row stride and column stride; one of the strides is 1,
            or the elements are copied one by one.
        size: k and n.
        target: buffer and place of the first panel.
        select: changes what is packed of a row; only for a column stride of 1.
    """
    buffer, start, row, column = source
    k, n = size
    cut = Strips(n, machine.lanes)
    parts = []
    if cut.whole:
        parts.append((0, cut.whole, cut.width, cut.width))
    if cut.rest:
        parts.append((cut.whole * cut.width, 1, cut.rest, cut.rest_width))
    for first, count, columns, width in parts:
        with loop(count) as s:
            at = start + (first + s * width) * column
            to = target[1] + (first + s * width) * k
            if column == 1:
                _copy_rows(machine, (buffer, at, row), (k, columns, width), (target[0], to), select)
            else:
                _transpose(machine, (buffer, at, row, column), (k, columns, width), (target[0], to))


def _copy_rows(
    machine: Machine,
    source: tuple[tirx.Buffer, Expr, int],
    size: tuple[int, int, int],
    target: tuple[tirx.Buffer, Expr],
    select: Select | None,
) -> None:
    k, columns, width = size
    with loop(k) as i:
        for piece in pieces(columns, machine.lanes):
            value = load(source[0], source[1] + i * source[2] + piece.offset, piece.lanes)
            if select is not None:
                value = select(i, value, piece.lanes)
            store(target[0], target[1] + i * width + piece.offset, value, piece.lanes)
        _zeros(machine, target, i * width, columns, width)


def _zeros(machine: Machine, target: tuple[tirx.Buffer, Expr], row: Expr, columns: int, width: int) -> None:
    """Fill a row's padding."""
    for piece in pieces(width - columns, machine.lanes):
        place = target[1] + row + columns + piece.offset
        store(target[0], place, constant(0.0, piece.lanes), piece.lanes)


def _transpose(
    machine: Machine,
    source: tuple[tirx.Buffer, Expr, int, int],
    size: tuple[int, int, int],
    target: tuple[tirx.Buffer, Expr],
) -> None:
    """Columns that lie in memory order: square blocks are turned in registers, what is left one by one."""
    buffer, start, row, column = source
    k, columns, width = size
    lanes = machine.lanes
    deep, across = (k // lanes, columns // lanes) if row == 1 else (0, 0)
    if deep:
        with loop(deep) as block:
            for strip in range(across):
                at = start + block * lanes + strip * lanes * column
                rows = [load(buffer, at + c * column, lanes) for c in range(lanes)]
                for r, value in enumerate(transpose(rows)):
                    store(target[0], target[1] + (block * lanes + r) * width + strip * lanes, value, lanes)
    corners = [(0, k, across * lanes, columns), (deep * lanes, k, 0, across * lanes)]
    for top, bottom, left, right in corners:
        if top < bottom and left < right:
            with loop(bottom - top) as i:
                for c in range(left, right):
                    value = load(buffer, start + (top + i) * row + c * column)
                    store(target[0], target[1] + (top + i) * width + c, value)
    if columns < width:
        with loop(k) as i:
            _zeros(machine, target, i * width, columns, width)


def transpose(rows: list[Expr]) -> list[Expr]:
    """A square block of as many vectors as they have lanes, rows for columns: interleaved in log2 rounds."""
    lanes = len(rows)
    low = [i // 2 + (i % 2) * lanes for i in range(lanes)]
    high = [place + lanes // 2 for place in low]
    half = lanes // 2
    for _ in range(lanes.bit_length() - 1):
        turned = []
        for i in range(half):
            for order in (low, high):
                turned.append(T.Bind(tirx.Shuffle([rows[i], rows[i + half]], order)))
        rows = turned
    return rows


def pack(machine: Machine, size: tuple[int, int], factor: Factor) -> tirx.PrimFunc:
    """A kernel that packs one right factor ``[k, n]``, for :func:`~.gemm.gemm`.

    For a weight: the call depends on parameters alone, so that it runs once for many products.
    """
    k, n = size

    def body(x: tirx.Buffer, y: tirx.Buffer) -> None:
        source = (x, factor.start, factor.row_stride, factor.column_stride)
        pack_panels(machine, source, size, (y, 0))

    out = (panel_elements(machine, k, n),)
    return kernel("pack", [(factor.shape, "float32")], [(out, "float32")], body)
