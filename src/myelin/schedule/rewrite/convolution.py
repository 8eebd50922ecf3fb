"""Convolutions, their gradients, and pooling: kernels over channel-last images."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax, tirx

from ...graph.relax_ir import shape_of
from .. import kernels
from .rewriter import FamilyRule, Rule, Site, integers


def _conv2d(site: Site) -> bool:
    r, attrs = site.rewriter, site.call.attrs
    if int(attrs.groups) != 1 or integers(attrs.dilation) != (1, 1) or str(attrs.data_layout) != "NCHW":
        return False
    data, weight = site.call.args
    x = r.pad(r.get_last(data), integers(attrs.padding))
    k = r.reorder(r.get_plain(weight), (2, 3, 1, 0))
    function = kernels.conv2d(r.machine, shape_of(x), shape_of(k), integers(attrs.strides))
    r.last[site.var] = r.call(function, [x, k])
    return True


def _conv2d_transpose(site: Site) -> bool:
    r, attrs = site.rewriter, site.call.attrs
    if int(attrs.groups) != 1 or integers(attrs.dilation) != (1, 1) or str(attrs.data_layout) != "NCHW":
        return False
    gradient, weight = site.call.args
    m, c, h, w = site.shape
    _, _, p, q = shape_of(gradient)
    u, v = shape_of(weight)[2:]
    strides, (top, left, _, _) = integers(attrs.strides), integers(attrs.padding)
    above, below = kernels.gradient_padding(h, u, strides[0], top, p)
    before, after = kernels.gradient_padding(w, v, strides[1], left, q)
    g = r.pad(r.get_last(gradient), (above, before, below, after))
    k = r.reorder(r.get_plain(weight), (2, 3, 0, 1))
    function = kernels.conv2d_data_gradient(
        r.machine, shape_of(g), shape_of(k), (m, h, w, c), strides, (top, left), (above, before)
    )
    r.last[site.var] = r.call(function, [g, k])
    return True


def _conv2d_weight_gradient(site: Site, function: tirx.PrimFunc) -> bool:
    r, attrs = site.rewriter, function.attrs
    if int(attrs["myelin.groups"]) != 1:
        return False
    data, gradient = site.call.args[1].fields
    x = r.pad(r.get_last(data), integers(attrs["myelin.padding"]))
    g = r.get_last(gradient)
    kernel = kernels.conv2d_weight_gradient(
        r.machine, shape_of(x), shape_of(g), site.shape[3:], integers(attrs["myelin.strides"])
    )
    r.last[site.var] = r.call(kernel, [x, g])
    return True


def _pools(
    site: Site, data: relax.Expr, output: relax.Expr
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Window and strides, if every window is wholly inside."""
    attrs = site.call.attrs
    window, strides = integers(attrs.pool_size), integers(attrs.strides)
    inside = all(
        (places - 1) * stride + size <= length
        for length, places, size, stride in zip(
            shape_of(data)[2:], shape_of(output)[2:], window, strides, strict=True
        )
    )
    plain = (
        str(attrs.layout) == "NCHW"
        and not any(integers(attrs.padding))
        and integers(attrs.dilation) == (1, 1)
    )
    return (window, strides) if inside and plain else None


def _max_pool2d(site: Site) -> bool:
    r, (data,) = site.rewriter, site.call.args
    pools = _pools(site, data, site.var)
    if pools is None:
        return False
    x = r.get_last(data)
    m, c, p, q = site.shape
    r.last[site.var] = r.call(kernels.max_pool2d(r.machine, shape_of(x), (m, p, q, c), *pools), [x])
    return True


def _max_pool2d_backward(site: Site) -> bool:
    r, (gradient, data) = site.rewriter, site.call.args
    pools = _pools(site, data, gradient)
    if pools is None:
        return False
    g, x = r.get_last(gradient), r.get_last(data)
    r.last[site.var] = r.call(
        kernels.max_pool2d_gradient(r.machine, shape_of(x), shape_of(g), *pools), [g, x]
    )
    return True


OPERATORS: Mapping[str, Rule] = {
    "grad.max_pool2d_backward": _max_pool2d_backward,
    "nn.conv2d": _conv2d,
    "nn.conv2d_transpose": _conv2d_transpose,
    "nn.max_pool2d": _max_pool2d,
}
"""Rules of Relax operators, by name."""

FAMILIES: Mapping[str, FamilyRule] = {"gradient.conv2d": _conv2d_weight_gradient}
"""Rules of families, by name."""
