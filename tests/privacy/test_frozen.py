"""Frozen parameters and adapters: what is trained is clipped, what is not is a constant."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from families import TARGET, family
from small_jobs import plan, small_job

from myelin.errors import BuildError
from myelin.graph import differentiate
from myelin.model import SGD, AdamW, DPAdamBC, ExponentialMovingAverage, nn
from myelin.privacy import AdaptiveClipping, make_private
from myelin.privacy.adaptive import CLIPPING_NORM
from myelin.privacy.noise import SIGMA_UNITS
from myelin.privacy.oracle import clipped_sums
from myelin.privacy.oracle_update import apply_update
from myelin.privacy.sensitivity import sensitivity_e9
from myelin.schedule import InferenceProgram, NativeProgram, schedule, schedule_inference

WEIGHT = np.random.default_rng(8).normal(0, 0.5, (9, 6)).astype(np.float32)


class Adapted(nn.Module):
    """A frozen table, attention with an adapter, a frozen norm between trained layers."""

    def __init__(self) -> None:
        self.table = nn.freeze(nn.Embedding(9, 6))
        self.table.weight.data = WEIGHT
        self.attention = nn.MultiHeadAttention(6, 2)
        self.attention.inputs = nn.LoRA(self.attention.inputs, 2, alpha=3.0)
        nn.freeze(self.attention.outputs)
        self.norm = nn.freeze(nn.LayerNorm(6))
        self.output = nn.Linear(6, 3)

    def forward(self, tokens: Any) -> Any:
        return self.output(nn.mean(self.norm(self.attention(self.table(tokens))), 1))


@pytest.mark.numeric
def test_only_adapters_and_the_head_are_clipped_and_summed() -> None:
    case = family(Adapted, (5,), 3, 9)
    assert case.private.parameter_names == (
        "attention.inputs.down",
        "attention.inputs.up",
        "output.weight",
        "output.bias",
    )
    assert case.private.parameter_count == 2 * 6 + 18 * 2 + 3 * 6 + 3
    assert case.private.frozen_count == 9 * 6 + 18 * 7 + 6 * 7 + 12
    np.testing.assert_array_equal(case.private.frozen_values[0], WEIGHT)
    case.check()


@pytest.mark.numeric
def test_the_forward_pass_alone_has_the_constants() -> None:
    graph = differentiate(small_job(Adapted, (5,), 3, plan(2)))
    module = schedule_inference(graph, "x86-64-v3")
    tokens = np.array([[0, 8, 3, 3, 1], [2, 2, 2, 2, 2]], np.float32)
    first = InferenceProgram(module).run(tokens)
    trained = [value + np.float32(0.5) for value in graph.parameter_values]
    np.testing.assert_array_equal(InferenceProgram(module, graph.parameter_values).run(tokens), first)
    assert not np.array_equal(InferenceProgram(module, trained).run(tokens), first)


@pytest.mark.numeric
@pytest.mark.parametrize("optimizer", [SGD(0.1, 0.9, weight_decay=0.2), AdamW(0.01), DPAdamBC(0.01)])
def test_updates_and_averages_leave_constants_as_they_are(optimizer: Any) -> None:
    job = small_job(Adapted, (5,), 3, plan(2), optimizer)
    job = dataclasses.replace(job, average=ExponentialMovingAverage(0.5))
    private = make_private(differentiate(job), plan(2))
    program = NativeProgram(schedule(private, TARGET))
    roles, random = program.scheduled.roles, np.random.default_rng(1)
    deviation = plan(2).noise_deviation(private.parameter_count)
    values, state = [*private.parameter_values], [np.zeros(shape) for shape in private.state_shapes]
    for step in (1, 2):
        gradients = [random.normal(0, 2 * deviation, v.shape).astype(np.float32) for v in values]
        got = program.run_update(step, gradients)
        values, state = apply_update(optimizer, step, values, state, gradients, job.average, deviation)
    for found, expected in zip([*got, *program.released()], [*values, *state[-len(values) :]], strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    for tensor, value in zip(roles.frozen, private.frozen_values, strict=True):
        np.testing.assert_array_equal(program.read(tensor), value)
    assert not {*roles.frozen} & {tensor for call in program.scheduled.update for tensor in call.outputs}


def test_an_adapter_begins_as_the_layer_alone() -> None:
    graph = differentiate(small_job(Adapted, (5,), 3, plan(2)))
    values = dict(zip(graph.parameter_names, graph.parameter_values, strict=True))
    assert not values["attention.inputs.up"].any()
    assert values["attention.inputs.down"].any()


def test_sensitivity_counts_only_what_is_noised() -> None:
    """The grid's rounding grows with the number of coordinates, and constants are none."""
    private = make_private(differentiate(small_job(Adapted, (5,), 3, plan(2))), plan(2))
    assert private.sensitivity_e9 == sensitivity_e9(plan(2), private.parameter_count, 2, SIGMA_UNITS)


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(BuildError, match="has no parameters to train"):
        differentiate(small_job(lambda: nn.freeze(Adapted()), (5,), 3, plan(2)))


def test_a_frozen_parameter_keeps_to_the_rules_of_all_others() -> None:
    """Constants cannot mix examples, but what uses them could: the allow-list is the same."""

    class Net(nn.Module):
        def __init__(self) -> None:
            self.shift, self.output = nn.freeze(nn.Parameter((4,))), nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            return self.output(x - self.shift)

    with pytest.raises(BuildError, match="operator subtract on parameter shift cannot be made private"):
        differentiate(small_job(Net, (4,), 2, plan(2)))


def test_values_that_are_not_finite_are_refused() -> None:
    def model() -> Any:
        made = Adapted()
        made.table.weight.data = np.where(WEIGHT > 0.5, np.nan, WEIGHT).astype(np.float32)
        return made

    with pytest.raises(BuildError, match=r"parameter table\.weight: its initial value is not finite"):
        differentiate(small_job(model, (5,), 3, plan(2)))


def test_ranks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BuildError, match=r"nn\.LoRA: rank: expected 1 to 4, got 5"):
        nn.LoRA(nn.Linear(6, 4), 5)


def test_a_clipping_norm_that_adapts_stands_between_the_trained_and_the_frozen() -> None:
    rule = AdaptiveClipping(count_noise=2.0)
    job = small_job(Adapted, (5,), 3, plan(4, clipping_norm=0.5, clipping=rule))
    graph = differentiate(job)
    private = make_private(graph, job.plan)
    assert private.parameter_names[-1] == CLIPPING_NORM
    assert private.frozen_names == graph.frozen_names
    program = NativeProgram(schedule(private, TARGET))
    random = np.random.default_rng(3)
    x, labels = random.integers(0, 9, (4, 5)).astype(np.float32), np.array([0, 2, 1, 0], np.int32)
    mask, values = np.ones(4, np.float32), private.parameter_values
    (*sums, _), norms, _ = program.run_step(x, labels, mask, values)
    forward, frozen = graph.module["forward"], graph.frozen_values
    oracle = clipped_sums(forward, values[:-1], x, labels, mask, 0.5, frozen=frozen, rule=rule)
    np.testing.assert_allclose(norms, oracle.norms, rtol=1e-5)
    for found, expected in zip(sums, oracle.sums, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
