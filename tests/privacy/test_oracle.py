"""The oracle's own derivatives, against differences of a loss that is written out here."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_jobs import CASES, draw, plan, small_job
from workloads import OPTIMIZER, SMALL, batch_of, traced

from myelin.errors import BuildError
from myelin.graph import TrainingGraph, differentiate
from myelin.model import SGD, Adam, AdamW, CrossEntropy
from myelin.privacy.oracle import (
    apply_update,
    clipped_sums,
    example_gradient,
    loss_gradient,
    noisy_mean,
)

Array = npt.NDArray[np.float64]


def logits_of(graph: TrainingGraph, parameters: list[Array], features: Array) -> Array:
    """The oracle's logits, read from its gradient at the last bias: softmax − onehot."""
    gradient = example_gradient(graph.module["forward"], parameters, features, -1)[-1]
    return np.log(
        gradient
    )  # softmax, for a label that is no class; logarithms of it are logits up to a constant


def loss(graph: TrainingGraph, parameters: list[Array], features: Array, label: int) -> float:
    return -float(logits_of(graph, parameters, features)[label])


CASE_NAMES = ["hospitals tanh", "hospitals relu", "padded", "tokens"]


@pytest.mark.parametrize("name", [*CASE_NAMES, "resnet20", "lstm", "transformer"])
def test_gradients_agree_with_differences(name: str) -> None:
    if name in SMALL:
        graph = traced(name, OPTIMIZER)[1]
        x, labels, _ = batch_of(name, 4)
    else:
        job = small_job(*CASES[name], plan())
        graph = differentiate(job)
        x, labels, _ = draw(job, 4)
    random = np.random.default_rng(2)
    parameters = [v + random.normal(0, 0.1, v.shape) for v in graph.parameter_values]
    features, label = x[0].astype(np.float64), int(labels[0])
    gradients = example_gradient(graph.module["forward"], parameters, features, label)
    for index, gradient in enumerate(gradients):
        assert gradient.shape == parameters[index].shape
        for flat in random.choice(gradient.size, min(gradient.size, 12), replace=False):
            place, step, ends = np.unravel_index(flat, gradient.shape), 1e-5, []
            for sign in (1, -1):
                moved = [p.copy() for p in parameters]
                moved[index][place] += sign * step
                ends.append(loss(graph, moved, features, label))
            assert gradient[place] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)


def test_the_seed_is_softmax_minus_onehot() -> None:
    logits = np.array([[0.0, np.log(2.0), np.log(5.0)]])
    np.testing.assert_allclose(loss_gradient(CrossEntropy(), logits, 1), [[1 / 8, 2 / 8 - 1, 5 / 8]])


def test_clipping_padding_and_bad_rows() -> None:
    job = small_job(*CASES["logistic"], plan())
    forward, values = differentiate(job).module["forward"], None
    x, labels, _ = draw(job)
    values = differentiate(job).parameter_values
    x[1, 0], mask = np.nan, [1, 1, 0, 1]
    found = clipped_sums(forward, values, x, labels, mask, 0.5)
    assert found.contributing.tolist() == [1, 0, 0, 1]
    assert np.isnan(found.norms[1])
    assert found.norms[2] == 0
    for i, total in enumerate(found.sums):
        expected = sum(found.gradients[n][i] * min(1, 0.5 / found.norms[n]) for n in (0, 3))
        np.testing.assert_allclose(total, expected, rtol=1e-12)


def test_noise_is_added_on_the_grid() -> None:
    mean = noisy_mean([np.array([0.26, -0.26])], 0.1, [np.array([4, -4])], 2)
    np.testing.assert_allclose(mean[0], [0.35, -0.35])


def test_updates_by_hand() -> None:
    one = [np.array([1.0])]
    assert apply_update(SGD(0.1), 1, one, [], [np.array([2.0])])[0][0] == pytest.approx(0.8)
    new, state = apply_update(SGD(0.1, momentum=0.5), 1, one, [np.array([4.0])], [np.array([2.0])])
    assert (new[0], state[0]) == (pytest.approx(0.6), 4.0)
    zeros = [np.array([0.0])] * 2
    new, state = apply_update(Adam(0.1, 0.9, 0.99, 1e-12), 1, one, zeros, [np.array([-3.0])])
    assert new[0] == pytest.approx(1.1)
    assert [float(s[0]) for s in state] == [pytest.approx(-0.3), pytest.approx(0.09)]
    new, _ = apply_update(AdamW(0.1, 0.9, 0.99, 1e-12, 0.5), 1, one, zeros, [np.array([-3.0])])
    assert new[0] == pytest.approx(1.05)


def test_an_operator_without_a_rule_is_named() -> None:
    from tvm import relax

    from myelin.graph.relax_ir import tensor

    builder = relax.BlockBuilder()
    x = relax.Var("x", tensor((1, 2)))
    with builder.function("main", [x]):
        with builder.dataflow():
            output: Any = builder.emit_output(relax.op.sin(x))
        builder.emit_func_output(output)
    with pytest.raises(BuildError, match="the oracle has no rule for operator sin"):
        example_gradient(builder.finalize()["main"], [], np.zeros(2), 0)
