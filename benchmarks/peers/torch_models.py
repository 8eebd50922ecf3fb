"""The six models as PyTorch modules, for every system that runs on PyTorch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from ..workloads import (
    EPSILON,
    GROUPS,
    LSTM_EMBEDDING,
    LSTM_UNITS,
    MLP_WIDTHS,
    RESNET20_BLOCKS,
    RESNET20_CHANNELS,
    TRANSFORMER_FEED_FORWARD,
    TRANSFORMER_HEADS,
    TRANSFORMER_LAYERS,
    TRANSFORMER_WIDTH,
    VGG9_CHANNELS,
    Workload,
)


def mnist_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, stride=2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def vgg9() -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for stage in VGG9_CHANNELS:
        for channels in stage:
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4096, 256), nn.ReLU(), nn.Linear(256, 10))


class Block(nn.Module):
    """Two convolutions and the shortcut around them."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(GROUPS, channels, eps=EPSILON)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(GROUPS, channels, eps=EPSILON)
        self.shortcut = nn.Conv2d(before, channels, 1, stride=stride, bias=False) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return functional.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def resnet20() -> nn.Module:
    first = RESNET20_CHANNELS[0]
    stem = [
        nn.Conv2d(3, first, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, first, eps=EPSILON),
        nn.ReLU(),
    ]
    blocks = []
    before = first
    for stage, channels in enumerate(RESNET20_CHANNELS):
        for index in range(RESNET20_BLOCKS):
            blocks.append(Block(before, channels, 2 if stage and not index else 1))
            before = channels
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def mlp() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in pairwise(MLP_WIDTHS):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class LastHidden(nn.Module):
    """Tokens to classes through the last hidden state of an LSTM."""

    def __init__(self, vocabulary: int, classes: int, lstm: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, LSTM_EMBEDDING)
        self.lstm = lstm(LSTM_EMBEDDING, LSTM_UNITS, batch_first=True)
        self.output = nn.Linear(LSTM_UNITS, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(self.embedding(tokens))
        return self.output(hidden[:, -1])


class Layer(nn.Module):
    """A pre-norm transformer block of linear layers, which every engine of per-example gradients knows."""

    def __init__(self) -> None:
        super().__init__()
        width = TRANSFORMER_WIDTH
        self.attention_norm = nn.LayerNorm(width, eps=EPSILON)
        self.projections = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=EPSILON)
        self.wide = nn.Linear(width, TRANSFORMER_FEED_FORWARD)
        self.narrow = nn.Linear(TRANSFORMER_FEED_FORWARD, width)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        projected = self.projections(x).view(batch, length, 3, TRANSFORMER_HEADS, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.attended(mixed.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.narrow(functional.gelu(self.wide(self.feed_forward_norm(x))))


class Transformer(nn.Module):
    """Tokens to classes through four blocks and the mean over positions."""

    def __init__(self, vocabulary: int, length: int, classes: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, TRANSFORMER_WIDTH)
        self.positions = nn.Embedding(length, TRANSFORMER_WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(TRANSFORMER_LAYERS)))
        self.output = nn.Linear(TRANSFORMER_WIDTH, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        # One row of positions for each example: per-example gradients need a batch dimension.
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape).contiguous()
        return self.output(self.layers(self.tokens(tokens) + self.positions(positions)).mean(1))


def build(workload: Workload, lstm: type[nn.Module] = nn.LSTM) -> nn.Module:
    """A workload's model with PyTorch's own initial values; ``lstm`` is the class of its LSTM.

    Models of images are channels-last: no engine on PyTorch is measurably slower that way, some are faster by
    a third.
    """
    if workload.model == "lstm":
        return LastHidden(workload.vocabulary, workload.classes, lstm)
    if workload.model == "transformer":
        return Transformer(workload.vocabulary, workload.shape[0], workload.classes)
    model = {"mnist_cnn": mnist_cnn, "vgg9": vgg9, "resnet20": resnet20, "mlp": mlp}[workload.model]()
    return model.to(memory_format=torch.channels_last) if workload.kind == "image" else model


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def dataset(workload: Workload) -> tuple[torch.Tensor, torch.Tensor]:
    """Records made up from a fixed seed, and their classes; images are channels-last in memory."""
    generator = torch.Generator().manual_seed(0)
    shape = (workload.dataset_size, *workload.shape)
    if workload.kind == "tokens":
        records = torch.randint(workload.vocabulary, shape, generator=generator)
    else:
        records = torch.rand(shape, generator=generator) * 2 - 1
    if workload.kind == "image":
        records = records.contiguous(memory_format=torch.channels_last)
    return records, torch.randint(workload.classes, (workload.dataset_size,), generator=generator)
