"""The oracle's GRU on one example, in float64, one step after the other, as its definition has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

__all__ = ["gru"]

Array = npt.NDArray[np.float64]


def _logistic(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def gru(
    _call: relax.Call, arguments: list[Array]
) -> tuple[tuple[Array, ...], Callable[[Any], Sequence[Any]]]:
    """``gates, added [1, t, 3h], weight [3h, h]`` to hidden, previous and activations, and the pullback."""
    gates, added, weight = arguments
    steps, states = gates.shape[1], gates.shape[2] // 3
    hidden, active = np.zeros((steps + 1, states)), np.zeros((steps, 4, states))
    for t in range(steps):
        p_r, p_z, p_n = (added[0, t] + weight @ hidden[t]).reshape(3, -1)
        x_r, x_z, x_n = gates[0, t].reshape(3, -1)
        r, z = _logistic(x_r + p_r), _logistic(x_z + p_z)
        n = np.tanh(x_n + r * p_n)
        active[t] = r, z, n, p_n
        hidden[t + 1] = (1 - z) * n + z * hidden[t]

    def pullback(dy: tuple[Array, ...]) -> tuple[Array, Array, Array]:
        of_gates, of_added = np.zeros_like(gates), np.zeros_like(added)
        of_weight, carried = np.zeros_like(weight), np.zeros(states)
        for t in reversed(range(steps)):
            r, z, n, p_n = active[t]
            dh = dy[0][0, t] + carried
            of_n = dh * (1 - z) * (1 - n**2)
            of_z = dh * (hidden[t] - n) * z * (1 - z)
            of_r = of_n * p_n * r * (1 - r)
            of_gates[0, t] = np.concatenate([of_r, of_z, of_n])
            of_added[0, t] = np.concatenate([of_r, of_z, of_n * r])
            of_weight += np.outer(of_added[0, t], hidden[t])
            carried = dh * z + weight.T @ of_added[0, t]
        return of_gates, of_added, of_weight

    return (hidden[None, 1:], hidden[None, :-1], active.reshape(1, steps, -1)), pullback
