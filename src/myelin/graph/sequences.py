"""Tokens to vectors, and one position of a sequence."""

from __future__ import annotations

from tvm import relax, te, tirx
from tvm.relax.op.grad import no_grad

from myelin.model.operators import call

from .relax_ir import call_family, family, shape_of, tensor

__all__ = ["GRADIENTS", "LOWER", "row_of"]


def row_of(token: tirx.PrimExpr, vocabulary: int) -> tirx.PrimExpr:
    """The int32 row that a float32 token names: clamped to the table, the first one for NaN.

    Indices come from owners' data. The comparison is false for NaN, and the minimum is taken before the
    conversion, so that no value, infinite ones included, can name a row outside.
    """
    zero, last = tirx.const(0.0, "float32"), tirx.const(float(vocabulary - 1), "float32")
    below = tirx.Select(token < last, token, last)
    return tirx.Select(token > zero, below, zero).astype("int32")


def _gather(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    (vocabulary, width), places = shape_of(value.args[0]), shape_of(value.args[1])
    weight = te.placeholder((vocabulary, width), "float32", name="weight")
    tokens = te.placeholder(places, "float32", name="tokens")
    rows = te.compute(places, lambda *i: row_of(tokens(*i), vocabulary), name="rows")
    y = te.compute((*places, width), lambda *i: weight[rows(*i[:-1]), i[-1]], name="embedded")
    function = family("embedding.gather", [weight, tokens, y])
    return call_family(builder, function, list(value.args), [tensor((*places, width))], "embedded")


def _step(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    (batch, steps, width), index = shape_of(value.args[0]), int(value.attrs["index"])
    x = te.placeholder((batch, steps, width), "float32", name="x")
    y = te.compute((batch, width), lambda i, k: x[i, index, k], name="step")
    function = family("sequence.step", [x, y], {"index": index})
    return call_family(builder, function, list(value.args), [tensor((batch, width))], "step")


def _step_gradient(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    (batch, width), index = shape_of(value.args[0]), int(value.attrs["index"])
    shape = (batch, int(value.attrs["steps"]), width)
    g = te.placeholder((batch, width), "float32", name="gradient")
    zero = tirx.const(0.0, "float32")
    result = te.compute(shape, lambda i, t, k: tirx.Select(t == index, g[i, k], zero), name="result")
    function = family("sequence.step_gradient", [g, result], {"index": index})
    return call_family(builder, function, list(value.args), [tensor(shape)], "step_gradient")


def _without_token(builder: relax.BlockBuilder, value: relax.Call) -> tuple[relax.Expr, ...]:
    """``x`` with zeros, by selection, where the token is the one that is left out."""
    (shape, places), attrs = (shape_of(argument) for argument in value.args), value.attrs
    vocabulary, left_out = int(attrs["vocabulary"]), int(attrs["token"])
    x = te.placeholder(shape, "float32", name="x")
    tokens = te.placeholder(places, "float32", name="tokens")
    zero = tirx.const(0.0, "float32")

    def at(*i: tirx.Var) -> tirx.PrimExpr:
        is_out = row_of(tokens(*i[:-1]), vocabulary).equal(left_out)
        return tirx.Select(is_out, zero, x(*i))

    result = te.compute(shape, at, name="result")
    function = family("embedding.without_token", [x, tokens, result], {"token": left_out})
    return call_family(builder, function, list(value.args), [tensor(shape)], "kept_rows")


def _of_without_token(
    _output: relax.Var, value: relax.Call, gradient: relax.Var, _context: relax.BlockBuilder
) -> list[relax.Expr]:
    tokens, attrs = value.args[1], value.attrs
    numbers = {name: int(attrs[name]) for name in ("vocabulary", "token")}
    return [call("without_token", [gradient, tokens], **numbers), no_grad(tokens)]


def _of_embedding(
    _output: relax.Var, value: relax.Call, _gradient: relax.Var, _context: relax.BlockBuilder
) -> list[relax.Expr]:
    """None: tokens have no derivative, and the table's is a rule of the privacy room."""
    return [no_grad(argument) for argument in value.args]


def _of_step(
    _output: relax.Var, value: relax.Call, gradient: relax.Var, _context: relax.BlockBuilder
) -> list[relax.Expr]:
    steps, index = shape_of(value.args[0])[1], int(value.attrs["index"])
    return [call("sequence_step_gradient", [gradient], steps=steps, index=index)]


GRADIENTS = {
    "embedding": _of_embedding,
    "sequence_step": _of_step,
    "without_token": _of_without_token,
}
"""Gradient of each operator that a model is traced to."""

LOWER = {
    "embedding": _gather,
    "sequence_step": _step,
    "sequence_step_gradient": _step_gradient,
    "without_token": _without_token,
}
"""Lowering of each operator, gradients included."""
