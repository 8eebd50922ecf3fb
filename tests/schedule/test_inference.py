"""The forward pass alone gives the class probabilities of the oracle, whatever was computed before."""

from __future__ import annotations

import numpy as np
import pytest
from networks import NETWORKS, job

from myelin.graph import differentiate
from myelin.privacy.oracle import example_gradient
from myelin.schedule import InferenceProgram, schedule_inference
from targets import TARGETS


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", TARGETS)
def test_probabilities_are_those_of_the_oracle(name: str, target: str) -> None:
    graph = differentiate(job(name, 5))
    program = InferenceProgram(schedule_inference(graph, target))
    values = [value.astype(np.float64) for value in graph.parameter_values]
    for seed in range(2):
        x = np.random.default_rng(seed).uniform(-1, 1, (5, *NETWORKS[name][1])).astype(np.float32)
        logits = program.run(x).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        # The gradient by the last layer's bias is softmax(logits) - onehot(label).
        onehot = np.eye(NETWORKS[name][2])[0]
        for example, row in zip(x, powers / powers.sum(axis=1, keepdims=True), strict=True):
            gradient = example_gradient(graph.module["forward"], values, example, 0)[-1]
            np.testing.assert_allclose(row, gradient + onehot, rtol=1e-5, atol=1e-6)


def test_parameters_may_be_others_than_the_initial_ones() -> None:
    graph = differentiate(job("mlp", 2))
    module = schedule_inference(graph, "x86-64-v3")
    x = np.ones((2, 30), np.float32)
    zeros = [np.zeros_like(value) for value in graph.parameter_values]
    assert InferenceProgram(module).run(x).any()
    assert not InferenceProgram(module, zeros).run(x).any()


def test_what_depends_on_parameters_only_is_prepared_once() -> None:
    module = schedule_inference(differentiate(job("cnn", 2)), "x86-64-v3")
    written = {tensor for call in module.prepare for tensor in call.outputs}
    assert written
    assert not written & {tensor for call in module.forward for tensor in call.outputs}
    for call in module.prepare:
        assert {*module.parameters, *written} >= set(call.inputs)
