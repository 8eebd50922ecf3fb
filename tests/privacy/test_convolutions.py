"""Convolutions with groups and dilation, along one axis, and transposed, against the oracle."""

from __future__ import annotations

from typing import Any

import pytest
from families import family

from myelin.model import nn

pytestmark = pytest.mark.numeric


class Grouped(nn.Module):
    """Dilated, depthwise with two outputs a channel, dilated in groups, and a plain one after."""

    def __init__(self) -> None:
        self.first = nn.Conv2D(3, 4, 3, padding=2, dilation=2)
        self.depthwise = nn.Conv2D(4, 8, 3, padding=1, groups=4)
        self.both = nn.Conv2D(8, 6, 2, stride=2, padding=1, dilation=3, groups=2, bias=False)
        self.last, self.output = nn.Conv2D(6, 5, 2), nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        x = nn.relu(self.depthwise(nn.tanh(self.first(x))))
        return self.output(nn.global_avg_pool2d(nn.tanh(self.last(self.both(x)))))


class Transposed(nn.Module):
    """Transposed convolutions after and before plain ones: with stride, groups, cut borders."""

    def __init__(self) -> None:
        self.down = nn.Conv2D(2, 4, 3, stride=2, padding=1)
        self.first = nn.ConvTranspose2D(4, 6, 3, stride=2, padding=1, output_padding=1)
        self.second = nn.ConvTranspose2D(6, 4, (2, 3), stride=(1, 2), padding=(0, 1), groups=2, bias=False)
        self.output = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        x = self.second(nn.relu(self.first(nn.relu(self.down(x)))))
        return self.output(nn.global_avg_pool2d(nn.tanh(x)))


class Lines(nn.Module):
    """Along one axis: causal-like dilation, depthwise, transposed; one of them used twice."""

    def __init__(self) -> None:
        self.first = nn.Conv1D(3, 4, 3, padding=4, dilation=2)
        self.depthwise = nn.Conv1D(4, 4, 3, padding=1, groups=4, bias=False)
        self.up = nn.ConvTranspose1D(4, 5, 3, stride=2, padding=1, output_padding=1)
        self.output = nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        x = nn.relu(self.first(x))
        x = self.depthwise(nn.tanh(self.depthwise(x)))
        return self.output(nn.mean(nn.tanh(self.up(x)), 2))


class Wide(nn.Module):
    """3×3, stride 1, and channels enough for 16 products in place of 36: some may have them, some not."""

    def __init__(self) -> None:
        self.first = nn.Conv2D(2, 16, 1)
        self.transposed = nn.ConvTranspose2D(16, 12, 3, padding=1)
        self.grown = nn.ConvTranspose2D(12, 16, 3)
        self.shrunk = nn.ConvTranspose2D(16, 16, 3, padding=2, bias=False)
        self.grouped = nn.Conv2D(16, 16, 3, padding=1, groups=2)
        self.dilated = nn.Conv2D(16, 16, 3, padding=2, dilation=2)
        self.output = nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        x = nn.tanh(self.transposed(nn.tanh(self.first(x))))
        x = nn.tanh(self.shrunk(nn.relu(self.grown(x))))
        x = nn.tanh(self.dilated(nn.relu(self.grouped(x))))
        return self.output(nn.global_avg_pool2d(x))


class Strange(nn.Module):
    """Wide ones of 3×3 that are grouped or dilated only."""

    def __init__(self) -> None:
        self.first = nn.Conv2D(2, 16, 1)
        self.grouped = nn.Conv2D(16, 16, 3, padding=1, groups=2)
        self.transposed = nn.ConvTranspose2D(16, 16, 3, padding=1, groups=4)
        self.dilated = nn.Conv2D(16, 16, 3, padding=2, dilation=2)
        self.output = nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        x = nn.relu(self.transposed(nn.relu(self.grouped(nn.relu(self.first(x))))))
        return self.output(nn.global_avg_pool2d(nn.relu(self.dilated(x))))


def test_only_ungrouped_undilated_convolutions_take_fewer_products() -> None:
    wide, strange = (family(model, (2, 8, 6), 3) for model in (Wide, Strange))
    wide.check()
    strange.check()
    assert sum("winograd" in kernel for kernel in wide.program.scheduled.kernels) >= 6
    assert not [kernel for kernel in strange.program.scheduled.kernels if "winograd" in kernel]


@pytest.mark.parametrize(("model", "shape"), [(Grouped, (3, 7, 6)), (Transposed, (2, 6, 5)), (Lines, (3, 9))])
def test_norms_and_sums_agree_with_the_oracle(model: type[nn.Module], shape: tuple[int, ...]) -> None:
    family(model, shape, 3).check()
