"""PyTorch's door: modules and exported programs give PyTorch's logits; what has no rule is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")
pytest.importorskip("torch", reason="PyTorch is not in the default environment: myelin[torch]")

import torch
from doors import features, graph_of, job, logits
from torch import nn
from torch.nn import functional as F  # noqa: N812  (PyTorch's own name for it)

from myelin.errors import BuildError
from myelin.model import from_torch


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, 1, 1), nn.GroupNorm(2, 4)
        self.down, self.out = nn.Conv2d(4, 8, 3, 2, 1), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        return self.out(F.adaptive_avg_pool2d(torch.tanh(self.down(x)), 1).flatten(1) * 2.0 - 1.0)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.place = nn.Embedding(20, 8), nn.Parameter(torch.zeros(6, 8))
        self.norm, self.qkv, self.back = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = self.table(x.long()) + self.place
        b, t, w = x.shape
        q, k, v = (p.view(b, t, 2, 4).transpose(1, 2) for p in self.qkv(self.norm(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, w)
        return self.out(F.gelu(x + self.back(mixed)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(20, 6), nn.LSTM(6, 5, num_layers=2, batch_first=True)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        _, (hidden, _) = self.lstm(self.table(x.long()))
        return self.out(hidden[-1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.out(self.layer(x).mean(dim=1))


CASES: dict[str, tuple[Any, tuple[int, ...], int, int]] = {
    "image": (Image, (1, 8, 8), 3, 0),
    "attention": (Attention, (6,), 3, 20),
    "recurrent": (Recurrent, (7,), 2, 20),
    "encoder": (Encoder, (6, 8), 3, 0),
}


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_logits_are_pytorchs(name: str, exported: bool) -> None:
    make, shape, classes, tokens = CASES[name]
    torch.manual_seed(1)
    net, x = make().eval(), features(shape, tokens)
    source = net
    if exported:
        batch = ({0: torch.export.Dim("batch")},)
        source = torch.export.export(net, (torch.tensor(x),), dynamic_shapes=batch, strict=False)
    graph = graph_of(job(lambda: from_torch(source), shape, classes, tokens))
    assert set(graph.parameter_names) == {name for name, _ in net.named_parameters()}
    want = net(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(logits(graph, x), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "batch_norm.*mixes the examples"),
        (nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Dropout1d(0.5), nn.Flatten()), r"feature_dropout"),
        (nn.Sequential(nn.Linear(3, 3), nn.AlphaDropout(0.5)), r"alpha_dropout"),
        (nn.Sequential(nn.Linear(3, 3), nn.Softsign()), "softsign|abs"),
        (nn.Linear(3, 3).double(), "expected dtype float32, got float64"),
    ],
)
def test_what_has_no_rule_is_named(net: Any, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        graph_of(job(lambda: from_torch(net.train()), (3,), 3))


def test_dropout_is_trained_in_train_mode_and_left_out_in_eval_mode() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.lstm = nn.Embedding(9, 6), nn.LSTM(6, 5, 3, batch_first=True, dropout=0.3)
            self.drop, self.output = nn.Dropout(0.25, inplace=True), nn.Linear(5, 3)

        def forward(self, tokens: Any) -> Any:
            return self.output(self.drop(self.lstm(self.table(tokens.long()))[0].mean(1)))

    torch.manual_seed(2)
    net, x = Net(), features((6,), 9)
    trained = graph_of(job(lambda: from_torch(net.train()), (6,), 3, 9))
    assert [layer.shape for layer in trained.dropout] == [(6, 5), (6, 5), (5,)]
    assert [layer.threshold for layer in trained.dropout] == [*[round(0.7 * 2**32)] * 2, 3 << 30]
    # What serves is the model without, in either mode.
    want = net.eval()(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(logits(trained, x), want, rtol=0, atol=2e-6)
    assert not graph_of(job(lambda: from_torch(net.eval()), (6,), 3, 9)).dropout


def test_dropout_of_attentions_weights_is_trained_in_train_mode() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = nn.MultiheadAttention(8, 2, dropout=0.25, batch_first=True)
            self.inputs, self.output = nn.Linear(8, 16), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            x = x + self.whole(x, x, x, need_weights=False)[0]
            q, k, v = (
                part.unflatten(2, (-1, 2)).transpose(1, 2) for part in self.inputs(x).split([8, 4, 4], -1)
            )
            rate = 0.5 if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, enable_gqa=True)
            return self.output(mixed.transpose(1, 2).flatten(2).mean(1))

    torch.manual_seed(2)
    net, x = Net(), features((6, 8))
    trained = graph_of(job(lambda: from_torch(net.train()), (6, 8), 3))
    assert [layer.shape for layer in trained.dropout] == [(2, 6, 6), (2, 12, 6)]
    assert [layer.threshold for layer in trained.dropout] == [3 << 30, 1 << 31]
    want = net.eval()(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(logits(trained, x), want, rtol=0, atol=2e-6)


def test_a_program_for_another_batch_is_named() -> None:
    program = torch.export.export(nn.Linear(3, 3), (torch.zeros(2, 3),))
    with pytest.raises(BuildError, match=r"exported for features \[2, 3\], but a physical batch is \[4, 3\]"):
        graph_of(job(lambda: from_torch(program), (3,), 3))


def test_something_else_is_named() -> None:
    with pytest.raises(BuildError, match=r"expected a torch\.nn\.Module.*got int"):
        from_torch(3)
