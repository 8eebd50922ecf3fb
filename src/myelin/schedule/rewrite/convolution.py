"""Convolutions and their gradients: kernels over channel-last images, borders and all.

A convolution is emitted when its value is asked for, so that a bias and ReLU after it, or ReLU's gradient
after a data gradient, join its kernel (:class:`Waiting`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tvm import relax, tirx

from ...graph.relax_ir import constant, op_name, shape_of
from ...privacy.clipping import upper_norm
from ...privacy.conv2d_ghost import slack, upper_bound
from .. import kernels
from ..kernels import Finish, GhostSums, Image, Machine
from .rewriter import FamilyRule, Rewriter, Rule, Site, integers

# A first layer of so few channels reads its input as it comes, channel-first.
_FEW = 4


_Shape = tuple[int, ...]


@dataclass(frozen=True)
class Waiting:
    """A kernel that can still take in what follows.

    Attributes:
        kind: ``"forward"`` or ``"gradient"``.
        make: emits it, given how to finish each sum, and what that needs.
        finish: how, so far.
        extra: the bias, or what masks the gradient.
        data: for a pool's gradient, the old variable of its data: the only mask that it takes.
    """

    kind: str
    make: Callable[[Finish, list[relax.Expr]], relax.Expr]
    finish: Finish = Finish()  # noqa: RUF009  (frozen)
    extra: tuple[relax.Expr, ...] = ()
    data: relax.Var | None = None


def wait(site: Site, waiting: Waiting) -> bool:
    """Note what makes a value."""
    r = site.rewriter
    r.waiting[site.var] = waiting
    r.awaited[site.var] = lambda: waiting.make(waiting.finish, list(waiting.extra))
    return True


def _joinable(site: Site, value: relax.Expr, kind: str) -> Waiting | None:
    """What makes a value that nothing else reads and that is not made yet."""
    r = site.rewriter
    if not isinstance(value, relax.Var) or r.uses.get(value) != 1 or value not in r.awaited:
        return None
    waiting = r.waiting.get(value)
    return waiting if isinstance(waiting, Waiting) and waiting.kind == kind else None


def _plain_convolution(site: Site) -> bool:
    attrs = site.call.attrs
    return int(attrs.groups) == 1 and integers(attrs.dilation) == (1, 1) and str(attrs.data_layout) == "NCHW"


def _source(r: Rewriter, data: relax.Var) -> tuple[relax.Expr, Image]:
    """A convolution's input, and how it lies."""
    shape = shape_of(data)
    if not r.is_last(data) and shape[1] <= _FEW:
        return r.get_plain(data), kernels.channel_first(shape)
    value = r.get_last(data)
    return value, kernels.channel_last(shape_of(value))


def _channel_last_shape(value: relax.Expr) -> tuple[int, ...]:
    m, c, h, w = shape_of(value)
    return (m, h, w, c)


def _conv2d(site: Site) -> bool:
    if not _plain_convolution(site):
        return False
    r, attrs, (data, weight) = site.rewriter, site.call.attrs, site.call.args
    o, c, u, v = shape_of(weight)
    strides, padding = integers(attrs.strides), integers(attrs.padding)
    shape, outputs = _channel_last_shape(data), _channel_last_shape(site.var)

    def make(finish: Finish, extra: list[relax.Expr]) -> relax.Expr:
        x, source = _source(r, data)
        if source == kernels.channel_last(shape) and kernels.winograd_pays(shape, outputs, (u, v), strides):
            return _winograd(r, (x, weight), outputs, padding, finish, extra)
        block = kernels.block_width(r.machine, shape, (u, v, c, o), strides, padding)
        k = r.once(("weight", block), kernels.blocked_weight((o, c, u, v), block), [r.get_plain(weight)])
        function = kernels.conv2d(r.machine, shape, (u, v, c, o), strides, padding, source, finish)
        return r.call(function, [x, k, *extra])

    return wait(site, Waiting("forward", make))


def _winograd(
    r: Rewriter,
    values: tuple[relax.Expr, relax.Expr],
    outputs: _Shape,
    padding: _Shape,
    finish: Finish,
    extra: list[relax.Expr],
    backward: bool = False,
) -> relax.Expr:
    """A convolution, or with ``backward`` a data gradient, of an image and a weight."""
    (x, weight), shape = values, shape_of(values[1])
    order = kernels.winograd_weight(r.machine, shape, backward)
    k = r.once(("winograd weight", backward), order, [r.get_plain(weight)])
    return r.call(kernels.winograd_conv2d(r.machine, shape_of(x), outputs, padding, finish), [x, k, *extra])


def _conv2d_transpose(site: Site) -> bool:
    if not _plain_convolution(site):
        return False
    r, attrs, (gradient, weight) = site.rewriter, site.call.attrs, site.call.args
    o, c, u, v = shape_of(weight)
    strides, padding = integers(attrs.strides), integers(attrs.padding)
    shape, data = _channel_last_shape(gradient), _channel_last_shape(site.var)

    def make(finish: Finish, extra: list[relax.Expr]) -> relax.Expr:
        if kernels.winograd_pays(shape, data, (u, v), strides):
            before = (u - 1 - padding[0], v - 1 - padding[1])
            return _winograd(r, (r.get_last(gradient), weight), data, before, finish, extra, backward=True)
        arguments = (r.machine, shape, (u, v, o, c), data, strides, padding)
        block = kernels.gradient_block_width(*arguments)
        function = kernels.blocked_weight((o, c, u, v), block, backward=True)
        k = r.once(("backward weight", block), function, [r.get_plain(weight)])
        return r.call(kernels.conv2d_data_gradient(*arguments, finish), [r.get_last(gradient), k, *extra])

    return wait(site, Waiting("gradient", make))


def _add(site: Site) -> bool:
    """A bias of a convolution's outputs."""
    value, other = site.call.args
    waiting = _joinable(site, value, "forward")
    if waiting is None or waiting.finish != Finish() or not isinstance(other, relax.Var):
        return False
    r, call = site.rewriter, site.rewriter.calls.get(other)
    channels = site.shape[1]
    if call is None or op_name(call) != "reshape" or shape_of(other) != (1, channels, 1, 1):
        return False
    bias = call.args[0]
    if shape_of(bias) != (channels,):
        return False
    return wait(site, replace(waiting, finish=Finish(bias=True), extra=(r.get_plain(bias),)))


def _relu(site: Site) -> bool:
    waiting = _joinable(site, site.call.args[0], "forward")
    if waiting is None:
        return False
    return wait(site, replace(waiting, finish=replace(waiting.finish, relu=True)))


def _is_zero(value: relax.Expr) -> bool:
    number = constant(value)
    return number is not None and number.ndim == 0 and float(number) == 0


def _where(site: Site) -> bool:
    """ReLU's gradient: another gradient, zero where the ReLU's result is not greater than zero."""
    r, (condition, value, other) = site.rewriter, site.call.args
    waiting, call = _joinable(site, value, "gradient"), r.calls.get(condition)
    if waiting is None or waiting.finish != Finish() or not _is_zero(other):
        return False
    if call is None or op_name(call) != "greater" or not _is_zero(call.args[1]):
        return False
    result = call.args[0]
    if shape_of(result) != site.shape or not r.is_last(result):
        return False
    if waiting.data is not None:
        if not waiting.data.same_as(result):
            return False
        return wait(site, replace(waiting, finish=Finish(mask=True)))
    return wait(site, replace(waiting, finish=Finish(mask=True), extra=(r.get_last(result),)))


def _gradient_arguments(
    site: Site, function: tirx.PrimFunc, size: _Shape
) -> tuple[tuple[Machine, _Shape, _Shape, _Shape, _Shape, _Shape, Image], list[relax.Expr]] | None:
    """What a kernel's gradient is made by, and of."""
    r, attrs = site.rewriter, function.attrs
    if int(attrs["myelin.groups"]) != 1:
        return None
    data, gradient = site.call.args[1].fields[:2]
    x, source = _source(r, data)
    g = r.get_last(gradient)
    strides, padding = integers(attrs["myelin.strides"]), integers(attrs["myelin.padding"])
    return (r.machine, _channel_last_shape(data), shape_of(g), size, strides, padding, source), [x, g]


def _conv2d_weight_gradient(site: Site, function: tirx.PrimFunc) -> bool:
    found = _gradient_arguments(site, function, site.shape[3:])
    if found is None:
        return False
    r, (arguments, inputs) = site.rewriter, found
    machine, data, gradient, kernel_size, strides, padding, source = arguments
    whole = source == kernels.channel_last(data)

    def made(bound: kernels.Bound | None) -> tirx.PrimFunc:
        if whole and kernels.winograd_gradient_pays(data, gradient, kernel_size, strides):
            return kernels.winograd_weight_gradient(machine, data, gradient, padding, bound)
        return kernels.conv2d_weight_gradient(*arguments, bound)

    def kept() -> relax.Expr:
        return r.call(made(None), inputs)

    def normed() -> relax.Expr:
        """The norms, made with the gradients, which take the place of those made without."""
        _, *size = site.shape
        terms = size[0] * size[1] * size[2] * size[3]
        with_norm = made(lambda squares: upper_norm(squares, terms))
        r.last[site.var], norm = r.call_all(with_norm, inputs)[:2]
        r.awaited.pop(site.var, None)
        return norm

    r.awaited[site.var] = kept
    r.norms[site.var] = normed
    return True


def _conv2d_norm(site: Site, function: tirx.PrimFunc) -> bool:
    kernel = integers(function.attrs["myelin.kernel_shape"])
    found = _gradient_arguments(site, function, kernel[2:])
    if found is None:
        return False
    r, ((machine, data, gradient, size, strides, padding, source), inputs) = site.rewriter, found
    places = gradient[1] * gradient[2]

    def bound(sums: GhostSums) -> tirx.PrimExpr:
        return upper_bound(kernel, places, sums.square, sums.size, sums.walk)

    relative = slack(kernel, places)
    made = kernels.conv2d_ghost_norm(machine, data, gradient, size, strides, padding, bound, relative, source)
    r.plain[site.var] = r.call(made, inputs)
    return True


def _conv2d_weighted_gradient(site: Site, function: tirx.PrimFunc) -> bool:
    found = _gradient_arguments(site, function, site.shape[2:])
    if found is None:
        return False
    r, (arguments, inputs) = site.rewriter, found
    coefficients = r.get_plain(site.call.args[1].fields[2])
    total = r.call(kernels.conv2d_weight_gradient_sum(*arguments, weighted=True), [*inputs, coefficients])
    r.plain[site.var] = r.call(kernels.weight_order(r.machine, shape_of(total)), [total])
    return True


def _conv2d_weight_gradient_sum(site: Site, function: tirx.PrimFunc) -> bool:
    found = _gradient_arguments(site, function, site.shape[2:])
    if found is None:
        return False
    r, (arguments, inputs) = site.rewriter, found
    machine, data, gradient, kernel_size, strides, padding, source = arguments
    if source == kernels.channel_last(data) and kernels.winograd_sum_pays(
        data, gradient, kernel_size, strides
    ):
        total = r.call(kernels.winograd_weight_gradient_sum(machine, data, gradient, padding), inputs)
    else:
        total = r.call(kernels.conv2d_weight_gradient_sum(*arguments), inputs)
    r.plain[site.var] = r.call(kernels.weight_order(r.machine, shape_of(total)), [total])
    return True


OPERATORS: Mapping[str, Rule] = {
    "add": _add,
    "nn.conv2d": _conv2d,
    "nn.conv2d_transpose": _conv2d_transpose,
    "nn.relu": _relu,
    "where": _where,
}
"""Rules of Relax operators, by name."""

FAMILIES: Mapping[str, FamilyRule] = {
    "gradient.conv2d": _conv2d_weight_gradient,
    "gradient.conv2d_sum": _conv2d_weight_gradient_sum,
    "gradient.conv2d_weighted": _conv2d_weighted_gradient,
    "norm.conv2d": _conv2d_norm,
}
"""Rules of families, by name."""
