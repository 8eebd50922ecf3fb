"""The zoo: each model, small, against the float64 oracle; it trains privately; its namesake's size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from doors import BATCH, features, graph_of, job, losses_of_training
from families import family
from small_zoo import SMALL, transformer

from myelin.errors import BuildError
from myelin.graph import forward_function
from myelin.model import nn
from myelin.privacy import inspect_step
from myelin.privacy.oracle import clipped_sums
from myelin.zoo import (
    Lstm,
    MnistCnn,
    Perceptron,
    ResNet,
    Transformer,
    Vgg,
    VisionTransformer,
    WideResNet,
    add_adapters,
)


@pytest.mark.parametrize(
    ("make", "shape", "parameters"),
    [
        (MnistCnn, (1, 28, 28), 26_010),
        (Vgg, (3, 32, 32), 2_786_890),
        (ResNet, (3, 32, 32), 272_282),
        (WideResNet, (3, 32, 32), 2_748_890),
        (Perceptron, (784,), 1_863_690),
        (Lstm, (256,), 936_706),
        (Transformer, (128,), 5_291_530),
        (VisionTransformer, (3, 32, 32), 2_693_194),
    ],
)
def test_sizes_are_the_namesakes(make: Callable[[], Any], shape: tuple[int, ...], parameters: int) -> None:
    model = make()
    assert sum(math.prod(map(int, p.shape)) for _, p in model.named_parameters()) == parameters
    forward, _ = forward_function(model, 2, shape, None)
    assert int(forward.ret_ty.shape.values[0]) == 2


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["mnist_cnn_tanh", "wrn16_4", "vit", "adapters"])
def test_everything_that_holds_for_any_model_holds(name: str) -> None:
    """The other six are held by tests/privacy/test_workloads.py."""
    small = SMALL[name]
    family(small.make, small.shape, small.classes, small.vocabulary).check()


@pytest.mark.numeric
@pytest.mark.parametrize("name", SMALL)
def test_one_private_step_is_the_oracles(name: str) -> None:
    """As a user sees it, with the initial values."""
    small = SMALL[name]
    made = job(small.make, small.shape, small.classes, small.vocabulary)
    graph, x = graph_of(made), features(small.shape, small.vocabulary)
    y = np.arange(BATCH, dtype=np.int32) % small.classes
    found = inspect_step(small.make, graph.parameter_values, x, y, made.plan)
    oracle = clipped_sums(
        graph.module["forward"],
        graph.parameter_values,
        x,
        y,
        np.ones(BATCH),
        made.plan.clipping_norm,
        frozen=graph.frozen_values,
    )
    ratio = found.per_example_norms / oracle.norms
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.001
    for layer, expected in zip(graph.layers, oracle.sums, strict=True):
        assert np.linalg.norm(found.clipped_sum[layer.name] - expected) <= 1e-5 * made.plan.clipping_norm


@pytest.mark.numeric
@pytest.mark.parametrize("name", SMALL)
def test_it_trains(name: str) -> None:
    small = SMALL[name]
    made = job(small.make, small.shape, small.classes, small.vocabulary)
    before, after = losses_of_training(made, features(small.shape, small.vocabulary), small.classes)
    assert after < before - 0.01


def test_adapters_leave_the_rest_as_it_is() -> None:
    graph = graph_of(job(SMALL["adapters"].make, (7,), 4, 19))
    parts = [f"layer{n}.attention.{side}" for n in range(2) for side in ("inputs", "outputs")]
    adapters = [f"{part}.{factor}" for part in parts for factor in ("down", "up")]
    assert sorted(graph.parameter_names) == sorted([*adapters, "output.weight", "output.bias"])
    whole = graph_of(job(transformer, (7,), 4, 19))
    assert len(graph.frozen_values) == len(whole.parameter_values) - 2


def test_a_model_without_attention_or_head_is_refused() -> None:
    with pytest.raises(BuildError, match=r"Perceptron has no nn\.MultiHeadAttention"):
        add_adapters(Perceptron((3, 2)), 1, train=())
    with pytest.raises(BuildError, match="Transformer has no layer 'head'"):
        add_adapters(transformer(), 1, train=("head",))
    with pytest.raises(BuildError, match="Transformer has adapters already"):
        add_adapters(add_adapters(transformer(), 1), 1)


def test_an_attention_at_two_places_has_one_adapter() -> None:
    model = transformer()
    model.layer1.attention = model.layer0.attention
    add_adapters(model, 2)
    assert isinstance(model.layer0.attention.inputs.base, nn.Linear)
    assert model.layer1.attention.inputs is model.layer0.attention.inputs


@pytest.mark.parametrize("make", [lambda: MnistCnn(2, "sine"), lambda: Perceptron((3, 2), "sine")])
def test_other_activations_are_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(BuildError, match='activation: expected "relu" or "tanh", got \'sine\''):
        make()


def test_images_that_patches_do_not_tile_are_refused() -> None:
    with pytest.raises(BuildError, match="size: expected a multiple of 3, got 8"):
        VisionTransformer(8, 3)
