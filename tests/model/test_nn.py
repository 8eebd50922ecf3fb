"""Layers say what they take: what does not fit is refused when the model is made or traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("tvm")

from myelin.errors import BuildError
from myelin.graph import forward_function
from myelin.model import nn


class Of(nn.Module):
    """One layer, then whatever makes logits of it."""

    def __init__(self, layer: Callable[[], Any], after: Callable[[Any], Any] = nn.flatten) -> None:
        self.layer, self.after = layer(), after

    def forward(self, features: Any) -> Any:
        return self.after(self.layer(features))


def shape_of(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(size) for size in forward_function(model, 2, shape, None)[0].ret_ty.shape.values)


FITTING: dict[str, tuple[Callable[[], Any], tuple[int, ...], int]] = {
    "layer norm": (lambda: nn.LayerNorm(6), (3, 6), 18),
    "group norm": (lambda: nn.GroupNorm(2, 4), (4, 3, 2), 24),
    "embedding": (lambda: nn.Embedding(7, 5), (3,), 15),
    "position": (lambda: nn.Position(3, 5), (3, 5), 15),
    "attention": (lambda: nn.MultiHeadAttention(6, 3), (4, 6), 24),
    "lstm": (lambda: nn.LSTM(3, 5), (4, 3), 20),
}


@pytest.mark.parametrize("name", FITTING)
def test_shapes_of_results(name: str) -> None:
    layer, shape, features = FITTING[name]
    assert shape_of(Of(layer), shape) == (2, features)


REFUSED: dict[str, tuple[Callable[[], Any], tuple[int, ...], str]] = {
    "width": (lambda: nn.LayerNorm(6), (3, 5), r"nn\.LayerNorm: its input: expected \[batch, …, 6\]"),
    "channels": (lambda: nn.GroupNorm(2, 4), (6, 3, 2), r"nn\.GroupNorm: its input: expected \[batch, 4,"),
    "groups": (lambda: nn.GroupNorm(3, 4), (4, 3, 2), r"nn\.GroupNorm: channels: expected a multiple of 3"),
    "tokens": (lambda: nn.Embedding(7, 5), (3, 2), r"nn\.Embedding: its input: expected \[batch, length\]"),
    "vocabulary": (lambda: nn.Embedding(2**25, 1), (3,), r"vocabulary: expected 1 to 2\*\*24, got 33554432"),
    "place": (lambda: nn.Position(3, 5), (5, 3), r"nn\.Position: its input: expected \[batch, \*\(3, 5\)\]"),
    "place of a vector": (
        lambda: nn.Position(3),
        (3,),
        r"nn\.Position: its shape: expected at least two axes",
    ),
    "heads": (lambda: nn.MultiHeadAttention(6, 4), (4, 6), "width: expected a multiple of 4, got 6"),
    "a vector to attend": (lambda: nn.MultiHeadAttention(6, 2), (6,), r"expected \[batch, length, 6\]"),
    "a vector to recur": (
        lambda: nn.LSTM(3, 5),
        (3,),
        r"nn\.LSTM: its input: expected \[batch, length, inputs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named(name: str) -> None:
    layer, shape, said = REFUSED[name]
    with pytest.raises(BuildError, match=said):
        shape_of(Of(layer), shape)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda x: nn.mean(x, 0), r"nn\.mean: axis: expected axes from 1 to 2 \(0 is the batch\), got 0"),
        (lambda x: nn.mean(x, (1, 3)), r"nn\.mean: axis: expected axes from 1 to 2"),
        (lambda x: nn.step(x, 4), r"nn\.step: expected a position of .*, got 4 of \[2, 4, 3\]"),
        (lambda x: nn.gelu(x, approximate="erf"), r'nn\.gelu: approximate: expected "none" or "tanh"'),
    ],
)
def test_functions_name_what_does_not_fit(after: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(BuildError, match=said):
        shape_of(Of(lambda: nn.Linear(3, 3), after), (4, 3))


def test_positions_count_from_both_ends() -> None:
    first = Of(lambda: nn.Linear(3, 3), lambda x: nn.step(x, -4))
    second = Of(lambda: nn.Linear(3, 3), lambda x: nn.step(x, 0))
    texts = [forward_function(model, 2, (4, 3), None)[0].script() for model in (first, second)]
    assert texts[0] == texts[1]
