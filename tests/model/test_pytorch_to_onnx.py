"""Models that PyTorch's exporter wrote as ONNX files give PyTorch's logits through ONNX's door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")
pytest.importorskip("onnx")
pytest.importorskip("torch", reason="PyTorch is not in the default environment: myelin[torch]")

import torch
from doors import features, graph_of, job, logits, losses_of_training
from torch import nn

from myelin.model import from_onnx

pytestmark = pytest.mark.numeric


class Encoder(nn.Module):
    def __init__(self, batch_first: bool = True, norm_first: bool = True) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            8, 2, 16, activation="gelu", batch_first=batch_first, norm_first=norm_first
        )
        self.turns, self.out = not batch_first, nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = self.layer(x.transpose(0, 1)).transpose(0, 1) if self.turns else self.layer(x)
        return self.out(x.mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.conv, self.own = nn.Conv1d(3, 6, 3, padding=2, dilation=2), nn.InstanceNorm1d(6, affine=True)
        self.fixed, self.up = nn.BatchNorm1d(6), nn.ConvTranspose1d(6, 4, 3, 2, 1, 1)
        self.groups, self.silu = nn.GroupNorm(2, 4), nn.SiLU()
        self.layers, self.out = kind(4, 5, num_layers=2, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        x = self.groups(self.silu(self.up(self.fixed(self.own(self.conv(x))))))
        states, _ = self.layers(x.transpose(1, 2))
        return self.out(states[:, -1])


CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "encoder": (Encoder, (6, 8)),
    "encoder, norms after": (lambda: Encoder(norm_first=False), (6, 8)),
    "encoder, positions first": (lambda: Encoder(False), (6, 8)),
    "gru": (lambda: Recurrent(nn.GRU), (3, 9)),
    "lstm": (lambda: Recurrent(nn.LSTM), (3, 9)),
}


@pytest.mark.parametrize("version", [17, 20])
@pytest.mark.parametrize("name", CASES)
def test_logits_are_pytorchs_and_it_trains(name: str, version: int, tmp_path: Path) -> None:
    make, shape = CASES[name]
    torch.manual_seed(1)
    net, x, path = make().eval(), features(shape), tmp_path / "net.onnx"
    torch.onnx.export(
        net,
        (torch.tensor(x[:2]),),
        str(path),
        dynamo=False,
        opset_version=version,
        input_names=["x"],
        dynamic_axes={"x": {0: "batch"}},
    )
    made = job(lambda: from_onnx(path), shape, 3)
    graph = graph_of(made)
    np.testing.assert_allclose(logits(graph, x), net(torch.tensor(x)).detach(), rtol=0, atol=2e-6)
    assert sum(value.size for value in graph.parameter_values) == sum(p.numel() for p in net.parameters())
    before, after = losses_of_training(made, x, 3)
    assert after < before
