"""Embeddings: rows of a table by token, and sums of gradients by token.

A token is a float32 from an owner's data. It is truncated and clamped to the table, NaN is the first row, so
no value reads or writes outside (:func:`myelin.graph.sequences.row_of`).

Each kernel has a ``hidden`` form whose addresses do not depend on tokens: every row of the table, or every
earlier position, is read or written, and what a token does not name is masked away. Results are the same to
the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from ...graph.selection import ones, selected
from .emit import (
    PARALLEL_WORK,
    Expr,
    Machine,
    Piece,
    Register,
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
    strips,
    vector,
)

_Shape = tuple[int, ...]


def _row(tokens: tirx.Buffer, place: Expr, vocabulary: int) -> Expr:
    """The int32 row that a token names."""
    zero, last = tirx.FloatImm("float32", 0.0), tirx.FloatImm("float32", float(vocabulary - 1))
    token = load(tokens, place)
    below = tirx.Select(token < last, token, last)
    row = Register(1, "int32")
    row.set(tirx.Select(token > zero, below, zero).astype("int32"))
    return row.value


def _along(machine: Machine, width: int, visit: Callable[[Expr, int], None]) -> None:
    """Visit neighbours, vector after vector: ``visit(place, lanes)``."""
    for cut in cuts(width, machine.lanes):
        with loop(cut.count) as i:
            for piece in pieces(cut.length, machine.lanes):
                visit(cut.start + i * cut.length + piece.offset, piece.lanes)


def _mask(a: Expr, b: Expr) -> Expr:
    """All ones where two integers are equal, else zero: an int32."""
    return hold(ones(a.equal(b)), 1, "int32")


def _bits(value: Expr, lanes: int) -> Expr:
    return tirx.reinterpret(vector(lanes, "int32"), value)


def _selected(mask: Expr, a: Expr, b: Expr, lanes: int) -> Expr:
    """``a`` where the mask is ones, ``b`` where it is zero."""
    chosen = tirx.bitwise_and(tirx.bitwise_xor(_bits(a, lanes), _bits(b, lanes)), spread(mask, lanes))
    return hold(tirx.reinterpret(vector(lanes), tirx.bitwise_xor(chosen, _bits(b, lanes))), lanes)


_SCANNED = 4
"""Vectors that a pass over all rows, or all tokens, keeps in registers."""


def _blocks(machine: Machine, width: int, visit: Callable[[Expr, tuple[Piece, ...]], None]) -> None:
    """Visit blocks of a few vectors: ``visit(place, pieces)``."""
    for strip in strips(width, machine.lanes, _SCANNED):
        with loop(strip.count) as i:
            visit(strip.start + i * strip.step, strip.pieces)


def embedding_gather(machine: Machine, table: _Shape, places: _Shape, hidden: bool = False) -> tirx.PrimFunc:
    """``[V, d]`` and tokens ``[…]`` to their rows ``[…, d]``."""
    vocabulary, width = table
    count = math.prod(places)

    def scan(weight: tirx.Buffer, tokens: tirx.Buffer, y: tirx.Buffer) -> None:
        with loop(count, parallel=count * vocabulary * width >= PARALLEL_WORK) as place:
            row = _row(tokens, place, vocabulary)

            def find(k: Expr, parts: tuple[Piece, ...]) -> None:
                found = [Register(part.lanes) for part in parts]
                for part, register in zip(parts, found, strict=True):
                    register.set(constant(0.0, part.lanes))
                with loop(vocabulary) as v:
                    mask = _mask(row, v)
                    for part, register in zip(parts, found, strict=True):
                        value = load(weight, v * width + (k + part.offset), part.lanes)
                        register.set(_selected(mask, value, register.value, part.lanes))
                for part, register in zip(parts, found, strict=True):
                    store(y, place * width + (k + part.offset), register.value, part.lanes)

            _blocks(machine, width, find)

    def body(weight: tirx.Buffer, tokens: tirx.Buffer, y: tirx.Buffer) -> None:
        with loop(count, parallel=count * width >= PARALLEL_WORK) as place:
            source = _row(tokens, place, vocabulary) * width

            def copy(k: Expr, lanes: int) -> None:
                store(y, place * width + k, load(weight, source + k, lanes), lanes)

            _along(machine, width, copy)

    inputs = [(table, "float32"), (places, "float32")]
    return kernel("embedding_gather", inputs, [((*places, width), "float32")], scan if hidden else body)


def embedding_sum(
    machine: Machine, table: _Shape, places: _Shape, weighted: bool, hidden: bool = False
) -> tirx.PrimFunc:
    """Tokens ``[m, T]`` and rows ``[m, T, d]`` to their sum by token, ``[V, d]``.

    In the order of (example, position). If ``weighted``, a third input ``[m]`` multiplies each example's
    rows, which are left out, by selection, where it is not above 0.
    """
    vocabulary, width = table
    m, steps = places

    def of_example(coefficients: list[tirx.Buffer], n: Expr, value: Expr, lanes: int) -> Expr:
        """What an example's value adds."""
        if not coefficients:
            return value
        factor, zero = load(coefficients[0], n), constant(0.0, lanes)
        if lanes == 1:
            return selected(factor > zero, factor * value, zero)
        counts = spread(factor > tirx.FloatImm("float32", 0.0), lanes)
        return tirx.Select(counts, spread(factor, lanes) * value, zero)

    def scan(tokens: tirx.Buffer, rows: tirx.Buffer, *rest: tirx.Buffer) -> None:
        *coefficients, total = rest
        with loop(vocabulary, parallel=m * steps * vocabulary * width >= PARALLEL_WORK) as v:

            def add(k: Expr, parts: tuple[Piece, ...]) -> None:
                sums = [cleared(part.lanes) for part in parts]
                with loop(m) as n, loop(steps) as t:
                    mask = _mask(_row(tokens, n * steps + t, vocabulary), v)
                    for part, register in zip(parts, sums, strict=True):
                        place, lanes = (n * steps + t) * width + (k + part.offset), part.lanes
                        value = of_example(coefficients, n, load(rows, place, lanes), lanes)
                        more = hold(register.value + value, lanes)
                        register.set(_selected(mask, more, register.value, lanes))
                for part, register in zip(parts, sums, strict=True):
                    store(total, v * width + (k + part.offset), register.value, part.lanes)

            _blocks(machine, width, add)

    def body(tokens: tirx.Buffer, rows: tirx.Buffer, *rest: tirx.Buffer) -> None:
        *coefficients, total = rest
        _along(machine, vocabulary * width, lambda k, lanes: store(total, k, constant(0.0, lanes), lanes))
        with loop(m) as n, loop(steps) as t:
            to = _row(tokens, n * steps + t, vocabulary) * width

            def add(k: Expr, lanes: int) -> None:
                value = load(rows, (n * steps + t) * width + k, lanes)
                value = of_example(coefficients, n, value, lanes)
                store(total, to + k, load(total, to + k, lanes) + value, lanes)

            _along(machine, width, add)

    inputs = [(places, "float32"), ((*places, width), "float32")]
    if weighted:
        inputs.append(((m,), "float32"))
    return kernel("embedding_sum", inputs, [(table, "float32")], scan if hidden else body)


def embedding_segment(
    machine: Machine, places: _Shape, width: int, vocabulary: int, hidden: bool = False
) -> tirx.PrimFunc:
    """Tokens ``[m, T]`` and gradients ``[m, T, d]`` to each token's sum at its first position of the example.

    In the order of positions; zero at all other positions.
    """
    m, steps = places

    def body(tokens: tirx.Buffer, gradients: tirx.Buffer, rows: tirx.Buffer) -> None:
        with loop(m, parallel=m * steps * width >= PARALLEL_WORK) as n:
            start = n * steps
            _along(
                machine,
                steps * width,
                lambda k, lanes: store(rows, start * width + k, constant(0.0, lanes), lanes),
            )
            with loop(steps) as t:
                own = _row(tokens, start + t, vocabulary)
                first = Register(1, "int32")
                first.set(t)
                # Every position is looked at, so that time does not depend on tokens.
                with T.serial(t) as back:
                    before = t - 1 - back
                    same = _row(tokens, start + before, vocabulary).equal(own)
                    first.set(tirx.Select(same, before, first.value))
                at_first = first.value

                def add(k: Expr, lanes: int, at_first: Expr = at_first, t: Expr = t) -> None:
                    value = load(gradients, (start + t) * width + k, lanes)
                    to = (start + at_first) * width + k
                    store(rows, to, load(rows, to, lanes) + value, lanes)

                def scan(k: Expr, lanes: int, at_first: Expr = at_first, t: Expr = t) -> None:
                    value = load(gradients, (start + t) * width + k, lanes)
                    with T.serial(t + 1) as place:
                        at = (start + place) * width + k
                        old = load(rows, at, lanes)
                        store(rows, at, _selected(_mask(at_first, place), old + value, old, lanes), lanes)

                _along(machine, width, scan if hidden else add)

    values = ((*places, width), "float32")
    return kernel("embedding_segment", [(places, "float32"), values], [values], body)
