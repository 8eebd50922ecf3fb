"""Parameters that layers of several kinds share, against the oracle; and gradients that cancel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from families import family
from small_jobs import plan, small_job
from tvm.relax.frontend.nn import op

from myelin.graph import differentiate, forward_function
from myelin.model import nn
from myelin.privacy.oracle import example_gradient

pytestmark = pytest.mark.numeric


class Tied(nn.Module):
    """The table is the output's weight, at every position; held under a second name, as in PyTorch."""

    def __init__(self) -> None:
        self.table, self.hidden = nn.Embedding(7, 5), nn.Linear(5, 5)
        self.output = nn.Linear(5, 7)
        self.output.weight = self.table.weight

    def forward(self, tokens: Any) -> Any:
        return nn.mean(self.output(nn.tanh(self.hidden(self.table(tokens)))), 1)


class Halves(nn.Module):
    """An autoencoder of one weight, a position that is a scale's bias, a weight [in, out] of its own."""

    def __init__(self) -> None:
        self.first, self.vector = nn.Linear(6, 4), nn.Parameter((6,))
        self.last = nn.Parameter((6, 3))

    def forward(self, x: Any) -> Any:
        x = nn.transposed(self.first, nn.tanh(self.first(x)))
        x = op.add(op.multiply(x, self.vector), self.vector)
        return op.matmul(nn.tanh(x), self.last)


class Cancelling(nn.Module):
    """A vector that is scale and bias of values close to −1: its two gradients nearly cancel."""

    def __init__(self) -> None:
        self.vector = nn.Parameter((3,))

    def forward(self, x: Any) -> Any:
        return op.add(op.multiply(x * 1e-3 + (x * 0.0 - 1.0), self.vector), self.vector)


def test_a_table_that_is_the_outputs_weight() -> None:
    function, names = forward_function(Tied(), 2, (6,), 7)
    assert names == ("table.weight", "hidden.weight", "hidden.bias", "output.bias")
    assert len(function.params) == 5
    case = family(Tied, (6,), 7, 7)
    table = case.graph.layers[0]
    assert (table.kind, [use.kind for use in table.uses]) == ("shared", ["embedding", "linear"])
    case.check()


def test_a_weight_used_both_ways_and_a_vector_that_is_scale_and_bias() -> None:
    case = family(Halves, (6,), 3)
    kinds = {layer.name: (layer.kind, [use.kind for use in layer.uses]) for layer in case.graph.layers}
    assert kinds == {
        "first.weight": ("shared", ["linear", "product"]),
        "first.bias": ("bias", ["bias"]),
        "vector": ("shared", ["scale", "bias"]),
        "last": ("product", ["product"]),
    }
    assert {row.name: row.strategy for row in case.private.table}["last"] == "ghost"
    case.check()


def test_gradients_that_cancel_between_kinds_keep_their_small_norm() -> None:
    """From the kinds' own norms it would be a thousand times too large, or any factor."""
    case = family(Cancelling, (3,), 3)
    x, labels, mask = case.inputs
    _, norms, _ = case.program.run_step(x, labels, mask, case.values)
    # What is added is rounded to float32 before its norm is taken: of size 1, and 1,000 times smaller left.
    np.testing.assert_allclose(norms[mask > 0], case.oracle.norms[mask > 0], rtol=3e-4)
    case.check_alone()


class Apart(Tied):
    """The same network with the output's weight a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(5, 7)


def test_norms_of_the_uses_alone_would_not_do() -> None:
    """The bug met in the field: each use's norm by itself, which is neither the norm nor a bound of it."""
    tied = family(Tied, (6,), 7, 7)
    graph = differentiate(small_job(Apart, (6,), 7, plan(4)))
    table, *others = tied.values
    values = [table, *others[:2], table, others[2]]
    assert graph.parameter_names[3] == "output.weight"
    ratios = []
    for x, label in zip(*tied.inputs[:2], strict=True):
        parts = example_gradient(graph.module["forward"], values, x, int(label))
        whole = example_gradient(tied.graph.module["forward"], tied.values, x, int(label))
        np.testing.assert_allclose(parts[0] + parts[3], whole[0], rtol=1e-9, atol=1e-12)
        ratios.append(
            np.hypot(*(np.linalg.norm(part) for part in (parts[0], parts[3]))) / np.linalg.norm(whole[0])
        )
    assert min(ratios) < 0.99
