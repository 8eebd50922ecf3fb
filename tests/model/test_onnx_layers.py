"""ONNX's door: layers of every kind, and values whose first axis is not the batch, as in the reference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")
pytest.importorskip("onnx")

import test_onnx
from doors import BATCH, features, graph_of, job, logits, losses_of_training
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from test_onnx import integers, node, save, weight

from myelin.errors import BuildError
from myelin.model import from_onnx
from myelin.privacy import inspect_step
from myelin.privacy.oracle import clipped_sums
from targets import WIDEST

pytestmark = pytest.mark.numeric


@pytest.fixture(autouse=True)
def _same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_onnx, "RNG", np.random.default_rng(5))


def number(value: float) -> Any:
    return np.array(value, np.float32)


def lines(path: Path) -> Path:
    """Along one axis; an instance normalisation, one by statistics, x · σ(x)."""
    nodes = [
        node("Conv", "x k kb", "c", dilations=[2], pads=[2, 1], kernel_shape=[3]),
        node("InstanceNormalization", "c g gb", "n"),
        node("ConvTranspose", "n t tb", "u", strides=[2], pads=[1, 0], output_padding=[1]),
        node("Identity", "gb", "mean"),
        node("BatchNormalization", "u s sb mean var", "f"),
        node("Sigmoid", "f", "o"),
        node("Mul", "f o", "a"),
        node("MaxPool", "a", "p", kernel_shape=[2], strides=[2]),
        node("Conv", "p d", "e", group=6, kernel_shape=[3]),
        node("AveragePool", "e", "q", kernel_shape=[2], strides=[1]),
        node("GlobalAveragePool", "q", "m"),
        node("Flatten", "m", "l"),
        node("Gemm", "l w v", "y"),
    ]
    numbers = {
        "k": weight(6, 3, 3),
        "kb": weight(6),
        "g": np.ones(6, np.float32),
        "gb": np.zeros(6, np.float32),
        "t": weight(6, 6, 3),
        "tb": weight(6),
        "s": weight(6),
        "sb": weight(6),
        "var": weight(6) ** 2 + number(0.5),
        "d": weight(6, 1, 3),
        "w": weight(6, 3),
        "v": weight(3),
    }
    return save(path, nodes, numbers, ["batch", 3, 9], 3)


def gelu(x: str, y: str, order: int) -> list[Any]:
    """In parts, as exporters do, in one of three orders."""
    p = f"{y}{order}"
    first = node("Div", f"{x} root", f"{p}d") if order else node("Mul", f"inverse {x}", f"{p}d")
    rest = [
        [node("Mul", f"{x} {p}a", f"{p}m"), node("Mul", f"{p}m half", y)],
        [node("Mul", f"{x} half", f"{p}h"), node("Mul", f"{p}h {p}a", y)],
        [node("Div", f"{p}a two", f"{p}m"), node("Mul", f"{p}m {x}", y)],
    ][order]
    return [first, node("Erf", f"{p}d", f"{p}e"), node("Add", f"one {p}e", f"{p}a"), *rest]


def images(path: Path) -> Path:
    """Groups, dilation, transposed, GELU in parts, a bias that is one number, a weight used both ways."""
    nodes = [
        node("Conv", "x k kb", "c", dilations=[2, 1], pads=[2, 1, 2, 1], group=2, kernel_shape=[3, 3]),
        *gelu("c", "c1", 0),
        node("ConvTranspose", "c1 t", "u", strides=[2, 1], output_padding=[1, 0], kernel_shape=[2, 3]),
        *gelu("u", "u1", 1),
        node("GlobalAveragePool", "u1", "p"),
        node("Flatten", "p", "l"),
        node("MatMul", "l w", "h"),
        *gelu("h", "h1", 2),
        node("Gemm", "h1 w", "z", transB=1),
        node("Gemm", "z o ob", "y", transB=1),
    ]
    numbers = {
        "k": weight(4, 1, 3, 3),
        "kb": weight(4),
        "t": weight(4, 5, 2, 3),
        "root": number(math.sqrt(2)),
        "inverse": number(math.sqrt(0.5)),
        "half": number(0.5),
        "one": number(1),
        "two": number(2),
        "w": weight(5, 7),
        "o": weight(3, 5),
        "ob": weight(3),
    }
    return save(path, nodes, numbers, ["batch", 2, 6, 5], 3)


def tokens(path: Path) -> Path:
    """A table, two GRUs between one pair of transposes, the last state; one logit, with a bias of its own."""
    nodes = [
        node("Cast", "x", "t", to=TensorProto.INT64),
        node("Gather", "table t", "e"),
        node("Transpose", "e", "s", perm=[1, 0, 2]),
        node("GRU", "s w r b", "h0 l0", hidden_size=5, linear_before_reset=1),
        node("Squeeze", "h0 axis", "h1"),
        node("Tanh", "h1", "h2"),
        node("GRU", "h2 w2 r2", "h3 last", hidden_size=4, linear_before_reset=1),
        node("Gather", "last end", "l", axis=0),
        node("MatMul", "l u", "z"),
        node("Add", "z v", "a"),
        node("MatMul", "a o", "y"),
    ]
    numbers = {
        "table": weight(20, 6),
        "w": weight(1, 15, 6),
        "r": weight(1, 15, 5),
        "b": weight(1, 30),
        "w2": weight(1, 12, 5),
        "r2": weight(1, 12, 4),
        "axis": integers(1),
        "end": np.array(-1, np.int64),
        "u": weight(4, 1),
        "v": weight(1),
        "o": weight(1, 2),
    }
    return save(path, nodes, numbers, ["batch", 7], 2)


def attention(path: Path) -> Path:
    """As PyTorch's MultiheadAttention: positions first, the batch joined with the heads."""
    nodes = [
        node("Transpose", "x", "s", perm=[1, 0, 2]),
        node("LayerNormalization", "s g gb", "n"),
        node("MatMul", "n in", "i"),
        node("Add", "inb i", "j"),
        node("Reshape", "j apart", "k"),
        node("Unsqueeze", "k first", "k0"),
        node("Transpose", "k0", "k1", perm=[3, 1, 2, 0, 4]),
        node("Squeeze", "k1 third", "k2"),
        *(node("Gather", f"k2 {i}", f"p{i}") for i in range(3)),
        node("Shape", "s", "bs", start=1, end=2),
        node("Mul", "bs two", "bh"),
        node("Concat", "six bh four", "joined", axis=0),
        *(node("Reshape", f"p{i} joined", f"q{i}") for i in range(3)),
        node("Transpose", "q0", "r0", perm=[1, 0, 2]),
        node("Transpose", "q1", "r1", perm=[1, 2, 0]),
        node("Transpose", "q2", "r2", perm=[1, 0, 2]),
        node("MatMul", "r0 r1", "scores"),
        node("Mul", "scores half", "scaled"),
        node("Softmax", "scaled", "weights", axis=2),
        node("MatMul", "weights r2", "mixed"),
        node("Transpose", "mixed", "back", perm=[1, 0, 2]),
        node("Reshape", "back flat", "rows"),
        node("Gemm", "rows out outb", "o", transB=1),
        node("Reshape", "o again", "o1"),
        node("Add", "s o1", "sum"),
        node("Gelu", "sum", "act"),
        node("Transpose", "act", "f", perm=[1, 0, 2]),
        node("ReduceMean", "f middle", "mean", keepdims=0),
        node("Gemm", "mean u", "y"),
    ]
    numbers = {
        "g": weight(8),
        "gb": weight(8),
        "in": weight(8, 24),
        "inb": weight(24),
        "apart": integers(6, -1, 3, 8),
        "first": integers(0),
        "third": integers(3),
        **{str(i): np.array(i, np.int64) for i in range(3)},
        "two": integers(2),
        "six": integers(6),
        "four": integers(4),
        "half": number(0.5),
        "flat": integers(-1, 8),
        "out": weight(8, 8),
        "outb": weight(8),
        "again": integers(6, -1, 8),
        "middle": integers(1),
        "u": weight(8, 3),
    }
    return save(path, nodes, numbers, ["batch", 6, 8], 3)


CASES: dict[str, tuple[Any, tuple[int, ...], int, int]] = {
    "lines": (lines, (3, 9), 3, 0),
    "images": (images, (2, 6, 5), 3, 0),
    "tokens": (tokens, (7,), 2, 20),
    "attention": (attention, (6, 8), 3, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_are_the_reference_evaluators_and_it_trains(name: str, tmp_path: Path) -> None:
    make, shape, classes, vocabulary = CASES[name]
    path, x = make(tmp_path / "net.onnx"), features(shape, vocabulary)
    want = ReferenceEvaluator(str(path)).run(None, {"x": x})[0]
    made = job(lambda: from_onnx(path), shape, classes, vocabulary)
    graph = graph_of(made)
    np.testing.assert_allclose(logits(graph, x), want, rtol=0, atol=2e-6)
    labels = np.arange(BATCH) % classes
    found = inspect_step(made.model, None, x, labels, made.plan, WIDEST)
    expected = clipped_sums(
        graph.module["forward"],
        graph.parameter_values,
        x,
        labels,
        [1.0] * BATCH,
        1.0,
        frozen=graph.frozen_values,
    )
    np.testing.assert_allclose(found.per_example_norms, expected.norms, rtol=1e-3)
    for name_of, total in zip(graph.parameter_names, expected.sums, strict=True):
        np.testing.assert_allclose(found.clipped_sum[name_of], total, rtol=0, atol=1e-5)
    before, after = losses_of_training(made, x, classes)
    assert after < before


def test_what_is_trained_is_what_the_file_has(tmp_path: Path) -> None:
    """Numbers that happen to be equal are apart, statistics constant, a bias of one number is trained."""
    graph = graph_of(job(lambda: from_onnx(lines(tmp_path / "l.onnx")), (3, 9), 3))
    assert set(graph.parameter_names) == {"k", "kb", "g", "gb", "t", "tb", "s", "sb", "d", "w", "v"}
    assert graph.frozen_names == ("f.factor", "f.shift")
    np.testing.assert_array_equal(graph.frozen_values[1], np.zeros(6))
    graph = graph_of(job(lambda: from_onnx(tokens(tmp_path / "t.onnx")), (7,), 2, 20))
    assert {"v", "u", "b.inputs", "b.recurrent"} <= set(graph.parameter_names)
    graph = graph_of(job(lambda: from_onnx(images(tmp_path / "i.onnx")), (2, 6, 5), 3))
    (both,) = (layer for layer in graph.layers if layer.name == "w")
    assert (both.kind, [use.kind for use in both.uses]) == ("shared", ["product", "linear"])


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([node("Reshape", "x flat", "y")], r"Reshape.*from \[4, 6\] to \[3, 8\] has no rule"),
        ([node("Transpose", "x", "t"), node("MatMul", "t x", "y")], "a product along the batch would mix"),
        ([node("Transpose", "x", "t"), node("Gemm", "t w", "y")], "its last axis has the batch in it"),
        ([node("Transpose", "x", "t"), node("ReduceMean", "t last", "y")], "first axis is not the batch"),
        ([node("Transpose", "x", "t"), node("Gather", "t at", "y", axis=1)], "an index along the batch"),
        ([node("Reshape", "x one", "t"), node("Softmax", "t", "y")], "its last axis has the batch in it"),
        ([node("Transpose", "x", "t"), node("Add", "t x", "y")], "two values with the same axes"),
    ],
)
def test_what_would_mix_examples_is_refused(nodes: list[Any], said: str, tmp_path: Path) -> None:
    numbers = {
        "flat": integers(3, 8),
        "one": integers(-1),
        "w": weight(4, 3),
        "last": integers(1),
        "at": np.array(0, np.int64),
    }
    path = save(tmp_path / "n.onnx", nodes, numbers, ["b", 6], 3)
    with pytest.raises(BuildError, match=said):
        graph_of(job(lambda: from_onnx(path), (6,), 3))
