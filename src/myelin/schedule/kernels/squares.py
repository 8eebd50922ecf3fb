"""Sums of squares, in float64 or from short float32 chains, in an order that no target changes."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx

from .emit import PARALLEL_WORK, Expr, Register, cleared, kernel, load, loop, pieces, store
from .taps import Shape

#: From a float64 sum of squares to the float32 that stands for its root.
Bound = Callable[[Expr], Expr]
#: The same of an outer product, from the sums of squares of both factors.
OuterBound = Callable[[Expr, Expr], Expr]

#: Most squares that one float32 chain adds.
CHAIN = 32
# Neighbours in a vector, and vectors side by side: both the same for every target.
_LANES, _CHAINS = 8, 8
_LINE = _LANES * _CHAINS
# Vectors side by side where all is float64, which takes twice the registers.
_WIDE_CHAINS = 4


def square_sum(buffer: tirx.Buffer, start: Expr, length: int) -> Expr:
    """Sum of squares of ``length`` neighbours from ``start``, float64.

    Neighbours are taken in blocks of :data:`CHAIN` lines of 64; each of the 64 columns of a block is a
    float32 chain of fused multiply-adds; chains are added in float64. What is left of the last line is added
    to the first chains. For ``t`` terms the relative error is below CHAIN · 2⁻²⁴ + t · 2⁻⁵³.
    """
    totals = [cleared(_LANES, "float64") for _ in range(2)]
    lines, rest = divmod(length, _LINE)
    blocks, left = divmod(lines, CHAIN)
    if blocks:
        with loop(blocks) as block:
            _block(buffer, start + block * (CHAIN * _LINE), CHAIN, 0, totals)
    if left or rest:
        _block(buffer, start + blocks * (CHAIN * _LINE), left, rest, totals)
    return _all([totals[0].lane(i) + totals[1].lane(i) for i in range(_LANES)])


def _all(parts: list[Expr]) -> Expr:
    """Their sum, neighbours first."""
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[0::2], parts[1::2], strict=True)]
    return parts[0]


def wide_square_sum(buffer: tirx.Buffer, start: Expr, length: int) -> Expr:
    """Sum of squares of ``length`` neighbours from ``start``, each exact in float64, added there."""
    totals = [cleared(_LANES, "float64") for _ in range(_WIDE_CHAINS)]
    step = _LANES * _WIDE_CHAINS

    def add(total: Register, at: Expr) -> None:
        value = load(buffer, at, _LANES).astype(f"float64x{_LANES}")
        total.add_product(value, value)

    if length >= step:
        with loop(length // step) as line:
            for number, total in enumerate(totals):
                add(total, start + line * step + number * _LANES)
    for number, piece in enumerate(pieces(length % step, _LANES)):
        at = start + length // step * step + piece.offset
        if piece.lanes == _LANES:
            add(totals[number], at)
            continue
        for i in range(piece.lanes):
            wide = load(buffer, at + i).astype("float64")
            part = totals[-1].lane(i)
            totals[-1].set_part(i, part + wide * wide, 1)
    return _all([_all([total.lane(i) for total in totals]) for i in range(_LANES)])


def _block(buffer: tirx.Buffer, start: Expr, lines: int, rest: int, totals: list[Register]) -> None:
    chains = [cleared(_LANES) for _ in range(_CHAINS if lines else -(-rest // _LANES))]
    if lines:
        with loop(lines) as line:
            for number, chain in enumerate(chains):
                value = load(buffer, start + line * _LINE + number * _LANES, _LANES)
                chain.add_product(value, value)
    ones = []
    for number, piece in enumerate(pieces(rest, _LANES)):
        at = start + lines * _LINE + piece.offset
        if piece.lanes == _LANES:
            value = load(buffer, at, _LANES)
            chains[number].add_product(value, value)
        else:
            ones += [load(buffer, at + i) for i in range(piece.lanes)]
    for number, chain in enumerate(chains):
        total = totals[number % 2]
        total.set(total.value + chain.value.astype(f"float64x{_LANES}"))
    if ones:
        tail = cleared(_LANES, "float64")
        for lane, value in enumerate(ones):
            wide = value.astype("float64")
            tail.set_part(lane, wide * wide, 1)
        totals[0].set(totals[0].value + tail.value)


def kept_norm(kept: Shape, bound: Bound) -> tirx.PrimFunc:
    """Kept gradients ``[m, …]`` to what ``bound`` makes of each example's sum of squares, ``[m]``."""
    m, length = kept[0], math.prod(kept[1:])

    def body(g: tirx.Buffer, norm: tirx.Buffer) -> None:
        with loop(m, parallel=m * length >= PARALLEL_WORK) as n:
            store(norm, n, bound(square_sum(g, n * length, length)))

    return kernel("kept_norm", [(tuple(kept), "float32")], [((m,), "float32")], body)


def outer_norm(left: Shape, right: Shape, bound: OuterBound) -> tirx.PrimFunc:
    """Factors ``[m, …]`` of outer products to what ``bound`` makes of each example's squares, ``[m]``."""
    m, sizes = left[0], [math.prod(shape[1:]) for shape in (left, right)]

    def body(a: tirx.Buffer, b: tirx.Buffer, norm: tirx.Buffer) -> None:
        with loop(m, parallel=m * sum(sizes) >= PARALLEL_WORK) as n:
            squares = [
                wide_square_sum(buffer, n * size, size) for buffer, size in zip((a, b), sizes, strict=True)
            ]
            store(norm, n, bound(*squares))

    return kernel(
        "outer_norm", [(tuple(left), "float32"), (tuple(right), "float32")], [((m,), "float32")], body
    )
