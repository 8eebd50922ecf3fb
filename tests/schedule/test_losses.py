"""Losses, updates and averages as compiled, against the float64 oracle."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tvm")

from networks import Mlp

from myelin.errors import BuildError
from myelin.graph import differentiate, label_dtype
from myelin.model import (
    BinaryCrossEntropy,
    CosineDecay,
    CrossEntropy,
    DPAdamBC,
    ExponentialMovingAverage,
    Huber,
    Job,
    LinearWarmUp,
    MeanSquaredError,
    nn,
)
from myelin.privacy import DpPlan, make_plain, make_private
from myelin.privacy.oracle import apply_update, clipped_sums
from myelin.schedule import NativeProgram, schedule

PLAN = DpPlan(1000, 50, 100, 5, 10, 1.0, 0.8, 1e-5)
CLASSES = SimpleNamespace(shape=(30,), label=SimpleNamespace(classes=("a", "b")))
NUMBER = SimpleNamespace(shape=(30,), label=SimpleNamespace(lower=0.0, upper=9.0))
OPTIMIZER = DPAdamBC(LinearWarmUp(2, then=CosineDecay(0.05, 10)), floor=1e-4)


class Single(nn.Module):
    """One output."""

    def __init__(self):
        self.hidden = nn.Linear(30, 16)
        self.output = nn.Linear(16, 1)

    def forward(self, x):
        return self.output(nn.tanh(self.hidden(x)))


LOSSES = {
    "smoothed": (CrossEntropy(label_smoothing=0.2), Mlp, CLASSES),
    "ignoring": (CrossEntropy(0.1, ignore_index=1), Mlp, CLASSES),
    "binary": (BinaryCrossEntropy(), Single, CLASSES),
    "squared": (MeanSquaredError(), Single, NUMBER),
    "huber": (Huber(0.4), Single, NUMBER),
}


def job(name, **changes):
    loss, model, schema = LOSSES[name]
    return Job("test", model, loss, OPTIMIZER, PLAN, schema, seed=1, **changes)


def batch(loss):
    random = np.random.default_rng(3)
    x = random.uniform(-1, 1, (5, 30)).astype(np.float32)
    labels = np.array([0, 1, 1, 0, 1], np.int32)
    if label_dtype(loss) == "float32":
        labels = random.uniform(-1, 1, 5).astype(np.float32)
    return x, labels, np.array([1, 1, 0, 1, 1], np.float32)


def compiled(made):
    private = make_private(differentiate(made), PLAN)
    return private, NativeProgram(schedule(private, "x86-64-v3"))


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_of_each_loss_equals_the_oracle(name):
    loss, graph = LOSSES[name][0], differentiate(job(name))
    private, native = compiled(job(name))
    x, labels, mask = batch(loss)
    sums, norms, contributing = native.run_step(x, labels, mask)
    want = clipped_sums(graph.module["forward"], private.parameter_values, x, labels, mask, 0.8, loss)
    np.testing.assert_array_equal(contributing, want.contributing)
    np.testing.assert_allclose(norms, want.norms, rtol=5e-6, atol=2.0**-48)
    for got, total in zip(sums, want.sums, strict=True):
        np.testing.assert_allclose(got, total, atol=5e-6 * max(np.abs(total).max(), 1e-2))
    if name == "ignoring":
        assert max(norms[1], norms[4]) < 2.0**-48  # an upper bound of zero
        unseen, _, _ = native.run_step(x, labels, np.array([1, 0, 0, 1, 0], np.float32))
        assert all(
            np.array_equal(a.view(np.int32), b.view(np.int32)) for a, b in zip(sums, unseen, strict=True)
        )
        x[4] = np.nan  # what it puts out does not matter
        spoiled, _, _ = native.run_step(x, labels, mask)
        assert all(np.array_equal(a, b) for a, b in zip(sums, spoiled, strict=True))
    if name == "huber":
        x[1] = np.nan
        assert native.run_step(x, labels, mask)[2].tolist() == [1, 0, 0, 1, 1]


def test_updates_and_the_released_average_equal_the_oracle():
    made = job("huber", average=ExponentialMovingAverage(0.7))
    private, native = compiled(made)
    deviation = PLAN.noise_deviation(private.parameter_count)
    assert deviation == pytest.approx(private.sensitivity_e9 / 1e9 / 50, rel=1e-12)
    random = np.random.default_rng(2)
    values = [v.astype(np.float64) for v in private.parameter_values]
    state, history = [np.zeros(shape) for shape in private.state_shapes], []
    for step in range(1, 5):
        gradients = [random.normal(0, 3 * deviation, v.shape).astype(np.float32) for v in values]
        got = native.run_update(step, gradients)
        values, state = apply_update(OPTIMIZER, step, values, state, gradients, made.average, deviation)
        history.append(values)
        for a, b in zip(got, values, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    weights = 0.7 ** np.arange(3, -1, -1)
    for index, released in enumerate(native.released()):
        mean = sum(w * v[index] for w, v in zip(weights, history, strict=True)) / weights.sum()
        np.testing.assert_allclose(released, mean, rtol=2e-5, atol=2e-6)
        assert not np.array_equal(released, got[index])


def test_the_noise_that_is_taken_off_is_the_noise_that_is_added():
    graph = differentiate(job("huber"))
    louder = DpPlan(1000, 50, 100, 5, 10, 2.0, 0.8, 1e-5)
    with pytest.raises(BuildError, match="differentiate and make private with one plan"):
        make_private(graph, louder)
    with pytest.raises(BuildError, match="a plain step has no noise"):
        make_plain(graph)


def test_a_model_of_another_width_is_refused():
    wide = Job("test", Mlp, Huber(1.0), OPTIMIZER, PLAN, NUMBER)
    with pytest.raises(BuildError, match="make the last layer one wide, as the loss needs"):
        differentiate(wide)
