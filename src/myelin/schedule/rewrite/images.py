"""Pooling and group normalisation of channel-last images, and sums over their pixels."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax, tirx
from tvm.relax import op

from ...graph.relax_ir import op_name, shape_of
from .. import kernels
from ..kernels import Finish
from .convolution import Waiting, wait
from .rewriter import FamilyRule, Rule, Site, integers


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

    def make(finish: Finish, _extra: list[relax.Expr]) -> relax.Expr:
        g, x = r.get_last(gradient), r.get_last(data)
        function = kernels.max_pool2d_gradient(r.machine, shape_of(x), shape_of(g), *pools, finish.mask)
        return r.call(function, [g, x])

    return wait(site, Waiting("gradient", make, data=data))


def _is_image(site: Site, *values: relax.Expr) -> bool:
    """Whether values are images of which one is channel-last."""
    r = site.rewriter
    return all(len(shape_of(v)) == 4 for v in values) and any(r.is_last(v) for v in values)


def _group_normalise(site: Site, function: tirx.PrimFunc) -> bool:
    r, (data,) = site.rewriter, site.call.args[1].fields
    if not _is_image(site, data):
        return False
    x, attrs = r.get_last(data), function.attrs
    groups, epsilon = int(attrs["myelin.groups"]), float(attrs["myelin.epsilon"])
    made = r.call_all(kernels.group_normalise(r.machine, shape_of(x), groups, epsilon), [x])
    r.fields[site.var] = (("last", made[0]), ("plain", made[1]))
    return True


def channel_vector(site: Site, value: relax.Expr, channels: int) -> relax.Expr | None:
    """The parameter ``[c]`` that a value ``[1, c, 1, 1]`` is a view of."""
    r = site.rewriter
    call = r.calls.get(value) if isinstance(value, relax.Var) else None
    if call is None or op_name(call) != "reshape" or shape_of(value) != (1, channels, 1, 1):
        return None
    source = call.args[0]
    return r.get_plain(source) if shape_of(source) == (channels,) else None


def _group_normalise_gradient(site: Site, function: tirx.PrimFunc) -> bool:
    """With the scale's product before it, if there is one, and the sums for scale and bias."""
    r, (gradient, normal, rstd) = site.rewriter, site.call.args[1].fields
    if not _is_image(site, gradient, normal):
        return False
    groups, call = int(function.attrs["myelin.groups"]), r.calls.get(gradient)
    scale, source = None, gradient
    if call is not None and op_name(call) == "multiply" and r.uses.get(gradient) == 1:
        scale, source = channel_vector(site, call.args[1], site.shape[1]), call.args[0]
    if scale is None:
        source = gradient
    g, y = r.get_last(source), r.get_last(normal)
    kernel = kernels.group_normalise_gradient(r.machine, shape_of(g), groups, scale is not None)
    inputs = [g, y, r.get_plain(rstd), *([] if scale is None else [scale])]
    r.last[site.var], *sums = r.call_all(kernel, inputs)
    if sums:
        r.sums[(source,)], r.sums[(source, normal)] = sums
    return True


def _products(site: Site, function: tirx.PrimFunc) -> relax.Expr | None:
    """Per example and channel, the sum of products of two images."""
    r, (values, gradients) = site.rewriter, site.call.args[1].fields
    if int(function.attrs["myelin.axis"]) != 1 or not _is_image(site, values, gradients):
        return None
    if (gradients, values) in r.sums:
        return r.sums[(gradients, values)]
    a, b = r.get_last(values), r.get_last(gradients)
    return r.call(kernels.channel_products(r.machine, shape_of(a)), [a, b])


def _gradient_scale(site: Site, function: tirx.PrimFunc) -> bool:
    products = _products(site, function)
    if products is not None:
        site.rewriter.plain[site.var] = products
    return products is not None


def _gradient_scale_sum(site: Site, function: tirx.PrimFunc) -> bool:
    r, products = site.rewriter, _products(site, function)
    if products is not None:
        r.plain[site.var] = r.emit(op.sum(products, axis=[0]))
    return products is not None


def _sum(site: Site) -> bool:
    """Of each channel over its pixels, and over the examples too where that is asked."""
    r, (data,), attrs = site.rewriter, site.call.args, site.call.attrs
    if not _is_image(site, data) or attrs.axis is None or bool(attrs.keepdims):
        return False
    axes = sorted(int(axis) % 4 for axis in attrs.axis)
    if axes not in ([2, 3], [0, 2, 3]):
        return False
    total = r.sums.get((data,))
    if total is None:
        x = r.get_last(data)
        total = r.call(kernels.channel_sums(r.machine, shape_of(x)), [x])
    r.plain[site.var] = r.emit(op.sum(total, axis=[0])) if axes[0] == 0 else total
    return True


OPERATORS: Mapping[str, Rule] = {
    "grad.max_pool2d_backward": _max_pool2d_backward,
    "nn.max_pool2d": _max_pool2d,
    "sum": _sum,
}
"""Rules of Relax operators, by name."""

FAMILIES: Mapping[str, FamilyRule] = {
    "gradient.scale": _gradient_scale,
    "gradient.scale_sum": _gradient_scale_sum,
    "norm.group_normalise": _group_normalise,
    "norm.group_normalise_gradient": _group_normalise_gradient,
}
"""Rules of families, by name."""
