"""The LSTM's kernels against a float64 loop over positions, on odd sizes and both targets."""

import numpy as np
import pytest
from kernel_runs import TARGETS, WIDEST, close, normal, run, the_same

from myelin.schedule import kernels
from myelin.schedule.kernels import Factor

SIZES = [(1, 1, 1), (3, 5, 17), (17, 3, 33), (2, 9, 129), (23, 3, 130)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def forward(gates, weight):
    """Hidden, previous, cells [m, T, h] and activations [m, T, 4h]; weight [4h, h]."""
    m, steps, width = gates.shape
    h = width // 4
    hidden, previous, cells = (np.zeros((m, steps, h)) for _ in range(3))
    activations = np.zeros(gates.shape)
    state, cell = np.zeros((m, h)), np.zeros((m, h))
    for t in range(steps):
        previous[:, t] = state
        i, f, g, o = np.split(gates[:, t] + state @ weight.T, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        cell = f * cell + i * g
        state = o * np.tanh(cell)
        activations[:, t] = np.concatenate([i, f, g, o], 1)
        hidden[:, t], cells[:, t] = state, cell
    return hidden, previous, cells, activations


def backward(gradient, cells, activations, weight):
    """The gradient at the gates before their activation, [m, T, 4h]."""
    m, steps, h = gradient.shape
    result = np.zeros(activations.shape)
    carried, of_cell = np.zeros((m, h)), np.zeros((m, h))
    for t in reversed(range(steps)):
        i, f, g, o = np.split(activations[:, t], 4, axis=1)
        bent = np.tanh(cells[:, t])
        dh = gradient[:, t] + carried
        dc = of_cell + dh * o * (1 - bent**2)
        before = cells[:, t - 1] if t else np.zeros((m, h))
        parts = [
            dc * g * i * (1 - i),
            dc * before * f * (1 - f),
            dc * i * (1 - g**2),
            dh * bent * o * (1 - o),
        ]
        result[:, t] = np.concatenate(parts, 1)
        carried, of_cell = result[:, t] @ weight, dc * f
    return result


def packed(machine, target, weight):
    """The weight [4h, h] as both kernels read it."""
    h4, h = weight.shape
    gates = kernels.pack_gates(machine, h, Factor((h4, h), (), 1, h))
    panels = kernels.pack(machine, (h4, h), Factor((h4, h), (), h, 1))
    return [run(function, target, weight)[0] for function in (gates, panels)]


def outputs(target, gates, weight, gradient):
    machine = kernels.MACHINES[target]
    by_gate, panels = packed(machine, target, weight)
    states = run(kernels.lstm_sequence(machine, gates.shape), target, gates, by_gate)
    function = kernels.lstm_sequence_gradient(machine, gates.shape)
    of_gates = run(function, target, gradient, states[2], states[3], panels)
    return [*states[:4], of_gates[0]]


@pytest.mark.parametrize(("m", "steps", "h"), SIZES)
def test_sequence_and_gradient(m, steps, h):
    gates, weight = normal(m, steps, 4 * h), normal(4 * h, h, seed=1) / np.float32(np.sqrt(h))
    gradient = normal(m, steps, h, seed=2)
    found = the_same([outputs(target, gates, weight, gradient) for target in TARGETS])
    want = forward(gates.astype(np.float64), weight.astype(np.float64))
    for got, exact in zip(found, want, strict=False):
        close(got, exact, 2e-6)
    of_gates = backward(gradient.astype(np.float64), *want[2:], weight.astype(np.float64))
    close(found[4], of_gates, 4e-6)


def test_an_example_does_not_depend_on_its_slot_or_its_batch_mates():
    m, steps, h = 17, 4, 20
    gates, weight = normal(m, steps, 4 * h), normal(4 * h, h, seed=1)
    gradient = normal(m, steps, h, seed=2)
    whole = outputs(WIDEST, gates, weight, gradient)
    order = np.random.default_rng(0).permutation(m)
    gates[3] = np.nan
    moved = outputs(WIDEST, gates[order], weight, gradient[order])
    for a, b in zip(whole, moved, strict=True):
        kept = order != 3
        np.testing.assert_array_equal(b[kept], a[order][kept])
        assert np.isnan(b[~kept]).any()
