"""Parameters that are used at several places, of each kind, against the oracle; and cancellation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_jobs import plan, small_job
from tvm.relax.frontend.nn import op

from myelin.errors import BuildError
from myelin.graph import differentiate
from myelin.model import nn
from myelin.privacy import format_table, make_plain, make_private
from myelin.privacy.oracle import clipped_sums
from myelin.schedule import NativeProgram, schedule

pytestmark = pytest.mark.numeric

TARGET, MICROBATCH = "x86-64-v3", 3


class Sequences(nn.Module):
    """Every layer of a sequence used twice, with another number of positions the second time."""

    def __init__(self) -> None:
        self.table, self.position = nn.Embedding(9, 4), nn.Position(3, 4)
        self.norm, self.linear, self.lstm = nn.LayerNorm(4), nn.Linear(4, 4), nn.LSTM(4, 4)
        self.output = nn.Linear(4, 3)

    def half(self, tokens: Any) -> Any:
        return self.lstm(self.linear(self.norm(self.position(self.table(tokens)))))

    def forward(self, x: Any) -> Any:
        first, second = op.split(x, 2, axis=1)
        mixed = nn.softmax(self.half(first)) + nn.sigmoid(self.half(second))
        return self.output(nn.tanh(self.output_input(nn.mean(mixed, 1))))

    def output_input(self, x: Any) -> Any:
        return nn.gelu(self.linear(x), approximate="tanh")


class Images(nn.Module):
    """A convolution used on two sizes, a scale and bias used twice, a position of an image's shape."""

    def __init__(self) -> None:
        self.position = nn.Position(2, 6, 5)
        self.conv, self.norm = nn.Conv2D(2, 2, 3, stride=1, padding=1), nn.GroupNorm(1, 2)
        self.output = nn.Linear(2, 3)

    def forward(self, x: Any) -> Any:
        x = nn.avg_pool2d(nn.relu(self.norm(self.conv(self.position(x)))), 2, 1)
        return self.output(nn.global_avg_pool2d(self.norm(self.conv(x))))


CASES = {"sequences": (Sequences, (6,), 3), "images": (Images, (2, 6, 5), 3)}


def inputs_of(name: str) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(6)
    shape = (MICROBATCH, *CASES[name][1])
    x = random.integers(0, 4, shape) if name == "sequences" else random.uniform(-1, 1, shape)
    return x.astype(np.float32), np.array([0, 2, 1], np.int32), np.ones(MICROBATCH, np.float32)


@pytest.mark.parametrize("name", CASES)
def test_uses_add_up(name: str) -> None:
    graph = differentiate(small_job(*CASES[name], plan(MICROBATCH)))
    assert {layer.name: len(layer.uses) for layer in graph.layers if len(layer.uses) == 1} == {
        "output.weight": 1,
        "output.bias": 1,
        **({"position.weight": 1} if name == "images" else {}),
    }
    random = np.random.default_rng(5)
    values = [v + random.normal(0, 0.3, v.shape).astype(np.float32) for v in graph.parameter_values]
    x, labels, mask = inputs_of(name)
    private = make_private(graph, plan(MICROBATCH, clipping_norm=0.3))
    sums, norms, _ = NativeProgram(schedule(private, TARGET)).run_step(x, labels, mask, values)
    oracle = clipped_sums(graph.module["forward"], values, x, labels, mask, 0.3)
    np.testing.assert_allclose(norms, oracle.norms, rtol=5e-6)
    whole = NativeProgram(schedule(make_plain(graph), TARGET)).run_step(x, labels, mask, values)[0]
    for index, layer in enumerate(graph.layers):
        for found, expected in (
            (sums[index], oracle.sums[index]),
            (whole[index], sum(gradient[index] for gradient in oracle.gradients)),
        ):
            assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected), layer.name


class Pair(nn.Module):
    """Two tokens whose vectors are subtracted: the gradients of a token that comes twice cancel."""

    def __init__(self) -> None:
        self.table, self.output = nn.Embedding(4, 3), nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        first, second = op.split(self.table(x), 2, axis=1)
        return self.output(nn.mean(first * 300.0 - second * 299.0, 1))


def test_a_token_whose_positions_cancel_keeps_its_small_norm() -> None:
    """From Gram matrices in float32 the norm would be off by many per cent: it is of the rows' sums."""
    graph = differentiate(small_job(Pair, (2,), 2, plan(MICROBATCH)))
    table, *rest = graph.parameter_values
    values = [table * np.float32(1e-3), *rest]  # or the loss of the third example would be zero
    x = np.array([[1, 1], [2, 2], [0, 3]], np.float32)
    labels, mask = np.array([0, 1, 1], np.int32), np.ones(MICROBATCH, np.float32)
    program = NativeProgram(schedule(make_private(graph, plan(MICROBATCH), layer_norms=True), TARGET))
    sums, norms, _ = program.run_step(x, labels, mask, values)
    oracle = clipped_sums(graph.module["forward"], values, x, labels, mask, 1.0)
    for index in range(len(graph.layers)):
        expected = [np.linalg.norm(gradient[index]) for gradient in oracle.gradients]
        np.testing.assert_allclose(norms[1 + index], expected, rtol=5e-5)
    assert norms[1, 2] > 100 * norms[1, 0]
    np.testing.assert_allclose(sums[0], oracle.sums[0], atol=5e-5)  # 300 · 2⁻²⁴ is what cancelling leaves


def test_a_plain_step_has_no_sensitivity_and_so_no_image() -> None:
    graph = make_plain(differentiate(small_job(*CASES["images"], plan(MICROBATCH))))
    with pytest.raises(BuildError, match="no image can be built from it"):
        _ = graph.sensitivity_e9
    assert graph.parameter_count == 60 + 36 + 2 + 2 + 2 + 6 + 3


def test_the_table_as_text() -> None:
    graph = differentiate(small_job(*CASES["images"], plan(MICROBATCH)))
    text = format_table(make_private(graph, plan(MICROBATCH)).table).splitlines()
    assert text[0].split() == [
        *("parameter", "kind", "shape", "positions", "strategy", "kFLOP", "kB", "over", "plain", "instead")
    ]
    rows = {line.split()[0]: line.split()[1:5] for line in text[1:]}
    assert rows["conv.weight"] == ["conv2d", "2×2×3×3", "50", "keep"]
    assert rows["position.weight"] == ["position", "2×6×5", "1", "keep"]
    assert rows["output.weight"] == ["linear", "3×2", "1", "ghost"]
    assert next(line for line in text if "output.weight" in line).split()[-3] == "keep"
