"""Norms, attention in groups, GRU, padding and frozen statistics, against the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from families import Family, family
from tvm.relax.frontend.nn import op

from myelin.errors import BuildError
from myelin.graph import forward_function, parametric_layers
from myelin.model import nn
from myelin.model.functional import apply

pytestmark = pytest.mark.numeric

PADDING = 4


class Sequences(nn.Module):
    """A table with a padding token, RMSNorm, two groups of query heads, SiLU, a GRU."""

    def __init__(self) -> None:
        self.table, self.norm = nn.Embedding(9, 8, padding=PADDING), nn.RMSNorm(8)
        self.attention, self.gru = nn.MultiHeadAttention(8, 4, key_heads=2), nn.GRU(8, 5)
        self.output = nn.Linear(5, 3)

    def forward(self, tokens: Any) -> Any:
        x = self.table(tokens)
        x = x + nn.silu(self.attention(self.norm(x)))
        return self.output(nn.step(self.gru(x), -1))


class Images(nn.Module):
    """Channels normalised by themselves, and by statistics that are known."""

    def __init__(self) -> None:
        self.conv, self.norm = nn.Conv2D(2, 3, 3, padding=1, bias=False), nn.InstanceNorm2D(3)
        self.frozen = nn.FrozenBatchNorm2D([0.1, -0.2, 0.3], [0.5, 1.5, 2.0])
        self.output = nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        x = nn.tanh(self.norm(self.conv(x)))
        return self.output(nn.global_avg_pool2d(nn.relu(self.frozen(x))))


def sequences() -> Family:
    return family(Sequences, (6,), 3, 9)


def test_sequences_agree_with_the_oracle() -> None:
    case = sequences()
    case.check()
    # Queries of a group are put one after the other; keys and values are read where the product wrote them.
    assert not [kernel for kernel in case.program.scheduled.kernels if kernel.endswith("_split")]


def test_images_agree_with_the_oracle() -> None:
    case = family(Images, (2, 5, 4), 3)
    assert case.private.frozen_names == ("frozen.factor", "frozen.shift")
    case.check()


def test_a_padding_tokens_row_is_neither_read_nor_written() -> None:
    case = sequences()
    x, labels, mask = case.inputs
    x = x.copy()
    x[0] = [PADDING, 1, PADDING + 0.5, 2, PADDING, 3]  # what is after the point is cut off
    sums, norms, _ = case.program.run_step(x, labels, mask, case.values)
    assert not sums[0][PADDING].any()
    assert sums[0][1].any()
    other = [case.values[0].copy(), *case.values[1:]]
    other[0][PADDING] = np.nan
    again, same, _ = case.program.run_step(x, labels, mask, other)
    np.testing.assert_array_equal(norms, same)
    for a, b in zip(sums, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_layer_of_one_group_is_attention_as_it_was() -> None:
    texts = [forward_function(Attention(heads), 2, (4, 6), None)[0].script() for heads in (None, 3)]
    assert texts[0] == texts[1]
    with pytest.raises(BuildError, match="key_heads: expected a divisor of 3, got 2"):
        nn.MultiHeadAttention(6, 3, key_heads=2)


class Attention(nn.Module):
    def __init__(self, key_heads: int | None) -> None:
        self.layer = nn.MultiHeadAttention(6, 3, key_heads=key_heads)

    def forward(self, x: Any) -> Any:
        return nn.flatten(self.layer(x))


def test_the_recurrent_product_of_a_gru_has_a_place_of_its_own() -> None:
    """There, and not at the gates, is the gradient of its weight and bias: r multiplies it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            self.gru = nn.GRU(2, 3)

        def forward(self, x: Any) -> Any:
            return nn.step(self.gru(x), -1)

    layers = parametric_layers(*forward_function(Net(), 4, (5, 2), 3))
    places = {layer.name: layer.uses[0].output for layer in layers}
    assert places["gru.recurrent"].same_as(places["gru.recurrent_bias"])
    assert not places["gru.recurrent"].same_as(places["gru.inputs.bias"])


@pytest.mark.parametrize("reads", ["twice", "gates"])
def test_a_place_that_something_else_reads_is_refused(reads: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.gates, self.recurrent = nn.Linear(2, 9), nn.Parameter((9, 3))

        def forward(self, x: Any) -> Any:
            gates = self.gates(x)
            added = gates if reads == "gates" else nn.tanh(gates)
            hidden = apply("gru", [gates, added, self.recurrent])[0]
            return nn.step(hidden, 0) + nn.mean(nn.reshape(added, 5, 3, 3), (1, 2))

    with pytest.raises(BuildError, match=r"myelin\.gru on parameter recurrent .*use nn\.GRU"):
        parametric_layers(*forward_function(Net(), 4, (5, 2), 3))


def test_a_normalisation_by_a_parameter_without_its_layer_is_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.scale, self.output = nn.Parameter((4,)), nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            return self.output(op.rms_norm(x, self.scale, [-1]))

    with pytest.raises(BuildError, match=r"operator nn\.rms_norm on parameter scale .*nn\.RMSNorm"):
        parametric_layers(*forward_function(Net(), 4, (4,), 2))
