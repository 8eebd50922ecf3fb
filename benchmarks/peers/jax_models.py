"""The six models as pure JAX functions: images are NHWC, kernels HWIO, linear weights (in, out).

A model is its parameters, a tree of arrays, and ``forward(parameters, records) → logits``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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

Tree = Any
Forward = Callable[[Tree, jax.Array], jax.Array]


class Initial:
    """Initial values from one fixed seed."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def uniform(self, *shape: int, fan_in: int) -> jax.Array:
        bound = 1 / math.sqrt(fan_in)
        return jnp.asarray(self.generator.uniform(-bound, bound, shape), jnp.float32)

    def linear(self, before: int, after: int) -> Tree:
        return {
            "w": self.uniform(before, after, fan_in=before),
            "b": self.uniform(after, fan_in=before),
        }

    def convolution(self, before: int, after: int, size: int, bias: bool = True) -> Tree:
        fan_in = before * size * size
        weight = {"w": self.uniform(size, size, before, after, fan_in=fan_in)}
        return weight | ({"b": self.uniform(after, fan_in=fan_in)} if bias else {})

    def norm(self, channels: int) -> Tree:
        return {"scale": jnp.ones(channels), "shift": jnp.zeros(channels)}

    def embedding(self, rows: int, width: int) -> jax.Array:
        return jnp.asarray(self.generator.standard_normal((rows, width)), jnp.float32)


def linear(p: Tree, x: jax.Array) -> jax.Array:
    return x @ p["w"] + p["b"]


def convolution(p: Tree, x: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    y = lax.conv_general_dilated(
        x, p["w"], (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + p["b"] if "b" in p else y


def max_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), "VALID")


def normalized(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    centred = x - x.mean(axes, keepdims=True)
    return centred * lax.rsqrt((centred * centred).mean(axes, keepdims=True) + EPSILON)


def group_norm(p: Tree, x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    grouped = x.reshape(batch, height, width, GROUPS, channels // GROUPS)
    return normalized(grouped, (1, 2, 4)).reshape(x.shape) * p["scale"] + p["shift"]


def layer_norm(p: Tree, x: jax.Array) -> jax.Array:
    return normalized(x, (-1,)) * p["scale"] + p["shift"]


def flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def mnist_cnn(init: Initial) -> tuple[Tree, Forward]:
    parameters = {
        "first": init.convolution(1, 16, 8),
        "second": init.convolution(16, 32, 4),
        "hidden": init.linear(512, 32),
        "output": init.linear(32, 10),
    }

    def forward(p: Tree, x: jax.Array) -> jax.Array:
        x = max_pool(jax.nn.relu(convolution(p["first"], x, 2, 3)), 2, 1)
        x = max_pool(jax.nn.relu(convolution(p["second"], x, 2)), 2, 1)
        return linear(p["output"], jax.nn.relu(linear(p["hidden"], flat(x))))

    return parameters, forward


def vgg9(init: Initial) -> tuple[Tree, Forward]:
    stages, before = [], 3
    for stage in VGG9_CHANNELS:
        stages.append([])
        for channels in stage:
            stages[-1].append(init.convolution(before, channels, 3))
            before = channels
    parameters = {"stages": stages, "hidden": init.linear(4096, 256), "output": init.linear(256, 10)}

    def forward(p: Tree, x: jax.Array) -> jax.Array:
        for stage in p["stages"]:
            for layer in stage:
                x = jax.nn.relu(convolution(layer, x, 1, 1))
            x = max_pool(x, 2, 2)
        return linear(p["output"], jax.nn.relu(linear(p["hidden"], flat(x))))

    return parameters, forward


def resnet20(init: Initial) -> tuple[Tree, Forward]:
    first = RESNET20_CHANNELS[0]
    blocks, strides, before = [], [], first
    for stage, channels in enumerate(RESNET20_CHANNELS):
        for index in range(RESNET20_BLOCKS):
            strides.append(2 if stage and not index else 1)
            block = {
                "first": init.convolution(before, channels, 3, bias=False),
                "first_norm": init.norm(channels),
                "second": init.convolution(channels, channels, 3, bias=False),
                "second_norm": init.norm(channels),
            }
            if strides[-1] > 1:
                block["shortcut"] = init.convolution(before, channels, 1, bias=False)
            blocks.append(block)
            before = channels
    stem = {"first": init.convolution(3, first, 3, bias=False), "norm": init.norm(first)}
    parameters = {"stem": stem, "blocks": blocks, "output": init.linear(before, 10)}

    def forward(p: Tree, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(group_norm(p["stem"]["norm"], convolution(p["stem"]["first"], x, 1, 1)))
        for block, stride in zip(p["blocks"], strides, strict=True):
            y = jax.nn.relu(group_norm(block["first_norm"], convolution(block["first"], x, stride, 1)))
            y = group_norm(block["second_norm"], convolution(block["second"], y, 1, 1))
            x = jax.nn.relu(y + (convolution(block["shortcut"], x, stride) if stride > 1 else x))
        return linear(p["output"], x.mean((1, 2)))

    return parameters, forward


def mlp(init: Initial) -> tuple[Tree, Forward]:
    parameters = [init.linear(a, b) for a, b in pairwise(MLP_WIDTHS)]

    def forward(p: Tree, x: jax.Array) -> jax.Array:
        for layer in p[:-1]:
            x = jax.nn.relu(linear(layer, x))
        return linear(p[-1], x)

    return parameters, forward


def lstm(init: Initial, vocabulary: int, classes: int) -> tuple[Tree, Forward]:
    gates = 4 * LSTM_UNITS
    parameters = {
        "embedding": init.embedding(vocabulary, LSTM_EMBEDDING),
        "inputs": {
            "w": init.uniform(LSTM_EMBEDDING, gates, fan_in=LSTM_UNITS),
            "b": init.uniform(gates, fan_in=LSTM_UNITS),
        },
        "hidden": {
            "w": init.uniform(LSTM_UNITS, gates, fan_in=LSTM_UNITS),
            "b": init.uniform(gates, fan_in=LSTM_UNITS),
        },
        "output": init.linear(LSTM_UNITS, classes),
    }

    def forward(p: Tree, tokens: jax.Array) -> jax.Array:
        # The input's share of the gates is one product over all positions, outside the recurrence.
        inputs = linear(p["inputs"], p["embedding"][tokens])

        def cell(state: tuple[jax.Array, jax.Array], given: jax.Array) -> tuple[Tree, None]:
            hidden, memory = state
            into, forget, candidate, out = jnp.split(given + linear(p["hidden"], hidden), 4, -1)
            memory = jax.nn.sigmoid(forget) * memory + jax.nn.sigmoid(into) * jnp.tanh(candidate)
            return (jax.nn.sigmoid(out) * jnp.tanh(memory), memory), None

        zeros = jnp.zeros((tokens.shape[0], LSTM_UNITS))
        (hidden, _), _ = lax.scan(cell, (zeros, zeros), inputs.swapaxes(0, 1))
        return linear(p["output"], hidden)

    return parameters, forward


def transformer(init: Initial, vocabulary: int, length: int, classes: int) -> tuple[Tree, Forward]:
    width = TRANSFORMER_WIDTH
    layers = [
        {
            "attention_norm": init.norm(width),
            "projections": init.linear(width, 3 * width),
            "attended": init.linear(width, width),
            "feed_forward_norm": init.norm(width),
            "wide": init.linear(width, TRANSFORMER_FEED_FORWARD),
            "narrow": init.linear(TRANSFORMER_FEED_FORWARD, width),
        }
        for _ in range(TRANSFORMER_LAYERS)
    ]
    parameters = {
        "tokens": init.embedding(vocabulary, width),
        "positions": init.embedding(length, width),
        "layers": layers,
        "output": init.linear(width, classes),
    }

    def attention(p: Tree, x: jax.Array) -> jax.Array:
        batch, positions, _ = x.shape
        projected = linear(p["projections"], x).reshape(batch, positions, 3, TRANSFORMER_HEADS, -1)
        query, key, value = (projected[:, :, i] for i in range(3))
        mixed = jax.nn.dot_product_attention(query, key, value)
        return linear(p["attended"], mixed.reshape(x.shape))

    def forward(p: Tree, tokens: jax.Array) -> jax.Array:
        x = p["tokens"][tokens] + p["positions"]
        for layer in p["layers"]:
            x = x + attention(layer, layer_norm(layer["attention_norm"], x))
            wide = linear(layer["wide"], layer_norm(layer["feed_forward_norm"], x))
            x = x + linear(layer["narrow"], jax.nn.gelu(wide, approximate=False))
        return linear(p["output"], x.mean(1))

    return parameters, forward


def build(workload: Workload) -> tuple[Tree, Forward]:
    """A workload's parameters and forward pass."""
    init = Initial()
    if workload.model == "lstm":
        return lstm(init, workload.vocabulary, workload.classes)
    if workload.model == "transformer":
        return transformer(init, workload.vocabulary, workload.shape[0], workload.classes)
    return {"mnist_cnn": mnist_cnn, "vgg9": vgg9, "resnet20": resnet20, "mlp": mlp}[workload.model](init)


def cross_entropy(forward: Forward, parameters: Tree, records: jax.Array, classes: jax.Array) -> jax.Array:
    """Mean over the batch of softmax cross-entropy."""
    scores = jax.nn.log_softmax(forward(parameters, records))
    return -jnp.take_along_axis(scores, classes[:, None], 1).mean()


def parameter_count(parameters: Tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


def dataset(workload: Workload) -> tuple[jax.Array, jax.Array]:
    """Records made up from a fixed seed, and their classes; images are NHWC."""
    generator = np.random.default_rng(0)
    shape = workload.shape
    if workload.kind == "image":
        shape = (*shape[1:], shape[0])
    shape = (workload.dataset_size, *shape)
    if workload.kind == "tokens":
        records = generator.integers(workload.vocabulary, size=shape, dtype=np.int32)
    else:
        records = generator.uniform(-1, 1, shape).astype(np.float32)
    classes = generator.integers(workload.classes, size=workload.dataset_size, dtype=np.int32)
    return jnp.asarray(records), jnp.asarray(classes)
