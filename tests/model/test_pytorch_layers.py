"""PyTorch's door: layers of every kind give PyTorch's logits and, example by example, its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")
pytest.importorskip("torch", reason="PyTorch is not in the default environment: myelin[torch]")

import torch
from doors import BATCH, features, graph_of, job, logits, losses_of_training
from torch import nn
from torch.nn import functional as F  # noqa: N812  (PyTorch's own name for it)

from myelin.errors import BuildError
from myelin.model import from_torch
from myelin.privacy import inspect_step
from targets import WIDEST

pytestmark = pytest.mark.numeric


def seen(norm: Any) -> Any:
    """A normalisation with statistics as after training."""
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.5, 2.0)
    return norm


class Lines(nn.Module):
    """Along one axis: dilated and padded to the same, by itself, transposed, depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.own = (
            nn.Conv1d(3, 6, 3, padding="same", dilation=2),
            nn.InstanceNorm1d(6, affine=True),
        )
        self.up = nn.ConvTranspose1d(6, 6, 3, 2, 1, 1, groups=2)
        self.fixed, self.deep = seen(nn.BatchNorm1d(6)), nn.Conv1d(6, 6, 3, groups=6, bias=False)
        self.hidden, self.last, self.out = (
            nn.Linear(6, 6),
            seen(nn.BatchNorm1d(6, affine=False)),
            nn.Linear(6, 3),
        )

    def forward(self, x: Any) -> Any:
        x = F.max_pool1d(F.silu(self.fixed(self.up(self.own(self.first(x))))), 2)
        x = F.avg_pool1d(F.silu(self.deep(x)), 2)
        return self.out(self.last(self.hidden(F.adaptive_avg_pool1d(x, 1).flatten(1))))


class Images(nn.Module):
    """Groups, dilation, padding that differs between sides, transposed, frozen statistics and weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 2, padding="same"), nn.InstanceNorm2d(4, affine=True)
        self.grouped = nn.Conv2d(4, 8, 3, 1, 2, 2, groups=2).requires_grad_(False)
        self.fixed = seen(nn.BatchNorm2d(8))
        self.up, self.out = nn.ConvTranspose2d(8, 4, (3, 2), (2, 1), (1, 0), (1, 0)), nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        x = self.fixed(self.grouped(torch.tanh(self.norm(self.first(x)))))
        return self.out(F.adaptive_avg_pool2d(nn.SiLU()(self.up(F.relu(x))), 1).flatten(1))


class Sequences(nn.Module):
    """A padding token, RMSNorm, queries in groups, a product with a weight [in, out], two layers of GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(20, 8, padding_idx=3), nn.RMSNorm(8)
        self.inputs, self.back = nn.Linear(8, 16), nn.Parameter(torch.randn(8, 8) / 3)
        self.gru, self.out = nn.GRU(8, 5, num_layers=2, batch_first=True), nn.Linear(5, 2)
        self.second = nn.GRU(5, 5, bias=False, batch_first=True)

    def forward(self, x: Any) -> Any:
        x = self.table(x.long())
        b, t, _ = x.shape
        q, k, v = (
            p.view(b, t, -1, 2).transpose(1, 2) for p in self.inputs(self.norm(x)).split([8, 4, 4], -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).reshape(b, t, 8)
        states, _ = self.gru(x + mixed @ self.back)
        return self.out(self.second(states)[1][0])


CASES: dict[str, tuple[Any, tuple[int, ...], int, int]] = {
    "lines": (Lines, (3, 9), 3, 0),
    "images": (Images, (2, 7, 6), 3, 0),
    "sequences": (Sequences, (7,), 2, 20),
}


def made(name: str) -> tuple[Any, Any]:
    make, shape, _, tokens = CASES[name]
    torch.manual_seed(1)
    net, x = make().eval(), features(shape, tokens)
    if tokens:
        x[:, 2] = 3
    return net, x


def exported(net: Any, x: Any) -> Any:
    batch = ({0: torch.export.Dim("batch")},)
    return torch.export.export(net, (torch.tensor(x),), dynamic_shapes=batch, strict=False)


@pytest.mark.parametrize("is_exported", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_logits_are_pytorchs(name: str, is_exported: bool) -> None:
    (net, x), (_, shape, classes, tokens) = made(name), CASES[name]
    source = exported(net, x) if is_exported else net
    graph = graph_of(job(lambda: from_torch(source), shape, classes, tokens))
    trained = {key for key, value in net.named_parameters() if value.requires_grad}
    assert set(graph.parameter_names) == trained
    np.testing.assert_allclose(logits(graph, x), net(torch.tensor(x)).detach(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_clipped_sums_are_those_of_pytorchs_gradients(name: str) -> None:
    (net, x), (_, shape, classes, tokens) = made(name), CASES[name]
    the_job, labels = job(lambda: from_torch(net), shape, classes, tokens), np.arange(BATCH) % classes
    found = inspect_step(the_job.model, None, x, labels, the_job.plan, WIDEST)
    totals = dict.fromkeys(found.clipped_sum, 0.0)
    for place, (row, label) in enumerate(zip(torch.tensor(x), torch.tensor(labels), strict=True)):
        net.zero_grad()
        F.cross_entropy(net(row[None]), label[None]).backward()
        parts = {
            key: value.grad.double().numpy() for key, value in net.named_parameters() if value.requires_grad
        }
        norm = np.sqrt(sum(np.square(part).sum() for part in parts.values()))
        np.testing.assert_allclose(found.per_example_norms[place], norm, rtol=1e-4)
        for key, part in parts.items():
            totals[key] += part * min(1.0, the_job.plan.clipping_norm / norm)
    for key, total in totals.items():
        np.testing.assert_allclose(found.clipped_sum[key].reshape(total.shape), total, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_they_train(name: str) -> None:
    (net, x), (_, shape, classes, tokens) = made(name), CASES[name]
    before, after = losses_of_training(job(lambda: from_torch(net), shape, classes, tokens), x, classes)
    assert after < before


def test_parameters_without_gradient_and_statistics_are_constants() -> None:
    net, x = made("images")
    for source in (net, exported(net, x)):
        graph = graph_of(job(lambda source=source: from_torch(source), (2, 7, 6), 3))
        constants = dict(zip(graph.frozen_names, graph.frozen_values, strict=True))
        assert set(constants) == {"grouped.weight", "grouped.bias", "fixed.factor", "fixed.shift"}
        np.testing.assert_array_equal(constants["grouped.weight"], net.grouped.weight.detach())
        factor = 1 / torch.sqrt(net.fixed.running_var + net.fixed.eps)
        np.testing.assert_allclose(constants["fixed.factor"], factor, rtol=1e-6)


@pytest.mark.parametrize(
    ("net", "shape", "tokens", "said"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), (1, 5, 5), 0, "batch_norm.*call eval"),
        (
            nn.ConvTranspose2d(1, 2, 3, dilation=2),
            (1, 5, 5),
            0,
            "conv_transpose2d.*with dilation has no rule",
        ),
        (nn.GRU(3, 3, bidirectional=True, batch_first=True), (2, 3), 0, "gru.*one direction only"),
        (nn.LayerNorm([2, 3]), (2, 3), 0, "layer_norm.*more than the last axis"),
    ],
)
def test_what_has_no_rule_is_named(net: Any, shape: tuple[int, ...], tokens: int, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        graph_of(job(lambda: from_torch(net), shape, 3, tokens))


def test_a_padding_row_that_is_not_zero_is_refused() -> None:
    net, _ = made("sequences")
    with torch.no_grad():
        net.table.weight[3, 1] = 1.0
    with pytest.raises(BuildError, match=r"embedding .*set row 3 of the table to zeros"):
        graph_of(job(lambda: from_torch(net), (7,), 2, 20))


def test_statistics_that_are_no_numbers_are_refused() -> None:
    net, _ = made("images")
    net.fixed.running_var[0] = -1.0
    with pytest.raises(BuildError, match=r"parameter fixed\.factor: its initial value is not finite"):
        graph_of(job(lambda: from_torch(net), (2, 7, 6), 3))
