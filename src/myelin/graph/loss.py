"""Losses, each by the gradient that it starts the backward pass from. The loss itself is never computed.

A seed is per example, not averaged over the batch, and an example's depends on its own outputs and label
only. A label is compared and never used as an index, so one out of range reads nothing out of bounds.
"""

from __future__ import annotations

from tvm import relax, te, tirx

from myelin.model import BinaryCrossEntropy, CrossEntropy, Huber, Loss, MeanSquaredError

from .adjoint import Seed
from .relax_ir import call_family, family, shape_of, tensor
from .selection import selected

__all__ = ["label_dtype", "seed_of"]


def label_dtype(loss: Loss) -> str:
    """Element type of the labels, ``[batch]``: int32 for classes, float32 for numbers."""
    return "float32" if isinstance(loss, MeanSquaredError | Huber) else "int32"


def seed_of(loss: Loss, views: int = 1) -> Seed:
    """What emits the gradient of ``loss`` by the model's outputs: ``[batch, outputs]``, float32.

    Where a record has several views, its loss is the mean of theirs: each view's gradient is divided by their
    number, once, where the backward pass begins.
    """

    def each(builder: relax.BlockBuilder, outputs: relax.Expr, labels: relax.Expr) -> relax.Expr:
        if isinstance(loss, CrossEntropy):
            return _cross_entropy_seed(builder, loss, outputs, labels)
        return _single_seed(builder, loss, outputs, labels)

    def mean(builder: relax.BlockBuilder, outputs: relax.Expr, labels: relax.Expr) -> relax.Expr:
        share = relax.const(1.0 / views, "float32")
        return builder.emit(relax.op.multiply(each(builder, outputs, labels), share), name_hint="mean_seed")

    return each if views == 1 else mean


def _f(value: float) -> tirx.PrimExpr:
    return tirx.const(value, "float32")


def _cross_entropy_seed(
    builder: relax.BlockBuilder, loss: CrossEntropy, logits: relax.Expr, labels: relax.Expr
) -> relax.Expr:
    """``softmax(logits) − onehot(labels)``, or minus the smoothed one; zero for the ignored class.

    The zero is selected: what the logits were does not matter.
    """
    probabilities = builder.emit(relax.op.nn.softmax(logits, axis=-1), name_hint="probabilities")
    shape = shape_of(logits)
    p = te.placeholder(shape, "float32", name="probabilities")
    label = te.placeholder(shape[:1], "int32", name="labels")
    spread = loss.label_smoothing / shape[1]
    hit, miss = _f(1.0 - loss.label_smoothing + spread), _f(spread)

    def at(i: tirx.Var, k: tirx.Var) -> tirx.PrimExpr:
        gradient = p[i, k] - selected(label[i] == k, hit, miss)
        if loss.ignore_index is None:
            return gradient
        return selected(label[i] == loss.ignore_index, _f(0.0), gradient)

    seed = te.compute(shape, at, name="seed")
    function = family("loss.cross_entropy_seed", [p, label, seed])
    return call_family(builder, function, [probabilities, labels], [tensor(shape)], "seed")[0]


def _single_seed(
    builder: relax.BlockBuilder, loss: Loss, outputs: relax.Expr, labels: relax.Expr
) -> relax.Expr:
    """Losses of one output an example.

    Binary cross-entropy: ``sigmoid(z) − y``. Squared error: ``2·(z − y)``. Huber: ``z − y``, cut off at
    ±delta. NaN stays NaN, so that such an example is found and counted as any other that is not finite.
    """
    shape = shape_of(outputs)
    z = te.placeholder(shape, "float32", name="outputs")
    label = te.placeholder(shape[:1], label_dtype(loss), name="labels")

    def at(i: tirx.Var, k: tirx.Var) -> tirx.PrimExpr:
        if isinstance(loss, BinaryCrossEntropy):
            return tirx.sigmoid(z[i, k]) - selected(label[i] == 1, _f(1.0), _f(0.0))
        error = z[i, k] - label[i]
        if isinstance(loss, MeanSquaredError):
            return error * _f(2.0)
        assert isinstance(loss, Huber)
        low = selected(error < _f(-loss.delta), _f(-loss.delta), error)
        return selected(low > _f(loss.delta), _f(loss.delta), low)

    names = {
        BinaryCrossEntropy: "binary_cross_entropy",
        MeanSquaredError: "squared_error",
        Huber: "huber",
    }
    seed = te.compute(shape, at, name="seed")
    function = family(f"loss.{names[type(loss)]}_seed", [z, label, seed])
    return call_family(builder, function, [outputs, labels], [tensor(shape)], "seed")[0]
