import numpy as np
import pytest

pytest.importorskip("tvm")

from handwritten import mlp, mlp_oracle

from myelin.schedule import NativeProgram, schedule
from targets import TARGETS


def batch(microbatch, features, classes, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (microbatch, features)).astype(np.float32)
    labels = rng.integers(0, classes, microbatch).astype(np.int32)
    mask = (rng.random(microbatch) < 0.8).astype(np.float32)
    return x, labels, mask


@pytest.mark.parametrize("target", TARGETS)
def test_mlp_step_equals_the_float64_twin(target):
    graph = mlp()
    program = NativeProgram(schedule(graph, target))
    x, labels, mask = batch(64, 30, 2)
    sums, norms, contributing = program.run_step(x, labels, mask)
    expected, expected_norms = mlp_oracle(x, labels, mask, graph.parameter_values)
    np.testing.assert_array_equal(contributing, mask.astype(np.int32))
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-5)
    for got, want in zip(sums, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_update_is_sgd_with_momentum_in_place():
    graph = mlp()
    program = NativeProgram(schedule(graph, "x86-64-v3"))
    rng = np.random.default_rng(2)
    values = [v.astype(np.float64) for v in graph.parameter_values]
    velocity = [np.zeros_like(v) for v in values]
    for step in (1, 2, 3):
        gradients = [rng.standard_normal(v.shape).astype(np.float32) for v in values]
        got = program.run_update(step, gradients)
        for i, g in enumerate(gradients):
            velocity[i] = 0.9 * velocity[i] + g
            values[i] -= 0.5 * velocity[i]
            np.testing.assert_allclose(got[i], values[i], rtol=1e-5, atol=1e-6)
