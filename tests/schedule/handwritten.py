"""Private training steps written by hand in Relax, with float64 twins, so that this room is tested alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tvm import relax
from tvm.relax import op


@dataclass
class HandGraph:
    """The fields of a PrivateGraph that scheduling reads."""

    module: object
    parameter_names: tuple[str, ...]
    parameter_values: tuple[np.ndarray, ...]
    state_shapes: tuple[tuple[int, ...], ...]
    microbatch: int
    sensitivity_e9: int = 10**9
    released: tuple[int, ...] = (0, 1, 2, 3)
    table: list = field(default_factory=list)
    frozen_values: tuple[np.ndarray, ...] = ()
    dropout: tuple = ()


def var(name, shape, dtype="float32"):
    return relax.Var(name, relax.TensorType(shape, dtype))


def scalar(value):
    return relax.const(value, "float32")


def emit_softmax_gradient(bb, logits, labels, classes):
    top = bb.emit(op.max(logits, axis=[1], keepdims=True))
    e = bb.emit(op.exp(op.subtract(logits, top)))
    p = bb.emit(op.divide(e, op.sum(e, axis=[1], keepdims=True)))
    column = op.reshape(op.arange(0, classes, 1, "int32"), (1, classes))
    hit = op.equal(column, op.reshape(labels, (labels.ty.shape[0], 1)))
    return bb.emit(op.subtract(p, op.astype(hit, "float32")))


def emit_factors(bb, squares, mask, clip):
    """Norms, clipping factors and contributing flags from squared norms [m]."""
    norms = bb.emit(op.sqrt(squares))
    finite = bb.emit(op.less(squares, scalar(3.0e38)))
    keep = bb.emit(op.logical_and(finite, op.greater(mask, scalar(0.5))))
    shrink = op.minimum(scalar(1.0), op.divide(scalar(clip), op.maximum(norms, scalar(1e-30))))
    factor = bb.emit(op.where(keep, shrink, op.zeros_like(norms)))
    return bb.emit(op.where(keep, norms, op.zeros_like(norms))), factor, bb.emit(op.astype(keep, "int32"))


def emit_sgd(bb, names, shapes, learning_rate, momentum):
    step_number = var("step_number", (1,), "int32")
    parameters = [var(f"p_{n}", s) for n, s in zip(names, shapes, strict=True)]
    state = [var(f"v_{n}", s) for n, s in zip(names, shapes, strict=True)]
    gradients = [var(f"g_{n}", s) for n, s in zip(names, shapes, strict=True)]
    with bb.function("update", [step_number, *parameters, *state, *gradients]):
        with bb.dataflow():
            velocity, moved = [], []
            for p, v, g in zip(parameters, state, gradients, strict=True):
                velocity.append(bb.emit(op.add(op.multiply(scalar(momentum), v), g)))
                moved.append(bb.emit(op.subtract(p, op.multiply(scalar(learning_rate), velocity[-1]))))
            out = bb.emit_output(relax.Tuple([*moved, *velocity]))
        bb.emit_func_output(out)


def mlp(microbatch=64, sizes=(30, 16, 2), clip=1.0, learning_rate=0.5, momentum=0.9, seed=0):
    """A private step of a tanh MLP with one hidden layer, by ghost norms, and SGD with momentum."""
    m, (inputs, hidden, classes) = microbatch, sizes
    names = ("l1.weight", "l1.bias", "l2.weight", "l2.bias")
    shapes = ((hidden, inputs), (hidden,), (classes, hidden), (classes,))
    bb = relax.BlockBuilder()
    x, labels, mask = var("features", (m, inputs)), var("labels", (m,), "int32"), var("mask", (m,))
    w1, b1, w2, b2 = (var(n.replace(".", "_"), s) for n, s in zip(names, shapes, strict=True))
    with bb.function("step", [x, labels, mask, w1, b1, w2, b2]):
        with bb.dataflow():
            h = bb.emit(op.tanh(op.add(op.matmul(x, op.permute_dims(w1)), b1)))
            logits = bb.emit(op.add(op.matmul(h, op.permute_dims(w2)), b2))
            g2 = emit_softmax_gradient(bb, logits, labels, classes)
            back = bb.emit(op.matmul(g2, w2))
            g1 = bb.emit(op.multiply(back, op.subtract(scalar(1.0), op.multiply(h, h))))

            def square(t):
                return bb.emit(op.sum(op.multiply(t, t), axis=[1]))

            s = op.multiply(square(g1), op.add(square(x), scalar(1.0)))
            s = bb.emit(op.add(s, op.multiply(square(g2), op.add(square(h), scalar(1.0)))))
            norms, factor, contributing = emit_factors(bb, s, mask, clip)
            column = op.reshape(factor, (m, 1))
            c1 = bb.emit(op.multiply(g1, column))
            c2 = bb.emit(op.multiply(g2, column))
            sums = [
                bb.emit(op.matmul(op.permute_dims(c1), x)),
                bb.emit(op.sum(c1, axis=[0])),
                bb.emit(op.matmul(op.permute_dims(c2), h)),
                bb.emit(op.sum(c2, axis=[0])),
            ]
            out = bb.emit_output(relax.Tuple([*sums, norms, contributing]))
        bb.emit_func_output(out)
    emit_sgd(bb, names, shapes, learning_rate, momentum)
    rng = np.random.default_rng(seed)
    values = tuple((rng.standard_normal(s) / np.sqrt(s[-1])).astype(np.float32) for s in shapes)
    return HandGraph(bb.get(), names, values, shapes, m)


def mlp_oracle(x, labels, mask, parameters, clip=1.0):
    """The same step in float64, one example at a time."""
    w1, b1, w2, b2 = (p.astype(np.float64) for p in parameters)
    sums = [np.zeros_like(p) for p in (w1, b1, w2, b2)]
    norms = np.zeros(len(x))
    for i in np.flatnonzero(mask):
        h = np.tanh(w1 @ x[i] + b1)
        z = w2 @ h + b2
        p = np.exp(z - z.max())
        g2 = p / p.sum()
        g2[labels[i]] -= 1
        g1 = (w2.T @ g2) * (1 - h * h)
        parts = [np.outer(g1, x[i]), g1, np.outer(g2, h), g2]
        norms[i] = np.sqrt(sum((part**2).sum() for part in parts))
        for total, part in zip(sums, parts, strict=True):
            total += part * min(1.0, clip / norms[i])
    return sums, norms
