"""Gradients of convolutions by their data, where Relax has no rule: dilated ones, and transposed ones.

Relax's own rule for the plain convolution stays.
"""

from __future__ import annotations

from tvm import relax, te, tirx
from tvm.relax.op._op_gradient import conv2d_grad
from tvm.relax.op.base import register_gradient
from tvm.relax.op.grad import no_grad

from myelin.model.operators import call

from .relax_ir import call_family, family, shape_of, tensor

__all__ = ["GRADIENTS", "LOWER"]


def _numbers(values: object) -> list[int]:
    return [int(value) for value in values]  # type: ignore[attr-defined]


def _of_conv2d(
    output: relax.Var, value: relax.Call, gradient: relax.Var, context: relax.BlockBuilder
) -> list[relax.Expr]:
    attrs, (data, weight) = value.attrs, value.args
    if _numbers(attrs.dilation) == [1, 1]:
        rule: list[relax.Expr] = conv2d_grad(output, value, gradient, context)
        return rule
    _, _, height, width = shape_of(data)
    of_data = call(
        "dilated_data_gradient",
        [gradient, weight],
        strides=_numbers(attrs.strides),
        padding=_numbers(attrs.padding),
        dilation=_numbers(attrs.dilation),
        groups=int(attrs.groups),
        size=[height, width],
    )
    return [of_data, no_grad(weight)]


def _of_conv2d_transpose(
    _output: relax.Var, value: relax.Call, gradient: relax.Var, _context: relax.BlockBuilder
) -> list[relax.Expr]:
    """The convolution that it is the transpose of; the kernel's gradient is a rule of the privacy room."""
    attrs, (_, weight) = value.attrs, value.args
    of_data = relax.op.nn.conv2d(
        gradient, weight, _numbers(attrs.strides), _numbers(attrs.padding), groups=int(attrs.groups)
    )
    return [of_data, no_grad(weight)]


register_gradient("relax.nn.conv2d", _of_conv2d, level=20)
register_gradient("relax.nn.conv2d_transpose", _of_conv2d_transpose, level=20)


def _dilated_data_gradient(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    """``[n, c, y, x] = Σ gradient[n, o, r, q] · weight[o, c, u, v]`` where ``y = r·stride + u·dilation −
    top``."""
    attrs = value.attrs
    (batch, outputs, rows, columns), (_, inputs, *taps) = (shape_of(a) for a in value.args)
    groups, (height, width) = int(attrs["groups"]), _numbers(attrs["size"])
    (stride_y, stride_x), (top, left, *_) = _numbers(attrs["strides"]), _numbers(attrs["padding"])
    down, across = _numbers(attrs["dilation"])
    g = te.placeholder((batch, outputs, rows, columns), "float32", name="gradient")
    w = te.placeholder(shape_of(value.args[1]), "float32", name="weight")
    o, u, v = (te.reduce_axis((0, size)) for size in (outputs // groups, *taps))
    zero = tirx.const(0.0, "float32")

    def at(n: tirx.Var, c: tirx.Var, y: tirx.Var, x: tirx.Var) -> tirx.PrimExpr:
        channel = tirx.floordiv(c, inputs) * (outputs // groups) + o
        first, second = y + top - u * down, x + left - v * across
        r, q = tirx.floordiv(first, stride_y), tirx.floordiv(second, stride_x)
        inside = [r >= 0, r < rows, q >= 0, q < columns]
        inside += [tirx.floormod(first, stride_y).equal(0)] if stride_y > 1 else []
        inside += [tirx.floormod(second, stride_x).equal(0)] if stride_x > 1 else []
        read = tirx.if_then_else(tirx.all(*inside), g[n, channel, r, q], zero)
        return te.sum(read * w[channel, tirx.floormod(c, inputs), u, v], axis=[o, u, v])

    shape = (batch, inputs * groups, height, width)
    result = te.compute(shape, at, name="data_gradient")
    function = family("conv2d.dilated_data_gradient", [g, w, result])
    return call_family(builder, function, list(value.args), [tensor(shape)], "data_gradient")


GRADIENTS: dict[str, object] = {}
"""None: those above are of Relax's operators."""

LOWER = {"dilated_data_gradient": _dilated_data_gradient}
"""Lowering of the operator."""
