"""A small language over TIR for kernels written by hand: flat buffers, vectors, fused multiply-adds.

Every multiply-add is an explicit fused one, and every output element is accumulated in one fixed order. So
its value does not depend on the tile, the vector width or the thread that it falls to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812  (TVM's own name for it)

Expr = Any  # a TIR expression or an integer; TVM has no type stubs

#: Fewer multiply-adds than this are not worth waking other threads for.
PARALLEL_WORK = 65536


@dataclass(frozen=True)
class Machine:
    """What a kernel is fitted to: float32 lanes of a vector, and how many vector registers there are."""

    lanes: int
    registers: int

    def tile_rows(self, vectors: int, most: int) -> int:
        """Rows of an accumulator tile of ``vectors`` columns, at most ``most``, that fits the registers."""
        return max(1, min(most, (self.registers - vectors - 2) // vectors))

    def places(self, vectors: int) -> int:
        """Most scalars of an outer product with ``vectors`` vectors, one register left for the scalar."""
        return max(1, (self.registers - vectors - 1) // vectors)

    def step_cost(self, places: int, vectors: int) -> float:
        """About how long one step of an outer product takes, in multiply-adds of one vector.

        A cycle does two vectors of 8 lanes or one of 16, and two loads but of the latter; an adder takes four
        cycles, during which other sums must go on.
        """
        loads = vectors + places * (1.0 if self.lanes == 8 else 0.5)
        return max(places * vectors, 8.0 if self.lanes == 8 else 5.0, loads) + 0.5


MACHINES = {"x86-64-v3": Machine(8, 16), "x86-64-v4": Machine(16, 32)}


@dataclass(frozen=True)
class Piece:
    """Part of a row: ``lanes`` neighbours from ``offset``."""

    offset: int
    lanes: int


def pieces(length: int, lanes: int) -> list[Piece]:
    """Cut ``length`` neighbours into whole vectors, then into ever shorter ones."""
    cut: list[Piece] = []
    offset, width = 0, lanes
    while offset < length:
        while width > length - offset:
            width //= 2
        cut.append(Piece(offset, width))
        offset += width
    return cut


@dataclass(frozen=True)
class Strip:
    """``count`` equal column blocks from ``start``, ``step`` apart, each cut into ``pieces``."""

    start: int
    step: int
    count: int
    pieces: tuple[Piece, ...]


def strips(length: int, lanes: int, vectors: int) -> list[Strip]:
    """Cut a row into blocks of ``vectors`` whole vectors, and one shorter block for what is left."""
    step = lanes * vectors
    whole, rest = divmod(length, step)
    cut = []
    if whole:
        cut.append(Strip(0, step, whole, tuple(pieces(step, lanes))))
    if rest:
        cut.append(Strip(whole * step, rest, 1, tuple(pieces(rest, lanes))))
    return cut


@dataclass(frozen=True)
class Cut:
    """``count`` blocks of ``length`` from ``start``."""

    start: int
    length: int
    count: int


def cuts(length: int, block: int) -> list[Cut]:
    """Cut a length into whole blocks and one shorter one."""
    whole, rest = divmod(length, block)
    found = [Cut(0, block, whole)] if whole else []
    return [*found, Cut(whole * block, rest, 1)] if rest else found


def balanced(length: int, most: int) -> int:
    """The block length, at most ``most``, that cuts ``length`` into equal blocks as nearly as can be."""
    blocks = -(-length // most)
    return -(-length // blocks)


def kernel(
    name: str,
    inputs: Sequence[tuple[tuple[int, ...], str]],
    outputs: Sequence[tuple[tuple[int, ...], str]],
    body: Callable[..., None],
) -> tirx.PrimFunc:
    """A PrimFunc from ``body``, which gets one flat buffer per input and output, given as (shape, dtype)."""
    with IRBuilder() as builder, T.prim_func(s_tir=False):
        T.func_name(name)
        # An opaque operator (pattern 8) is not fused with anything.
        attributes = {"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8, "myelin.kernel": name}
        T.func_attr(attributes)
        arguments = [
            T.arg(f"a{i}", T.Buffer(shape, dtype, layout=None))
            for i, (shape, dtype) in enumerate([*inputs, *outputs])
        ]
        flat = [
            T.decl_buffer((math.prod(shape),), dtype, data=argument.data, layout=None)
            for argument, (shape, dtype) in zip(arguments, [*inputs, *outputs], strict=True)
        ]
        body(*flat)
    return builder.get().without_attr("global_symbol")


def constant(value: float, lanes: int, dtype: str = "float32") -> Expr:
    """A vector of one value."""
    return spread(tirx.FloatImm(dtype, value), lanes)


def spread(value: Expr, lanes: int) -> Expr:
    """A vector whose lanes are all ``value``."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def vector(lanes: int, dtype: str = "float32") -> str:
    """The dtype of a vector."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def load(buffer: tirx.Buffer, index: Expr, lanes: int = 1) -> Expr:
    """Neighbours from ``index`` of a flat buffer, evaluated once."""
    dtype = str(buffer.dtype)
    return T.Bind(buffer.vload([index], vector(lanes, dtype)))


def store(buffer: tirx.Buffer, index: Expr, value: Expr, lanes: int = 1) -> None:
    """Write neighbours from ``index`` of a flat buffer."""
    T.buffer_store(buffer, value, [index if lanes == 1 else tirx.Ramp(index, 1, lanes)])


def fma(a: Expr, b: Expr, c: Expr, lanes: int, dtype: str = "float32") -> Expr:
    """``a * b + c``, rounded once."""
    bits = {"float32": 32, "float64": 64}[dtype]
    suffix = f"f{bits}" if lanes == 1 else f"v{lanes}f{bits}"
    return tirx.call_llvm_pure_intrin(vector(lanes, dtype), f"llvm.fma.{suffix}", a, b, c)


def fenced(value: Expr, lanes: int) -> Expr:
    """The same vector, of which LLVM does not know where it comes from (:mod:`myelin.graph.selection`)."""
    suffix = "f32" if lanes == 1 else f"v{lanes}f32"
    return tirx.call_llvm_pure_intrin(vector(lanes), f"llvm.arithmetic.fence.{suffix}", value)


class Register:
    """A mutable vector that the compiler keeps in a register."""

    def __init__(self, lanes: int, dtype: str = "float32") -> None:
        self.lanes, self.dtype = lanes, dtype
        # The annotation keeps it on the stack, from where the compiler moves it into a register.
        stay = {"disable_lower_builtin": True}
        self._buffer = T.alloc_buffer((lanes,), dtype, scope="local", layout=None, annotations=stay)

    @property
    def value(self) -> Expr:
        """The present content."""
        return self._buffer.vload([0], vector(self.lanes, self.dtype))

    def set(self, value: Expr) -> None:
        """Replace the content."""
        store(self._buffer, 0, value, self.lanes)

    def add_product(self, a: Expr, b: Expr) -> None:
        """Add ``a * b``, rounded once."""
        self.set(fma(a, b, self.value, self.lanes, self.dtype))

    def lane(self, index: int) -> Expr:
        """One lane."""
        return self._buffer[index]

    def part(self, offset: int, lanes: int) -> Expr:
        """Neighbouring lanes from ``offset``."""
        return self._buffer.vload([offset], vector(lanes, self.dtype))

    def set_part(self, offset: int, value: Expr, lanes: int) -> None:
        """Replace neighbouring lanes from ``offset``."""
        store(self._buffer, offset, value, lanes)


def cleared(lanes: int, dtype: str = "float32") -> Register:
    """A register of zeros."""
    register = Register(lanes, dtype)
    register.set(constant(0.0, lanes, dtype))
    return register


def hold(value: Expr, lanes: int, dtype: str = "float32") -> Expr:
    """A vector, computed once and kept in a register.

    Passes of TVM write a bound expression out wherever it is used, which grows without end in long chains.
    """
    register = Register(lanes, dtype)
    register.set(value)
    return register.value


@contextmanager
def loop(length: int, parallel: bool = False) -> Iterator[Expr]:
    """A loop, or just its body where it runs once."""
    if length == 1:
        yield tirx.IntImm("int32", 0)
        return
    with T.parallel(length) if parallel else T.serial(length) as index:
        yield index


def tile(
    sources: Sequence[Expr],
    strip: Sequence[Piece],
    steps: Callable[[Callable[[Expr, Expr], None]], None],
    broadcast_from: tirx.Buffer,
    rows_from: tirx.Buffer,
) -> list[list[Register]]:
    """Accumulate an outer product in registers: one row per source, one column per piece.

    ``steps`` runs the reduction: it calls what it is given with the offset to add to every source in
    ``broadcast_from``, and the place of the row of vectors in ``rows_from``.
    """
    registers = [[cleared(piece.lanes) for piece in strip] for _ in sources]

    def step(shift: Expr, row: Expr) -> None:
        rows = [load(rows_from, row + piece.offset, piece.lanes) for piece in strip]
        for source, line in zip(sources, registers, strict=True):
            scalar = load(broadcast_from, source + shift)
            for piece, vectors, register in zip(strip, rows, line, strict=True):
                register.add_product(spread(scalar, piece.lanes), vectors)

    steps(step)
    return registers
