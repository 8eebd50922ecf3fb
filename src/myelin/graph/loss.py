"""Losses, each by the gradient that it starts the backward pass from. The loss itself is never computed."""

from __future__ import annotations

from tvm import relax, te, tirx

from .relax_ir import call_family, family, shape_of, tensor

__all__ = ["cross_entropy_seed"]


def cross_entropy_seed(builder: relax.BlockBuilder, logits: relax.Expr, labels: relax.Expr) -> relax.Expr:
    """Gradient of each example's softmax cross-entropy by its logits: ``softmax(logits) − onehot(labels)``.

    Per example, not averaged over the batch. The label is compared with each class and never used as an
    index, so a label out of range reads nothing out of bounds: it equals no class.

    Args:
        builder: where to emit.
        logits: float32 ``[batch, classes]``.
        labels: int32 ``[batch]``.

    Returns:
        float32 ``[batch, classes]``.
    """
    probabilities = builder.emit(relax.op.nn.softmax(logits, axis=-1), name_hint="probabilities")
    shape = shape_of(logits)
    p = te.placeholder(shape, "float32", name="probabilities")
    label = te.placeholder(shape[:1], "int32", name="labels")
    one, zero = tirx.const(1.0, "float32"), tirx.const(0.0, "float32")
    seed = te.compute(shape, lambda i, k: p[i, k] - tirx.Select(label[i] == k, one, zero), name="seed")
    function = family("loss.cross_entropy_seed", [p, label, seed])
    return call_family(builder, function, [probabilities, labels], [tensor(shape)], "seed")[0]
