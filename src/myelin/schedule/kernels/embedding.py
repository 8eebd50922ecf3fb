"""Embeddings: rows of a table by token, and sums of gradients by token.

A token is a float32 from an owner's data. It is truncated and clamped to the table, NaN is the first row, so
no value reads or writes outside (:func:`myelin.graph.sequences.row_of`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from .emit import (
    PARALLEL_WORK,
    Expr,
    Machine,
    Register,
    constant,
    cuts,
    kernel,
    load,
    loop,
    pieces,
    spread,
    store,
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


def embedding_gather(machine: Machine, table: _Shape, places: _Shape) -> tirx.PrimFunc:
    """``[V, d]`` and tokens ``[…]`` to their rows ``[…, d]``."""
    vocabulary, width = table
    count = math.prod(places)

    def body(weight: tirx.Buffer, tokens: tirx.Buffer, y: tirx.Buffer) -> None:
        with loop(count, parallel=count * width >= PARALLEL_WORK) as place:
            source = _row(tokens, place, vocabulary) * width

            def copy(k: Expr, lanes: int) -> None:
                store(y, place * width + k, load(weight, source + k, lanes), lanes)

            _along(machine, width, copy)

    inputs = [(table, "float32"), (places, "float32")]
    return kernel("embedding_gather", inputs, [((*places, width), "float32")], body)


def embedding_sum(machine: Machine, table: _Shape, places: _Shape, weighted: bool) -> tirx.PrimFunc:
    """Tokens ``[m, T]`` and rows ``[m, T, d]`` to their sum by token, ``[V, d]``.

    In the order of (example, position). If ``weighted``, a third input ``[m]`` multiplies each example's
    rows, which are left out, by selection, where it is not above 0.
    """
    vocabulary, width = table
    m, steps = places

    def body(tokens: tirx.Buffer, rows: tirx.Buffer, *rest: tirx.Buffer) -> None:
        *coefficients, total = rest
        _along(machine, vocabulary * width, lambda k, lanes: store(total, k, constant(0.0, lanes), lanes))
        with loop(m) as n, loop(steps) as t:
            to = _row(tokens, n * steps + t, vocabulary) * width
            factor = load(coefficients[0], n) if weighted else None

            def add(k: Expr, lanes: int) -> None:
                value = load(rows, (n * steps + t) * width + k, lanes)
                if factor is not None:
                    zero = constant(0.0, lanes)
                    counts = spread(factor > tirx.FloatImm("float32", 0.0), lanes)
                    value = tirx.Select(counts, spread(factor, lanes) * value, zero)
                store(total, to + k, load(total, to + k, lanes) + value, lanes)

            _along(machine, width, add)

    inputs = [(places, "float32"), ((*places, width), "float32")]
    if weighted:
        inputs.append(((m,), "float32"))
    return kernel("embedding_sum", inputs, [(table, "float32")], body)


def embedding_segment(machine: Machine, places: _Shape, width: int, vocabulary: int) -> tirx.PrimFunc:
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
                to = (start + first.value) * width

                def add(k: Expr, lanes: int, to: Expr = to, t: Expr = t) -> None:
                    value = load(gradients, (start + t) * width + k, lanes)
                    store(rows, to + k, load(rows, to + k, lanes) + value, lanes)

                _along(machine, width, add)

    values = ((*places, width), "float32")
    return kernel("embedding_segment", [(places, "float32"), values], [values], body)
