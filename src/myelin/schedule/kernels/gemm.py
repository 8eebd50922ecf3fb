"""Matrix products, one or a batch, of factors with any strides; float32.

Each element of the result is one chain of fused multiply-adds in ascending k, so that neither blocks, tiles,
vector width nor threads change it. The right factor is read in vectors of columns, the left one in scalars.

A block of the right factor that fits the second-level cache is packed (:mod:`~.panels`), unless it came
packed; rows of the left factor are copied where their own strides would make them drive each other out of the
first-level cache. The copies lie in a scratch tensor, the kernel's second output. Rows of each result of a
batch may be finished in place (:class:`~.blocking.RowFinish`) while they are in a cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from tvm import tirx

from .blocking import COPIED_BLOCKS, Blocking, Product, RowFinish
from .emit import (
    PARALLEL_WORK,
    Expr,
    Machine,
    Register,
    cleared,
    constant,
    cuts,
    kernel,
    load,
    loop,
    pieces,
    spread,
    store,
)
from .panels import Select, Strips, pack_panels, panel_elements
from .rows import softmax_gradient_row, softmax_row


@dataclass(frozen=True)
class Operands:
    """The buffers of a product; those that it has no use for are None."""

    left: tirx.Buffer
    right: tirx.Buffer
    target: tirx.Buffer
    scratch: tirx.Buffer | None = None
    coefficients: tirx.Buffer | None = None
    factor: tirx.Buffer | None = None
    bias: tirx.Buffer | None = None
    residual: tirx.Buffer | None = None
    rows: tirx.Buffer | None = None


@dataclass(frozen=True)
class _Left:
    """Where a tile reads scalars: at ``start + step · step_stride + row · row_stride``.

    Blocks of rows are ``block_stride`` apart.
    """

    buffer: tirx.Buffer
    start: Expr
    step_stride: int
    row_stride: int
    block_stride: int

    def block(self, number: Expr) -> _Left:
        """The source of one block of the group."""
        return replace(self, start=self.start + number * self.block_stride)


@dataclass(frozen=True)
class _Right:
    """Where a tile reads vectors: in panels of ``depth`` rows, or (0) in rows ``row_stride`` apart.

    ``first`` is the first step of k within the panels.
    """

    buffer: tirx.Buffer
    start: Expr
    depth: int
    row_stride: int
    first: Expr = 0

    def strip(self, column: Expr, width: int) -> tuple[Expr, int]:
        """Where the strip of ``width`` from ``column`` begins, and how far apart its rows are."""
        if self.depth:
            return self.start + column * self.depth + self.first * width, width
        return self.start + column, self.row_stride


@dataclass(frozen=True)
class _Block:
    """Steps of k from ``first``; strips from ``strip``: ``whole`` ones and one of ``rest`` columns."""

    first: Expr
    depth: int
    is_last: bool
    strip: Expr = 0
    whole: int = 0
    rest: int = 0


def gemm(machine: Machine, product: Product) -> tirx.PrimFunc:
    """A kernel for a product.

    Inputs: the left factor, the right one, then coefficients ``[k / weighted]``, factor (laid out as the
    target), bias ``[n]``, residual and the rows that a row's finish reads (as the target too), each if the
    product has it. Outputs: the target, and a scratch vector if :attr:`Blocking.scratch` is not zero.
    """
    blocking = Blocking(product, machine)
    epilogue = product.epilogue
    right = product.right.shape if product.right else (panel_elements(machine, product.k, product.n),)
    inputs = [product.left.shape, right]
    if product.weighted:
        inputs.append((product.k // product.weighted,))
    if epilogue.factor:
        inputs.append(product.target.shape)
    if epilogue.bias:
        inputs.append((product.n,))
    if epilogue.residual:
        inputs.append(product.target.shape)
    if product.finish is RowFinish.SOFTMAX_GRADIENT:
        inputs.append(product.target.shape)
    outputs = [product.target.shape]
    if blocking.scratch:
        outputs.append((blocking.scratch,))

    def body(*given: tirx.Buffer) -> None:
        rest = iter(given)
        left, right = next(rest), next(rest)
        coefficients = next(rest) if product.weighted else None
        more = [
            next(rest) if given else None
            for given in (
                *(epilogue.factor, epilogue.bias, epilogue.residual),
                product.finish is RowFinish.SOFTMAX_GRADIENT,
            )
        ]
        operands = Operands(left, right, next(rest), next(rest, None), coefficients, *more)
        with _batch(product, blocking) as (left_start, right_start, target_start):
            _Emitter(blocking, operands, left_start, right_start, target_start).matrix()
            _finish(machine, product, operands, target_start)

    return kernel("gemm", [(s, "float32") for s in inputs], [(s, "float32") for s in outputs], body)


def emit_product(
    machine: Machine, product: Product, operands: Operands, left_start: Expr, target_start: Expr
) -> None:
    """Emit one product inside a kernel, its factors' first elements given; the right factor is packed."""
    _Emitter(Blocking(product, machine), operands, left_start, 0, target_start).matrix()


def _finish(machine: Machine, product: Product, operands: Operands, start: Expr) -> None:
    """What is done to the rows of one product of the batch, which still are in a cache."""
    if product.finish is RowFinish.NONE:
        return
    target, n = operands.target, product.n
    with loop(product.m) as row:
        at = start + row * n
        if product.finish is RowFinish.SOFTMAX:
            softmax_row(machine, (target, target), at, n)
        else:
            softmax_gradient_row(machine, (target, operands.rows, target), at, n, product.finish_scale)


@contextmanager
def _batch(product: Product, blocking: Blocking) -> Iterator[list[Expr]]:
    """Loops over the batch; gives the first elements of both factors and of the target."""
    factors = (product.left, product.right, product.target)
    starts: list[Expr] = [0 if factor is None else factor.start for factor in factors]
    work = product.m * product.n * product.k * math.prod(product.batch)
    with ExitStack() as opened:
        for axis, size in enumerate(product.batch):
            split = axis == 0 and not blocking.scratch and work >= PARALLEL_WORK
            place = opened.enter_context(loop(size, parallel=split))
            for i, factor in enumerate(factors):
                if factor is not None and factor.batch[axis]:
                    starts[i] = starts[i] + place * factor.batch[axis]
        yield starts


@dataclass(frozen=True)
class _Emitter:
    """Emits one product of the batch, from outer blocks to the tile."""

    blocking: Blocking
    operands: Operands
    left_start: Expr
    right_start: Expr
    target_start: Expr

    @property
    def product(self) -> Product:
        return self.blocking.product

    @property
    def strips(self) -> Strips:
        return self.blocking.strips

    @property
    def lanes(self) -> int:
        return self.blocking.machine.lanes

    def matrix(self) -> None:
        """Blocks of k: the first one starts the sums, the last one finishes them."""
        blocks = [(cut.start, cut.length, cut.count) for cut in cuts(self.product.k, self.blocking.depth)]
        start, length, count = blocks[-1]
        if count > 1 and not self.product.epilogue.is_empty:
            blocks[-1:] = [(start, length, count - 1), (start + (count - 1) * length, length, 1)]
        for number, (start, length, count) in enumerate(blocks):
            with loop(count) as index:
                self.columns(start + index * length, length, number == len(blocks) - 1)

    def columns(self, first: Expr, depth: int, is_last: bool) -> None:
        """Blocks of columns."""
        most, strips = self.blocking.block_strips, self.strips
        found = [(cut.start, cut.length, 0, cut.count) for cut in cuts(strips.whole, most)]
        if strips.rest:
            shorter = found.pop() if found and found[-1][3] == 1 and found[-1][1] < most else None
            start, whole = (shorter[0], shorter[1]) if shorter else (strips.whole, 0)
            found.append((start, whole, strips.rest, 1))
        for start, whole, rest, count in found:
            with loop(count) as index:
                self.rows(_Block(first, depth, is_last, start + index * whole, whole, rest))

    def rows(self, block: _Block) -> None:
        """Blocks of rows of the left factor against a block of columns of the right one."""
        right = self.right(block)
        work = self.product.m * self.product.n * self.product.k
        split = not self.blocking.scratch and work >= PARALLEL_WORK and math.prod(self.product.batch) == 1
        for cut in self.blocking.row_cuts:
            for group in cuts(cut.count, self.blocking.group):
                with loop(group.count, parallel=split) as index:
                    row = cut.start + (group.start + index * group.length) * cut.length
                    left = self.left(block, row, cut.length, group.length)
                    self.strips_of(block, left, right, (row, cut.length, group.length))

    def strips_of(self, block: _Block, left: _Left, right: _Right, rows: tuple[Expr, int, int]) -> None:
        """The strips of a block against a group of blocks of rows: its first row, their height and number.

        A strip or a block of rows stays in the first-level cache while the others go by.
        """
        width, group = self.strips.width, rows[2]
        parts = [
            part for part in ((0, block.whole, width), (block.whole, 1, block.rest)) if part[1] * part[2]
        ]

        def strip_of(first: Expr, columns: int, number: Expr) -> None:
            stored = width if columns == width else self.strips.rest_width
            place = (rows[0] + number * rows[1], (block.strip + first) * width)
            vectors = (right.buffer, *right.strip(first * width, stored))
            self.tile(block, left.block(number), vectors, place, (rows[1], columns))

        if self.blocking.strip_stays:
            for first, count, columns in parts:
                with loop(count) as strip, loop(group) as number:
                    strip_of(first + strip, columns, number)
            return
        with loop(group) as number:
            for first, count, columns in parts:
                with loop(count) as strip:
                    strip_of(first + strip, columns, number)

    def right(self, block: _Block) -> _Right:
        """A block of the right factor, from its first strip."""
        width, right = self.strips.width, self.product.right
        column = block.strip * width
        if right is None:
            return _Right(self.operands.right, column * self.product.k, self.product.k, 0, block.first)
        start = self.right_start + block.first * right.row_stride + column * right.column_stride
        if not self.blocking.packs_right:
            return _Right(self.operands.right, start, 0, right.row_stride)
        source = (self.operands.right, start, right.row_stride, right.column_stride)
        size = (block.depth, block.whole * width + block.rest)
        select = self.select(block.first, scale=False)
        pack_panels(self.blocking.machine, source, size, (self.operands.scratch, 0), select)
        return _Right(self.operands.scratch, 0, block.depth, 0)

    def select(self, first: Expr, scale: bool) -> Select | None:
        """What a weighted product takes of a step's row: it times its coefficient, or zeros."""
        if not self.product.weighted:
            return None

        def selected(step: Expr, value: Expr, lanes: int) -> Expr:
            factor = load(self.operands.coefficients, (first + step) // self.product.weighted)
            kept = value * spread(factor, lanes) if scale else value
            counts = spread(factor > tirx.FloatImm("float32", 0.0), lanes)
            return tirx.Select(counts, kept, constant(0.0, lanes))

        return selected

    def left(self, block: _Block, row: Expr, height: int, group: int) -> _Left:
        """A group of blocks of rows of the left factor."""
        left = self.product.left
        start = self.left_start + row * left.row_stride + block.first * left.column_stride
        if not self.blocking.packs_left:
            apart = height * left.row_stride
            return _Left(self.operands.left, start, left.column_stride, left.row_stride, apart)
        to, distance = self.blocking.right_elements, self.blocking.left_row
        if not self.blocking.is_turned:
            with loop(height) as r:
                self.copy(start + r * left.row_stride, to + r * distance, block.depth)
            return _Left(self.operands.scratch, to, 1, distance, 0)
        select, apart = self.select(block.first, scale=True), self.blocking.left_block(block.depth)
        for cut in cuts(group, COPIED_BLOCKS):
            with loop(cut.count) as number, loop(block.depth) as i:
                first = cut.start + number * cut.length
                at = start + i * left.column_stride + first * height
                self.turn((at, to + first * apart + i * distance), (height, cut.length, apart), i, select)
        return _Left(self.operands.scratch, to, distance, 1, apart)

    def turn(
        self, places: tuple[Expr, Expr], size: tuple[int, int, int], step: Expr, select: Select | None
    ) -> None:
        """Copy a step of a few blocks of rows, neighbours in memory, each to its own block of the scratch.

        A copied column is padded, so that it is whole vectors wherever as many neighbours are there.
        """
        height, count, apart = size
        for number in range(count):
            wide = self.blocking.left_row
            length = wide if (count - number) * height >= wide else height
            for piece in pieces(length, self.lanes):
                at = places[0] + number * height + piece.offset
                value = load(self.operands.left, at, piece.lanes)
                if select is not None:
                    value = select(step, value, piece.lanes)
                store(self.operands.scratch, places[1] + number * apart + piece.offset, value, piece.lanes)

    def copy(self, start: Expr, to: Expr, length: int) -> None:
        """Copy a row of the left factor to the scratch."""
        for cut in cuts(length, self.lanes):
            with loop(cut.count) as i:
                for piece in pieces(cut.length, self.lanes):
                    at = cut.start + i * cut.length + piece.offset
                    value = load(self.operands.left, start + at, piece.lanes)
                    store(self.operands.scratch, to + at, value, piece.lanes)

    def tile(
        self,
        block: _Block,
        left: _Left,
        vectors: tuple[tirx.Buffer, Expr, int],
        place: tuple[Expr, Expr],
        size: tuple[int, int],
    ) -> None:
        """A tile of sums: in registers over the whole block of k."""
        (height, columns), (buffer, start, step) = size, vectors
        offsets = range(0, columns, self.lanes)
        registers = [[cleared(self.lanes) for _ in offsets] for _ in range(height)]
        if self.product.k > self.blocking.depth:
            self.resume(registers, block, place, columns)
        with loop(block.depth) as i:
            row = [load(buffer, start + i * step + offset, self.lanes) for offset in offsets]
            for r, line in enumerate(registers):
                at = left.start + i * left.step_stride + r * left.row_stride
                scalar = spread(load(left.buffer, at), self.lanes)
                for vector, register in zip(row, line, strict=True):
                    register.add_product(scalar, vector)
        for r, line in enumerate(registers):
            for offset, register in zip(offsets, line, strict=True):
                for piece in pieces(min(self.lanes, columns - offset), self.lanes):
                    value = register.part(piece.offset, piece.lanes)
                    self.put(block, value, (place[0] + r, place[1] + offset + piece.offset), piece.lanes)

    def target(self, place: tuple[Expr, Expr]) -> Expr:
        """Where an element of the result is."""
        return self.target_start + place[0] * self.product.target.row_stride + place[1]

    def resume(
        self, registers: list[list[Register]], block: _Block, place: tuple[Expr, Expr], columns: int
    ) -> None:
        """Go on with the sums of the blocks of k before; the first block has none and starts at zero."""
        begun = tirx.const(True) if isinstance(block.first, int) and block.first else block.first > 0
        for r, line in enumerate(registers):
            for number, register in enumerate(line):
                for piece in pieces(min(self.lanes, columns - number * self.lanes), self.lanes):
                    at = self.target((place[0] + r, place[1] + number * self.lanes + piece.offset))
                    value = load(self.operands.target, at, piece.lanes)
                    kept = tirx.Select(spread(begun, piece.lanes), value, constant(0.0, piece.lanes))
                    register.set_part(piece.offset, kept, piece.lanes)

    def put(self, block: _Block, value: Expr, place: tuple[Expr, Expr], lanes: int) -> None:
        """Store sums, finished if all of k was summed."""
        at, epilogue = self.target(place), self.product.epilogue
        if block.is_last:
            if epilogue.scale is not None:
                value = value * constant(epilogue.scale, lanes)
            if epilogue.factor:
                value = value * load(self.operands.factor, at, lanes)
            if epilogue.bias:
                value = value + load(self.operands.bias, place[1], lanes)
            if epilogue.residual:
                value = value + load(self.operands.residual, at, lanes)
        store(self.operands.target, at, value, lanes)
