"""Rules of the 2-D convolution, NCHW with kernel OIHW: a gradient correlates input and output gradient."""

from __future__ import annotations

import math

from tvm import relax, te, tirx

from myelin.graph import Layer
from myelin.graph.relax_ir import call_family, family, shape_of, tensor

from .clipping import kept_norm
from .cost import Cost
from .strategy import Normed, Site, Strategy, kept_cost, kept_sum

__all__ = ["STRATEGIES", "example_gradient"]


def example_gradient(
    builder: relax.BlockBuilder, layer: Layer, data: relax.Expr, gradient: relax.Expr
) -> relax.Expr:
    """Each example's kernel gradient.

    ``[n, o, c, u, v] = Σ_{y, x} gradient[n, o, y, x] · data[n, group(o) + c, y·stride + u − top, x·stride + v
    − left]``, data outside of its borders being zero.

    Args:
        builder: where to emit.
        layer: gives kernel shape, strides, padding and groups.
        data: float32 ``[batch, in, height, width]``.
        gradient: float32 ``[batch, out, …]``.

    Returns:
        float32 ``[batch, out, in / groups, height, width]``.
    """
    batch, _, height, width = shape_of(data)
    out_channels, in_channels, kernel_height, kernel_width = layer.shape
    a = te.placeholder(shape_of(data), "float32", name="data")
    b = te.placeholder(shape_of(gradient), "float32", name="gradient")
    rows = te.reduce_axis((0, shape_of(gradient)[2]), name="row")
    columns = te.reduce_axis((0, shape_of(gradient)[3]), name="column")
    (stride_y, stride_x), (top, left, bottom, right) = layer.strides, layer.padding
    group_size = out_channels // layer.groups
    zero = tirx.const(0.0, "float32")

    def value(n: tirx.Var, o: tirx.Var, c: tirx.Var, u: tirx.Var, v: tirx.Var) -> tirx.PrimExpr:
        y, x = rows * stride_y + u - top, columns * stride_x + v - left
        channel = c if layer.groups == 1 else tirx.floordiv(o, group_size) * in_channels + c
        read = a[n, channel, y, x]
        if top or left or bottom or right:
            inside = tirx.all(y >= 0, y < height, x >= 0, x < width)
            read = tirx.if_then_else(inside, read, zero)
        return te.sum(b[n, o, rows, columns] * read, axis=[rows, columns])

    shape = (batch, out_channels, in_channels, kernel_height, kernel_width)
    result = te.compute(shape, value, name="example_gradient")
    attributes = {"strides": layer.strides, "padding": layer.padding, "groups": layer.groups}
    function = family("gradient.conv2d", [a, b, result], attributes)
    return call_family(builder, function, [data, gradient], [tensor(shape)], "example_gradient")[0]


def _cost(site: Site) -> Cost:
    assert site.input is not None
    values = math.prod(shape_of(site.input)[1:]) + math.prod(shape_of(site.gradient)[1:])
    return kept_cost(site, 2 * site.positions * math.prod(site.layer.shape), values)


def _norm(builder: relax.BlockBuilder, site: Site) -> Normed:
    assert site.input is not None
    kept = example_gradient(builder, site.layer, site.input, site.gradient)
    return Normed(kept_norm(builder, kept), kept)


def _total(builder: relax.BlockBuilder, _site: Site, normed: Normed, coefficients: relax.Expr) -> relax.Expr:
    return kept_sum(builder, normed.kept, coefficients)


STRATEGIES = (Strategy("keep", lambda _site: True, _cost, _norm, _total),)
"""Keep: the gradients of all examples cost what the batch's would, and their norms cannot cancel."""
