"""The demos' networks in plain NumPy: what the researcher does with the model once it is opened.

Nothing of Myelin's compiler or runtime is used, so a wrong model cannot hide behind the code that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["accuracy", "convolutional", "perceptron"]

Array = NDArray[np.float32]


def perceptron(parameters: Mapping[str, Array], features: Array) -> Array:
    """Logits `[n, classes]` of one hidden tanh layer. `features` `[n, d]`, as the model sees them."""
    p = parameters
    hidden = np.tanh(features @ p["hidden.weight"].T + p["hidden.bias"])
    logits: Array = hidden @ p["output.weight"].T + p["output.bias"]
    return logits


def convolutional(parameters: Mapping[str, Array], features: Array) -> Array:
    """Logits `[n, 10]` of the tutorials' MNIST network. `features` `[n, 1, 28, 28]`, as the model sees."""
    p = parameters
    x = _pool(np.maximum(_convolve(features, p["conv1.weight"], p["conv1.bias"], 2, 3), 0))
    x = _pool(np.maximum(_convolve(x, p["conv2.weight"], p["conv2.bias"], 2, 0), 0))
    hidden = np.maximum(x.reshape(len(x), -1) @ p["hidden.weight"].T + p["hidden.bias"], 0)
    logits: Array = hidden @ p["output.weight"].T + p["output.bias"]
    return logits


def accuracy(logits: Array, labels: NDArray[Any]) -> float:
    """The share of examples whose largest logit is their label's."""
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def _convolve(x: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    size = weight.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    sums: Array = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True) + bias.reshape(1, -1, 1, 1)
    return sums


def _pool(x: Array) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(2, 3))
    pooled: Array = windows.max(axis=(4, 5))
    return pooled
