"""ONNX's door: models of each kind give the reference evaluator's logits; what cannot be read is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")
pytest.importorskip("onnx")

import onnx
from doors import features, graph_of, job, logits
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from myelin.errors import BuildError, InputError
from myelin.model import from_onnx
from myelin.privacy import inspect_step

RNG = np.random.default_rng(3)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=f"the {kind}", **attributes)


def weight(*shape: int) -> Any:
    return RNG.normal(0, 0.4, shape).astype(np.float32)


def integers(*values: int) -> Any:
    return np.array(values, np.int64)


def save(path: Path, nodes: list[Any], numbers: dict[str, Any], shape: list[Any], classes: int) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], classes])],
        [numpy_helper.from_array(value, name) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, str(path))
    return path


def image(path: Path) -> Path:
    """Convolution, both writings of group normalisation, pooling, both products."""
    nodes = [
        node("Conv", "x k b", "c", strides=[1, 1], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("GroupNormalization", "c scale shift", "n", num_groups=2),
        node("Relu", "n", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", "p groups", "q"),
        node("InstanceNormalization", "q one zero", "i"),
        node("Shape", "p", "shape"),
        node("Reshape", "i shape", "j"),
        node("Mul", "j channel", "m"),
        node("Add", "m offset", "o"),
        node("Flatten", "o", "f"),
        node("Gemm", "f w v", "h", transB=1),
        node("Tanh", "h", "t"),
        node("MatMul", "t u", "z"),
        node("Add", "z e", "y"),
    ]
    numbers = {
        "k": weight(4, 1, 3, 3),
        "b": weight(4),
        "scale": weight(4),
        "shift": weight(4),
        "groups": integers(0, 2, -1),
        "one": np.ones(2, np.float32),
        "zero": np.zeros(2, np.float32),
        "channel": weight(4, 1, 1),
        "offset": weight(4, 1, 1),
        "w": weight(8, 64),
        "v": weight(8),
        "u": weight(8, 3),
        "e": weight(3),
    }
    return save(path, nodes, numbers, ["batch", 1, 8, 8], 3)


def tokens(path: Path) -> Path:
    """A table, an LSTM, one position."""
    nodes = [
        node("Cast", "x", "t", to=TensorProto.INT64),
        node("Gather", "table t", "e"),
        node("Transpose", "e", "s", perm=[1, 0, 2]),
        node("LSTM", "s w r b", "h last cell", hidden_size=5),
        node("Squeeze", "h one", "q"),
        node("Transpose", "q", "o", perm=[1, 0, 2]),
        node("Gather", "o end", "l", axis=1),
        node("Gemm", "l u v", "y"),
    ]
    numbers = {
        "table": weight(20, 6),
        "w": weight(1, 20, 6),
        "r": weight(1, 20, 5),
        "b": weight(1, 40),
        "one": integers(1),
        "end": np.array(-1, np.int64),
        "u": weight(5, 2),
        "v": weight(2),
    }
    return save(path, nodes, numbers, ["batch", 7], 2)


def attention(path: Path) -> Path:
    """Normalisation, heads by shapes that are computed, softmax, GELU, a residual, a mean."""
    nodes = [
        node("LayerNormalization", "x g c", "n"),
        node("MatMul", "n w", "a"),
        node("Split", "a", "q k v", axis=-1, num_outputs=3),
        node("Shape", "x", "size", end=2),
        node("Concat", "size heads", "apart", axis=0),
        *(node("Reshape", f"{p} apart", f"{p}1") for p in "qkv"),
        node("Transpose", "q1", "q2", perm=[0, 2, 1, 3]),
        node("Transpose", "k1", "k2", perm=[0, 2, 3, 1]),
        node("Transpose", "v1", "v2", perm=[0, 2, 1, 3]),
        node("MatMul", "q2 k2", "scores"),
        node("Div", "scores root", "scaled"),
        node("Softmax", "scaled", "weights"),
        node("MatMul", "weights v2", "mixed"),
        node("Transpose", "mixed", "back", perm=[0, 2, 1, 3]),
        node("Reshape", "back flat", "joined"),
        node("Add", "x joined", "sum"),
        node("Gelu", "sum", "act"),
        node("ReduceMean", "act one", "mean", keepdims=0),
        node("Gemm", "mean u", "y"),
    ]
    numbers = {
        "g": weight(8),
        "c": weight(8),
        "w": weight(8, 24),
        "heads": integers(2, 4),
        "root": np.array(2.0, np.float32),
        "flat": integers(0, 0, 8),
        "one": integers(1),
        "u": weight(8, 3),
    }
    return save(path, nodes, numbers, ["batch", 6, 8], 3)


CASES: dict[str, tuple[Any, tuple[int, ...], int, int]] = {
    "image": (image, (1, 8, 8), 3, 0),
    "tokens": (tokens, (7,), 2, 20),
    "attention": (attention, (6, 8), 3, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_are_the_reference_evaluators(name: str, tmp_path: Path) -> None:
    make, shape, classes, vocabulary = CASES[name]
    path, x = make(tmp_path / "net.onnx"), features(shape, vocabulary)
    want = ReferenceEvaluator(str(path)).run(None, {"x": x})[0]
    got = logits(graph_of(job(lambda: from_onnx(path), shape, classes, vocabulary)), x)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def test_an_imported_model_is_clipped_per_example(tmp_path: Path) -> None:
    path, x = image(tmp_path / "net.onnx"), features((1, 8, 8))
    made = job(lambda: from_onnx(path), (1, 8, 8), 3)
    graph = graph_of(made)
    assert graph.parameter_names[:2] == ("k", "b")
    found = inspect_step(made.model(), graph.parameter_values, x, np.zeros(4, np.int32), made.plan)
    assert len(found.clipped_sum) == len(graph.parameter_names)
    assert (found.per_example_norms > 0).all()


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (
            [node("BatchNormalization", "x v v v v", "y m s", training_mode=1)],
            "BatchNormalization.*mixes the examples",
        ),
        ([node("Erf", "x", "y")], "Erf 'the Erf': alone it has no rule"),
        ([node("GRU", "x w w", "y")], "linear_before_reset = 0"),
        ([node("LSTM", "x w w", "y")], "numbers do not fit its operators"),
        ([node("BatchNormalization", "x v v v u", "y")], "numbers do not fit its operators"),
        ([node("Sin", "x", "y")], "Sin 'the Sin': it has no rule"),
        ([node("Softmax", "x", "s", axis=0), node("Gemm", "s w", "y")], "another axis than the last"),
        ([node("Gemm", "x w", "y", alpha=2.0)], "alpha = 2.0"),
        ([node("MatMul", "x w", "h"), node("Conv", "h w", "y")], "two forms"),
    ],
)
def test_what_has_no_rule_is_named(nodes: list[Any], said: str, tmp_path: Path) -> None:
    path = save(
        tmp_path / "n.onnx",
        nodes,
        {"w": weight(1, 3, 3), "v": np.ones(3, np.float32), "u": weight(2)},
        ["b", 3],
        3,
    )
    with pytest.raises(BuildError, match=said):
        graph_of(job(lambda: from_onnx(path), (3,), 3))


def test_large_constants_are_not_made(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", "size", "c"), node("Add", "x c", "y")]
    path = save(tmp_path / "n.onnx", nodes, {"size": integers(1 << 20, 1 << 20)}, ["b", 3], 3)
    with pytest.raises(BuildError, match="more than 16777216 numbers"):
        graph_of(job(lambda: from_onnx(path), (3,), 3))


def test_a_file_for_another_batch_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "n.onnx", [node("Gemm", "x w", "y")], {"w": weight(3, 3)}, [2, 3], 3)
    with pytest.raises(BuildError, match=r"is \[2, 3\], but a physical batch is \[4, 3\]"):
        graph_of(job(lambda: from_onnx(path), (3,), 3))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: cannot be read"):
        from_onnx(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x07not a model")
    with pytest.raises(InputError, match=r"bad\.onnx: not a valid ONNX model"):
        from_onnx(tmp_path / "bad.onnx")


def test_numbers_in_another_file_are_not_read(tmp_path: Path) -> None:
    path = save(tmp_path / "n.onnx", [node("Gemm", "x w", "y")], {"w": weight(3, 3)}, ["b", 3], 3)
    model = onnx.load(str(path))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="w is in another file"):
        from_onnx(path)
