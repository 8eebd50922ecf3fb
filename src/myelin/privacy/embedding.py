"""Rules of an embedding: a gradient has, in each row of the table, the sum over the positions of that token.

It is kept by position instead of by row: at the first position of each token of an example stands the sum
over all of its positions, everywhere else zero. That is the gradient's own non-zero part, of the size of the
output gradient and not of the table, its norm is the gradient's, and every example adds at most one number to
a coordinate of the sum, however its positions cancel.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import relax, tirx
from tvm.tirx.script import builder as T  # noqa: N812  (TVM's own name for it)

from myelin.graph.relax_ir import call_family, loops, shape_of, tensor
from myelin.graph.sequences import row_of

from .clipping import kept_norm
from .cost import Cost
from .strategy import Normed, Rule, Site, Strategy, batch_cost

__all__ = ["RULE"]

_ZERO = tirx.const(0.0, "float32")


def _joined(builder: relax.BlockBuilder, site: Site) -> tuple[relax.Expr, relax.Expr]:
    """Tokens ``[batch, positions]`` and gradients ``[batch, positions, width]`` of all uses."""
    if len(site.inputs) == 1:
        return site.inputs[0], site.gradients[0]
    tokens = builder.emit(relax.op.concat(list(site.inputs), axis=1), name_hint="tokens")
    return tokens, builder.emit(relax.op.concat(list(site.gradients), axis=1), name_hint="gradients")


def _segment(
    builder: relax.BlockBuilder, vocabulary: int, tokens: relax.Expr, gradients: relax.Expr
) -> relax.Expr:
    """``embedding.segment``: each token's sum, in order of positions, at its first position."""
    batch, positions, width = shape_of(gradients)

    def body(token: Any, gradient: Any, rows: Any) -> None:
        def row(place: Any) -> tirx.PrimExpr:
            return row_of(token[place], vocabulary)

        with T.parallel(batch) as n:
            first = T.alloc_buffer((1,), "int32", scope="local", layout=None)
            with T.serial(positions * width) as k:
                T.buffer_store(rows, _ZERO, [n * (positions * width) + k])
            with T.serial(positions) as t:
                T.buffer_store(first, t, [0])
                with T.serial(t) as back:
                    before = t - 1 - back
                    same = row(n * positions + before) == row(n * positions + t)
                    T.buffer_store(first, tirx.Select(same, before, first[0]), [0])
                with T.serial(width) as k:
                    at = (n * positions + first[0]) * width + k
                    value = rows[at] + gradient[(n * positions + t) * width + k]
                    T.buffer_store(rows, value, [at])

    shapes = [shape_of(tokens), (batch, positions, width)]
    attributes = {"vocabulary": vocabulary}
    function = loops("embedding.segment", shapes, shapes[1:], body, attributes)
    return call_family(builder, function, [tokens, gradients], [tensor(shapes[1])], "rows")[0]


def _scatter(
    builder: relax.BlockBuilder, site: Site, tokens: relax.Expr, rows: relax.Expr, by: relax.Expr | None
) -> relax.Expr:
    """``embedding.sum``, in order of examples and positions; without coefficients ``embedding.scatter``."""
    (vocabulary, width), (batch, positions) = site.layer.shape, shape_of(tokens)

    def body(token: Any, row: Any, *rest: Any) -> None:
        *coefficients, total = rest
        with T.parallel(vocabulary) as v, T.serial(width) as k:
            T.buffer_store(total, _ZERO, [v * width + k])
        with T.serial(batch) as n, T.serial(positions) as t:
            to = T.Bind(row_of(token[n * positions + t], vocabulary) * width)
            with T.serial(width) as k:
                value = row[(n * positions + t) * width + k]
                if coefficients:
                    factor = coefficients[0][n]
                    value = tirx.Select(factor > _ZERO, factor * value, _ZERO)
                T.buffer_store(total, total[to + k] + value, [to + k])

    inputs = [tokens, rows, *([] if by is None else [by])]
    name = "embedding.scatter" if by is None else "embedding.sum"
    function = loops(name, [shape_of(value) for value in inputs], [(vocabulary, width)], body)
    return call_family(builder, function, inputs, [tensor((vocabulary, width))], "table_gradient")[0]


def _tables(builder: relax.BlockBuilder, site: Site) -> relax.Expr:
    """``embedding.tables``: each example's gradient as a table, in order of positions."""
    tokens, gradients = _joined(builder, site)
    (vocabulary, width), (batch, positions) = site.layer.shape, shape_of(tokens)

    def body(token: Any, gradient: Any, table: Any) -> None:
        with T.parallel(batch) as n:
            with T.serial(vocabulary * width) as k:
                T.buffer_store(table, _ZERO, [n * (vocabulary * width) + k])
            with T.serial(positions) as t:
                to = T.Bind((n * vocabulary + row_of(token[n * positions + t], vocabulary)) * width)
                with T.serial(width) as k:
                    value = table[to + k] + gradient[(n * positions + t) * width + k]
                    T.buffer_store(table, value, [to + k])

    inputs, shape = [tokens, gradients], (batch, vocabulary, width)
    function = loops("embedding.tables", [shape_of(value) for value in inputs], [shape], body)
    return call_family(builder, function, inputs, [tensor(shape)], "tables")[0]


def _norm(builder: relax.BlockBuilder, site: Site) -> Normed:
    rows = _segment(builder, site.layer.shape[0], *_joined(builder, site))
    return Normed(kept_norm(builder, rows), rows)


def _total(builder: relax.BlockBuilder, site: Site, normed: Normed, coefficients: relax.Expr) -> relax.Expr:
    assert normed.kept is not None
    return _scatter(builder, site, _joined(builder, site)[0], normed.kept, coefficients)


def _cost(site: Site) -> Cost:
    size = site.positions * site.layer.shape[1]
    searched = site.positions * (site.positions - 1) // 2
    table = math.prod(site.layer.shape) // site.batch
    return Cost(flops=5 * size + searched, bytes=4 * (6 * size + table))


RULE = Rule(
    strategies=(Strategy("keep", lambda _site: True, _cost, _norm, _total),),
    example_gradient=_tables,
    batch_gradient=lambda builder, site: _scatter(builder, site, *_joined(builder, site), None),
    batch_cost=lambda site: batch_cost(site, site.positions * site.layer.shape[1]),
)
"""Keep, by position."""
