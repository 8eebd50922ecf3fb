"""Rules of the 2-D convolution, NCHW with kernel OIHW: a gradient correlates input and output gradient.

Of a transposed convolution, whose kernel is [in, out / groups, height, width], it is the same with the two
exchanged: the convolution that it is the transpose of has its output as input.

*Guarantee.* Gradients are kept as computed in float32, whatever strides, padding, dilation and groups are, so
their norms bound what is added (:mod:`myelin.privacy.clipping`). The norm from Gram matrices is for one group
without dilation (:mod:`myelin.privacy.conv2d_ghost`).
"""

from __future__ import annotations

import dataclasses
import math

from tvm import relax, te, tirx

from myelin.graph import Use
from myelin.graph.relax_ir import call_family, family, shape_of, tensor

from .clipping import kept_norm
from .conv2d_ghost import GHOST
from .strategy import Rule, Site, batch_cost, kept_strategy, rule_at, total_of
from .tiles import KEPT_FINISH, SUM_FINISH, tiled_multiply_adds

__all__ = ["RULE", "TRANSPOSED", "correlation"]


def correlation(
    builder: relax.BlockBuilder,
    shape: tuple[int, ...],
    use: Use,
    data: relax.Expr,
    gradient: relax.Expr,
    per_example: bool = True,
) -> relax.Expr:
    """The kernel's gradient: of each example (``gradient.conv2d``), or their sum (``gradient.conv2d_sum``).

    ``[n, o, c, u, v] = Σ_{y, x} gradient[n, o, y, x] · data[n, group(o) + c, y·stride + u·dilation − top,
    x·stride + v·dilation − left]``, data outside of its borders being zero.

    Args:
        builder: where to emit.
        shape: of the kernel, ``[out, in / groups, height, width]``.
        use: gives strides, padding, dilation and groups.
        data: float32 ``[batch, in, height, width]``.
        gradient: float32 ``[batch, out, …]``.
        per_example: or summed over the examples.

    Returns:
        float32 ``[batch, *shape]``, or ``shape``.
    """
    batch, _, height, width = shape_of(data)
    out_channels, in_channels = shape[:2]
    a = te.placeholder(shape_of(data), "float32", name="data")
    b = te.placeholder(shape_of(gradient), "float32", name="gradient")
    rows = te.reduce_axis((0, shape_of(gradient)[2]), name="row")
    columns = te.reduce_axis((0, shape_of(gradient)[3]), name="column")
    example = te.reduce_axis((0, batch), name="example")
    (stride_y, stride_x), (top, left, bottom, right) = use.strides, use.padding
    down, across = use.dilation
    group_size = out_channels // use.groups
    zero = tirx.const(0.0, "float32")

    def term(n: tirx.Var, o: tirx.Var, c: tirx.Var, u: tirx.Var, v: tirx.Var) -> tirx.PrimExpr:
        y, x = rows * stride_y + u * down - top, columns * stride_x + v * across - left
        channel = c if use.groups == 1 else tirx.floordiv(o, group_size) * in_channels + c
        read = a[n, channel, y, x]
        if top or left or bottom or right:
            inside = tirx.all(y >= 0, y < height, x >= 0, x < width)
            read = tirx.if_then_else(inside, read, zero)
        return b[n, o, rows, columns] * read

    attributes: dict[str, object] = {"strides": use.strides, "padding": use.padding, "groups": use.groups}
    kind = "conv2d"
    if use.dilation != (1, 1):
        kind, attributes = "dilated_conv2d", {**attributes, "dilation": use.dilation}
    if per_example:
        name, full = f"gradient.{kind}", (batch, *shape)
        result = te.compute(full, lambda *i: te.sum(term(*i), axis=[rows, columns]), name="example_gradient")
    else:
        name, full = f"gradient.{kind}_sum", shape
        result = te.compute(
            full, lambda *i: te.sum(term(example, *i), axis=[example, rows, columns]), name="batch_gradient"
        )
    function = family(name, [a, b, result], attributes)
    return call_family(builder, function, [data, gradient], [tensor(full)], str(result.op.name))[0]


def _gradient(builder: relax.BlockBuilder, site: Site, per_example: bool) -> relax.Expr:
    uses = zip(site.layer.uses, site.inputs, site.gradients, strict=True)
    parts = [correlation(builder, site.layer.shape, use, a, b, per_example) for use, a, b in uses]
    return total_of(builder, parts)


def _flops(site: Site, finish: int) -> int:
    """Of one example's gradient, by tiles where they pay."""
    uses = zip(site.layer.uses, site.gradients, strict=True)
    return 2 * sum(_multiply_adds(site, use, gradient, finish) for use, gradient in uses)


def _multiply_adds(site: Site, use: Use, gradient: relax.Expr, finish: int) -> int:
    (outputs, inputs, *taps), (_, _, *places) = site.layer.shape, shape_of(gradient)
    tiled = None
    if use.groups == 1 and use.dilation == (1, 1):
        kernel = (*taps, inputs, outputs)
        tiled = tiled_multiply_adds(kernel, tuple(use.strides), (places[0], places[1]), finish)
    return math.prod(places) * math.prod(site.layer.shape) if tiled is None else tiled


RULE = Rule(
    strategies=(
        GHOST,
        kept_strategy(
            lambda site: _flops(site, KEPT_FINISH),
            lambda builder, site: _gradient(builder, site, True),
            kept_norm,
        ),
    ),
    example_gradient=lambda builder, site: _gradient(builder, site, True),
    batch_gradient=lambda builder, site: _gradient(builder, site, False),
    batch_cost=lambda site: batch_cost(site, _flops(site, SUM_FINISH)),
)
"""Keep: the gradients of all examples cost what the batch's would, and their norms cannot cancel. Ghost:
where they would cost more to move than their norms cost to compute."""


TRANSPOSED = rule_at(dataclasses.replace(RULE, strategies=RULE.strategies[1:]), Site.exchanged)
"""Keep."""
