"""PyTorch's door: the zoo's models, exported by PyTorch with the same values, are the same models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not in the default environment: myelin[torch]")

import torch
from doors import features, graph_of, job, logits, losses_of_training
from small_zoo import SMALL
from torch.nn import functional as F  # noqa: N812  (PyTorch's own name for it)
from written import WRITTEN

from myelin.model import from_torch

pytestmark = pytest.mark.numeric
FACTOR = 1.5
"""Of the adapters: alpha ÷ rank."""


class Net(torch.nn.Module):
    """A model of the zoo, its values by their names there with a line for each point."""

    def __init__(self, name: str, graph: Any) -> None:
        super().__init__()
        self.name, self.sizes = name, {}
        pairs = [*zip(graph.parameter_names, graph.parameter_values, strict=True)]
        frozen = [*zip(graph.frozen_names, graph.frozen_values, strict=True)]
        for key, value in [*pairs, *frozen]:
            parameter = torch.nn.Parameter(torch.tensor(value), requires_grad=key in graph.parameter_names)
            self.register_parameter(key.replace(".", "_"), parameter)

    def forward(self, x: Any) -> Any:
        return WRITTEN[self.name](self, x)

    def has(self, name: str) -> bool:
        return hasattr(self, name.replace(".", "_"))

    def value(self, name: str) -> Any:
        return getattr(self, name.replace(".", "_")) if self.has(name) else None

    def conv(self, x: Any, name: str, stride: int = 1, padding: int = 0) -> Any:
        return F.conv2d(x, self.value(f"{name}.weight"), self.value(f"{name}.bias"), stride, padding)

    def linear(self, x: Any, name: str) -> Any:
        if self.has(f"{name}.down"):
            low = F.linear(F.linear(x, self.value(f"{name}.down")), self.value(f"{name}.up"))
            return self.linear(x, f"{name}.base") + low * FACTOR
        return F.linear(x, self.value(f"{name}.weight"), self.value(f"{name}.bias"))

    def group_norm(self, x: Any, name: str, groups: int) -> Any:
        return F.group_norm(x, groups, self.value(f"{name}.scale"), self.value(f"{name}.bias"))

    def layer_norm(self, x: Any, name: str) -> Any:
        return F.layer_norm(x, x.shape[-1:], self.value(f"{name}.scale"), self.value(f"{name}.bias"))

    def active(self, x: Any, kind: str) -> Any:
        return {"relu": torch.relu, "tanh": torch.tanh, "gelu": F.gelu}[kind](x)

    def max_pool(self, x: Any, size: int, stride: int) -> Any:
        return F.max_pool2d(x, size, stride)

    def mean_of_image(self, x: Any) -> Any:
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def mean_of_length(self, x: Any) -> Any:
        return x.mean(1)

    def flat(self, x: Any) -> Any:
        return x.flatten(1)

    def add(self, x: Any, y: Any) -> Any:
        return x + y

    def embedded(self, x: Any, name: str) -> Any:
        return F.embedding(x.long(), self.value(f"{name}.weight"))

    def placed(self, x: Any, name: str) -> Any:
        return x + self.value(f"{name}.weight")

    def attention(self, x: Any, name: str, heads: int) -> Any:
        batch, length, width = x.shape
        parts = self.linear(x, f"{name}.inputs").chunk(3, -1)
        q, k, v = (p.view(batch, length, heads, width // heads).transpose(1, 2) for p in parts)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        return self.linear(mixed, f"{name}.outputs")

    def patches(self, x: Any, name: str, size: int) -> Any:
        return self.conv(x, name, size).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("name", [name for name in SMALL if name != "lstm"])
def test_it_is_the_zoos_model(name: str, exported: bool) -> None:
    """A recurrent layer's second bias has no place in the zoo's: see the next test."""
    small = SMALL[name]
    x = features(small.shape, small.vocabulary)
    own = graph_of(job(small.make, small.shape, small.classes, small.vocabulary))
    net: Any = Net(name, own).eval()
    source = torch.export.export(net, (torch.tensor(x),), strict=False) if exported else net
    made = job(lambda: from_torch(source), small.shape, small.classes, small.vocabulary)
    graph = graph_of(made)
    assert {n.replace(".", "_") for n in own.parameter_names} == set(graph.parameter_names)
    assert len(graph.frozen_values) == len(own.frozen_values)
    np.testing.assert_allclose(logits(graph, x), logits(own, x), rtol=0, atol=2e-6)
    if exported:
        before, after = losses_of_training(made, x, small.classes)
        assert after < before - 0.01


def test_the_lstm_is_the_zoos_model() -> None:
    small = SMALL["lstm"]
    x = features(small.shape, small.vocabulary)
    own = graph_of(job(small.make, small.shape, small.classes, small.vocabulary))
    values = dict(zip(own.parameter_names, own.parameter_values, strict=True))

    class Recurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.lstm = torch.nn.Embedding(17, 5), torch.nn.LSTM(5, 6, batch_first=True)
            self.output = torch.nn.Linear(6, 3)

        def forward(self, x: Any) -> Any:
            return self.output(self.lstm(self.table(x.long()))[0][:, -1])

    net = Recurrent().eval()
    pairs = {
        "table.weight": "embedding.weight",
        "lstm.weight_ih_l0": "lstm.inputs.weight",
        "lstm.weight_hh_l0": "lstm.recurrent",
        "lstm.bias_ih_l0": "lstm.inputs.bias",
        "output.weight": "output.weight",
        "output.bias": "output.bias",
    }
    state = {name: torch.tensor(values[zoo]) for name, zoo in pairs.items()}
    net.load_state_dict({**state, "lstm.bias_hh_l0": torch.zeros(24)})
    made = job(lambda: from_torch(net), small.shape, small.classes, small.vocabulary)
    np.testing.assert_allclose(logits(graph_of(made), x), logits(own, x), rtol=0, atol=2e-6)
    before, after = losses_of_training(made, x, small.classes)
    assert after < before - 0.01
