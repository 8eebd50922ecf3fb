"""Matrix products: factors where they lie, weights packed once, and what follows taken into the kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tvm import relax, tirx

from ...graph.relax_ir import constant, op_name, shape_of
from .. import kernels
from ..kernels import Epilogue, Factor, Product, RowFinish
from .layout import View, packed_strides, view_of
from .rewriter import FamilyRule, Rewriter, Rule, Site, integers

#: Most elements of a matrix that is still in a second-level cache after it was made.
NEAR_ELEMENTS = 65536


@dataclass(frozen=True)
class Pending:
    """A product that is emitted when its value is asked for, so that what follows it can still join.

    Attributes:
        product: the kernel's.
        left: the left factor.
        right: the right factor.
        packed: how the right factor lies that a call of its own packs; None if the kernel reads it as it is.
        factor: what the result is multiplied by, a value of the new function.
        bias: added to each row.
        residual: added to the result.
        rows: what the finish of a row reads.
    """

    product: Product
    left: relax.Var
    right: relax.Var
    packed: Factor | None
    factor: relax.Expr | None = None
    bias: relax.Var | None = None
    residual: relax.Var | None = None
    rows: relax.Var | None = None


def _emit(rewriter: Rewriter, pending: Pending) -> relax.Expr:
    """The product's value, as the tensor that the kernel writes."""
    right = rewriter.get_plain(pending.right)
    if pending.packed is not None:
        right = _pack(rewriter, (pending.product.k, pending.product.n), pending.packed, right)
    more = [pending.factor] if pending.factor is not None else []
    more += [rewriter.get_plain(v) for v in (pending.bias, pending.residual, pending.rows) if v is not None]
    function = kernels.gemm(rewriter.machine, pending.product)
    return rewriter.call(function, [rewriter.get_plain(pending.left), right, *more])


def packed(rewriter: Rewriter, value: relax.Var) -> relax.Expr:
    """A matrix ``[k, n]`` as a right factor, packed by a call of its own (early, if it is a weight)."""
    view = view_of(rewriter, value)
    k, n = view.shape
    factor = view.factor(shape_of(view.source), [], 0, 1)
    return _pack(rewriter, (k, n), factor, rewriter.get_plain(view.source))


def _pack(rewriter: Rewriter, size: tuple[int, int], factor: Factor, value: relax.Expr) -> relax.Expr:
    """One packed copy for all that read it."""
    return rewriter.once((size, factor), kernels.pack(rewriter.machine, size, factor), [value])


def _wait(site: Site, pending: Pending) -> bool:
    """Note a product; it takes the place of the one that it was made of."""
    r = site.rewriter
    r.pending[site.var] = pending
    r.later[site.var] = lambda: _emit(r, pending)
    return True


def _folded(view: View, axes: int) -> View | None:
    """The first ``axes`` axes as one."""
    return view.reshaped((math.prod(view.shape[:axes]), *view.shape[axes:]))


def _matmul(site: Site) -> bool:
    r, (left, right) = site.rewriter, site.call.args
    variables = isinstance(left, relax.Var) and isinstance(right, relax.Var)
    if not variables or str(site.var.ty.dtype) != "float32":
        return False
    if _weighted(site, left, right):
        return True
    a, b = view_of(r, left), view_of(r, right)
    if len(a.shape) < 2 or len(b.shape) < 2:
        return False
    if len(b.shape) == 2 and len(a.shape) > 2:
        a = _folded(a, len(a.shape) - 1) or a
    outer = site.shape[:-2] if len(a.shape) > 2 or len(b.shape) > 2 else ()
    m, n = (a.shape[-2], b.shape[-1])
    places = [_batch_axes(view.shape, len(outer)) for view in (a, b)]
    factors = [
        view.factor(shape_of(view.source), place, len(view.shape) - 2, len(view.shape) - 1)
        for view, place in zip((a, b), places, strict=True)
    ]
    k, strides = a.shape[-1], packed_strides((*outer, m, n))
    target = Factor(site.shape, strides[: len(outer)], n, 1)
    packed = factors[1] if not any(factors[1].batch) and right in r.weights else None
    product = Product(outer, m, k, n, factors[0], None if packed else factors[1], target)
    return _wait(site, Pending(product, a.source, b.source, packed))


def _batch_axes(shape: tuple[int, ...], rank: int) -> list[int]:
    """The axis of a factor for each axis of the batch; −1 where it has one matrix for all."""
    missing = rank - (len(shape) - 2)
    return [-1 if axis < missing or shape[axis - missing] == 1 else axis - missing for axis in range(rank)]


def _weighted(site: Site, left: relax.Var, right: relax.Var) -> bool:
    """``where(c > 0, b · c, 0)ᵀ where(c > 0, a, 0)``: the kernel selects and scales by itself."""
    r = site.rewriter
    turned = r.calls.get(left)
    if turned is None or op_name(turned) != "permute_dims" or len(site.shape) != 2:
        return False
    found = [_selected(r, value) for value in (turned.args[0], right)]
    if found[0] is None or found[1] is None or not found[0][1].same_as(found[1][1]):
        return False
    scaled, column = r.calls.get(found[0][0]), r.calls.get(found[0][1])
    if scaled is None or op_name(scaled) != "multiply" or not scaled.args[1].same_as(found[0][1]):
        return False
    if column is None or op_name(column) != "reshape":
        return False
    gradient, data, coefficients = scaled.args[0], found[1][0], column.args[0]
    (m, p), d = shape_of(gradient), shape_of(data)[1]
    if shape_of(coefficients) != (m,) or shape_of(found[0][1]) != (m, 1) or shape_of(data) != (m, d):
        return False
    factors = Factor((m, p), (), 1, p), Factor((m, d), (), d, 1), Factor((p, d), (), d, 1)
    function = kernels.gemm(r.machine, Product((), p, m, d, *factors, weighted=1))
    inputs = [r.get_plain(value) for value in (gradient, data, coefficients)]
    r.plain[site.var] = r.call(function, inputs)
    return True


def _selected(rewriter: Rewriter, value: relax.Expr) -> tuple[relax.Var, relax.Var] | None:
    """``x`` and ``c`` of a value ``where(c > 0, x, 0)``."""
    call = rewriter.calls.get(value)
    if call is None or op_name(call) != "where" or not _is_zero(call.args[2]):
        return None
    condition = rewriter.calls.get(call.args[0])
    if condition is None or op_name(condition) != "greater" or not _is_zero(condition.args[1]):
        return None
    return call.args[1], condition.args[0]


def _is_zero(value: relax.Expr) -> bool:
    number = constant(value)
    return number is not None and number.ndim == 0 and float(number) == 0.0


def _joinable(site: Site, value: relax.Expr) -> Pending | None:
    """A product that nothing else reads and that is not made yet."""
    r = site.rewriter
    if not isinstance(value, relax.Var) or r.uses.get(value) != 1 or value not in r.later:
        return None
    return r.pending.get(value)


def _add(site: Site) -> bool:
    """A bias or a residual of a product."""
    for value, other in (site.call.args, reversed(site.call.args)):
        pending = _joinable(site, value)
        if pending is None or not isinstance(other, relax.Var) or shape_of(value) != site.shape:
            continue
        product, epilogue = pending.product, pending.product.epilogue
        if epilogue.residual or product.finish is not RowFinish.NONE:
            continue
        if shape_of(other) == (product.n,) and not epilogue.bias:
            product = replace(product, epilogue=replace(epilogue, bias=True))
            return _wait(site, replace(pending, product=product, bias=other))
        if shape_of(other) == site.shape:
            product = replace(product, epilogue=replace(epilogue, residual=True))
            return _wait(site, replace(pending, product=product, residual=other))
    return False


def _multiply(site: Site) -> bool:
    value, other = site.call.args
    pending, factor = _joinable(site, value), constant(other)
    if pending is None or factor is None or factor.ndim:
        return False
    if pending.product.finish is RowFinish.SOFTMAX_GRADIENT and pending.product.finish_scale is None:
        return _wait(site, replace(pending, product=replace(pending.product, finish_scale=float(factor))))
    if not pending.product.epilogue.is_empty or pending.product.finish is not RowFinish.NONE:
        return False
    product = replace(pending.product, epilogue=Epilogue(scale=float(factor)))
    return _wait(site, replace(pending, product=product))


def _exchanged(pending: Pending, right: Factor) -> Pending:
    """The transposed result as a product: the same sums in the same order."""
    product = pending.product
    m, n = product.n, product.m
    left, right = right.transposed(), product.left.transposed()
    return replace(
        pending,
        product=replace(product, m=m, n=n, left=left, right=right),
        left=pending.right,
        right=pending.left,
    )


def _finished(site: Site, value: relax.Var, finish: RowFinish, rows: relax.Var | None) -> bool:
    """Let a product's kernel go on with each row of its result, if the rows are whole and still near."""
    pending = _joinable(site, value)
    if pending is None or not pending.product.batch:
        return False
    product = pending.product
    columns = packed_strides(site.shape)[:-2]
    if product.finish is not RowFinish.NONE or product.m * product.n > NEAR_ELEMENTS:
        return False
    if (product.target.shape, product.target.batch, product.target.row_stride) != (
        site.shape,
        columns,
        product.n,
    ):
        return False
    return _wait(site, replace(pending, product=replace(product, finish=finish), rows=rows))


def _softmax(site: Site, _function: tirx.PrimFunc) -> bool:
    (x,) = site.call.args[1].fields
    return _finished(site, x, RowFinish.SOFTMAX, None)


def _softmax_gradient(site: Site, _function: tirx.PrimFunc) -> bool:
    gradient, y = site.call.args[1].fields
    return _finished(site, gradient, RowFinish.SOFTMAX_GRADIENT, y)


def multiply(site: Site, value: relax.Var, factor: relax.Expr) -> bool:
    """Multiply a product by a tensor of the new function before it is stored."""
    pending = _joinable(site, value)
    if pending is None or pending.product.finish is not RowFinish.NONE:
        return False
    if pending.product.epilogue != Epilogue(scale=pending.product.epilogue.scale):
        return False
    if pending.product.target.shape != site.shape:
        return False
    product = replace(pending.product, epilogue=replace(pending.product.epilogue, factor=True))
    return _wait(site, replace(pending, product=product, factor=factor))


def _permute_dims(site: Site) -> bool:
    """Let the kernel write in the other order, if columns stay the last axis."""
    pending, axes = _joinable(site, site.call.args[0]), site.call.attrs.axes
    if pending is None or axes is None:
        return False
    if any(more is not None for more in (pending.factor, pending.bias, pending.residual)):
        return False
    order = tuple(axis % len(axes) for axis in integers(axes))
    batch = len(pending.product.batch)
    if batch + 2 != len(order) or not batch or pending.product.finish is not RowFinish.NONE:
        return False
    if order[-1] == batch and pending.product.right is not None:
        pending = _exchanged(pending, pending.product.right)
        order = tuple({batch: batch + 1, batch + 1: batch}.get(axis, axis) for axis in order)
    if order[-1] != batch + 1:
        return False
    strides = packed_strides(site.shape)
    back = [strides[order.index(axis)] for axis in range(len(order))]
    target = Factor(site.shape, tuple(back[:batch]), back[-2], 1)
    return _wait(site, replace(pending, product=replace(pending.product, target=target)))


OPERATORS: Mapping[str, Rule] = {
    "add": _add,
    "matmul": _matmul,
    "multiply": _multiply,
    "permute_dims": _permute_dims,
}
"""Rules of Relax operators, by name."""


def _example_gradient(site: Site, _function: tirx.PrimFunc) -> bool:
    """``inputs [m, T, d]``, ``gradients [m, T, p]`` to ``[m, p, d]``: a batch of products over positions."""
    r, (inputs, gradients) = site.rewriter, site.call.args[1].fields
    a, b = (view_of(r, value) for value in (inputs, gradients))
    (m, p, d), t = site.shape, a.shape[1]
    left, right = b.factor(shape_of(b.source), [0], 2, 1), a.factor(shape_of(a.source), [0], 1, 2)
    product = Product((m,), p, t, d, left, right, Factor(site.shape, (p * d,), d, 1))
    values = [r.get_plain(view.source) for view in (b, a)]
    r.plain[site.var] = r.call(kernels.gemm(r.machine, product), values)
    return True


def _batch_gradient(site: Site, _function: tirx.PrimFunc) -> bool:
    """The same over all positions of all examples: one product, ``[p, d]``."""
    r, (inputs, gradients) = site.rewriter, site.call.args[1].fields
    views = [_folded(view_of(r, value), 2) for value in (gradients, inputs)]
    b, a = (
        view or View(value, (m * t, n), (n, 1))
        for view, value, (m, t, n) in (
            (views[0], gradients, shape_of(gradients)),
            (views[1], inputs, shape_of(inputs)),
        )
    )
    p, d = site.shape
    left, right = b.factor(shape_of(b.source), [], 1, 0), a.factor(shape_of(a.source), [], 0, 1)
    product = Product((), p, a.shape[0], d, left, right, Factor(site.shape, (), d, 1))
    values = [r.get_plain(view.source) for view in (b, a)]
    r.plain[site.var] = r.call(kernels.gemm(r.machine, product), values)
    return True


FAMILIES: Mapping[str, FamilyRule] = {
    "gradient.linear": _example_gradient,
    "gradient.linear_sum": _batch_gradient,
    "softmax": _softmax,
    "softmax_gradient": _softmax_gradient,
}
"""Rules of families, by name."""
