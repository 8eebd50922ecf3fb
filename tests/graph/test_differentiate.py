"""Forward → taps → backward: the passes by structure, the result by numbers against float64 differences."""

# ruff: noqa: N805  (functions of TVMScript have no self)
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I  # noqa: N812
from tvm.script import relax as R  # noqa: N812
from tvm.script import tirx as T  # noqa: N812

from myelin.errors import BuildError
from myelin.graph import differentiate, forward_function, insert_taps, parametric_layers, update_function
from myelin.model import (
    SGD,
    Adam,
    AdamW,
    CosineDecay,
    DPAdamBC,
    ExponentialMovingAverage,
    Job,
    LinearWarmUp,
    StepDecay,
    nn,
)


class Perceptron(nn.Module):
    def __init__(self) -> None:
        self.hidden = nn.Linear(3, 5)
        self.output = nn.Linear(5, 2, bias=False)

    def forward(self, x: Any) -> Any:
        return self.output(nn.relu(self.hidden(x)))


def job(optimizer: Any = None, average: Any = None) -> Job:
    plan = SimpleNamespace(
        capacity=8,
        microbatch=4,
        noise_multiplier=1.0,
        clipping_norm=1.0,
        noise_deviation=lambda parameters: 0.01 * parameters,
    )
    schema = SimpleNamespace(shape=(3,), label=SimpleNamespace(classes=("a", "b")))
    return Job("j", Perceptron, "cross_entropy", optimizer or SGD(0.1), plan, schema, seed=3, average=average)


def run(module: tvm.IRModule, name: str, *arguments: np.ndarray) -> list[np.ndarray]:
    machine = relax.VirtualMachine(relax.build(module, target="llvm"), tvm.cpu())
    result = machine[name](*[tvm.runtime.tensor(a) for a in arguments])
    return [r.numpy() for r in result] if not hasattr(result, "numpy") else [result.numpy()]


def test_taps_are_added_to_each_layer() -> None:
    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((4, 3), "float32"),
            hidden_weight: R.Tensor((5, 3), "float32"),
            hidden_bias: R.Tensor((5,), "float32"),
            output_weight: R.Tensor((2, 5), "float32"),
            tap0: R.Tensor((4, 5), "float32"),
            tap1: R.Tensor((4, 5), "float32"),
            tap2: R.Tensor((4, 2), "float32"),
            seed: R.Tensor((4, 2), "float32"),
        ) -> R.Tensor((), "float32"):
            with R.dataflow():
                transposed = R.permute_dims(hidden_weight, axes=None)
                product = R.matmul(x, transposed)
                tapped0 = R.add(product, tap0)
                biased = R.add(tapped0, hidden_bias)
                tapped1 = R.add(biased, tap1)
                relu = R.nn.relu(tapped1)
                transposed1 = R.permute_dims(output_weight, axes=None)
                logits = R.matmul(relu, transposed1)
                tapped2 = R.add(logits, tap2)
                weighted = R.multiply(tapped2, seed)
                loss = R.sum(weighted)
                R.output(loss)
            return loss

    function, names = forward_function(Perceptron(), 4, (3,), 2)
    tapped = insert_taps(function, parametric_layers(function, names))
    tvm.ir.assert_structural_equal(tapped.function, Expected["main"], map_free_vars=True)


def test_backward_computes_inputs_and_output_gradients_and_no_weight_gradient() -> None:
    @I.ir_module
    class Expected:
        @T.prim_func(private=True, s_tir=True)
        def loss_cross_entropy_seed(
            probabilities: T.Buffer((4, 2), "float32"),
            labels: T.Buffer((4,), "int32"),
            seed: T.Buffer((4, 2), "float32"),
        ):
            T.func_attr({"myelin.family": "loss.cross_entropy_seed", "tirx.noalias": True})
            for i, k in T.grid(4, 2):
                with T.sblock("seed"):
                    v_i, v_k = T.axis.remap("SS", [i, k])
                    T.reads(probabilities[v_i, v_k], labels[v_i])
                    T.writes(seed[v_i, v_k])
                    seed[v_i, v_k] = probabilities[v_i, v_k] - T.Select(
                        labels[v_i] == v_k, T.float32(1.0), T.float32(0.0)
                    )

        @R.function
        def backward(
            x: R.Tensor((4, 3), "float32"),
            labels: R.Tensor((4,), "int32"),
            hidden_weight: R.Tensor((5, 3), "float32"),
            hidden_bias: R.Tensor((5,), "float32"),
            output_weight: R.Tensor((2, 5), "float32"),
        ):
            cls = Expected
            with R.dataflow():
                transposed = R.permute_dims(hidden_weight, axes=None)
                product = R.matmul(x, transposed)
                biased = R.add(product, hidden_bias)
                relu = R.nn.relu(biased)
                transposed1 = R.permute_dims(output_weight, axes=None)
                logits = R.matmul(relu, transposed1)
                probabilities = R.nn.softmax(logits, axis=-1)
                seed = R.call_tir(
                    cls.loss_cross_entropy_seed, (probabilities, labels), out_ty=R.Tensor((4, 2), "float32")
                )
                relu_gradient = R.matmul(seed, output_weight)
                positive = R.greater(relu, R.const(0.0, "float32"))
                hidden_gradient = R.where(positive, relu_gradient, R.const(0.0, "float32"))
                result = (x, relu, hidden_gradient, hidden_gradient, seed)
                R.output(result)
            return result

    graph = differentiate(job())
    tvm.ir.assert_structural_equal(graph.module["backward"], Expected["backward"], map_free_vars=True)
    # How the kernel selects without a branch is its own matter; differences of the loss say what it gives.
    seed, expected = graph.module["loss_cross_entropy_seed"], Expected["loss_cross_entropy_seed"]
    assert seed.attrs["myelin.family"] == expected.attrs["myelin.family"]


def loss(parameters: list[np.ndarray], x: np.ndarray, labels: np.ndarray) -> float:
    """Summed cross-entropy of the perceptron, written out."""
    w1, b1, w2 = parameters
    logits = np.maximum(x @ w1.T + b1, 0) @ w2.T
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return float((log_sum - logits[np.arange(len(x)), labels]).sum())


def test_backward_agrees_with_differences_of_the_loss() -> None:
    graph, random = differentiate(job()), np.random.default_rng(1)
    x = random.uniform(-1, 1, (4, 3)).astype(np.float32)
    labels = np.array([0, 1, 1, 0], np.int32)
    parameters = [v + random.normal(0, 0.3, v.shape).astype(np.float32) for v in graph.parameter_values]
    inputs1, inputs2, gradient1, gradient1b, gradient2 = run(graph.module, "backward", x, labels, *parameters)
    found = [gradient1.T @ inputs1, gradient1b.sum(axis=0), gradient2.T @ inputs2]
    wide, step = [p.astype(np.float64) for p in parameters], 1e-6
    for i, gradient in enumerate(found):
        expected = np.zeros(gradient.shape)
        for place in np.ndindex(gradient.shape):
            ends = []
            for sign in (1, -1):
                moved = [p.copy() for p in wide]
                moved[i][place] += sign * step
                ends.append(loss(moved, x.astype(np.float64), labels))
            expected[place] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradient, expected, atol=2e-6)


def test_a_label_out_of_range_is_no_class_and_reads_nothing() -> None:
    graph = differentiate(job())
    x, labels = np.ones((4, 3), np.float32), np.array([-1, 2, 2**31 - 1, -(2**31)], np.int32)
    seed = run(graph.module, "backward", x, labels, *graph.parameter_values)[-1]
    np.testing.assert_allclose(seed.sum(axis=1), 1.0, rtol=1e-6)


def test_weights_before_a_relu_are_drawn_wider() -> None:
    hidden, _, output = differentiate(job()).parameter_values
    assert np.abs(hidden).max() > (3 / 3) ** 0.5  # beyond gain 1
    assert np.abs(hidden).max() <= (2 * 3 / 3) ** 0.5
    assert np.abs(output).max() <= (3 / 5) ** 0.5


def update_inputs(shapes: list[tuple[int, ...]], states: int) -> list[list[np.ndarray]]:
    random = np.random.default_rng(5)

    def draw(scale: float) -> list[np.ndarray]:
        return [random.normal(0, scale, s).astype(np.float32) for s in shapes]

    return [draw(1.0), [abs(a) for _ in range(states) for a in draw(0.1)], draw(1.0)]


AVERAGE = ExponentialMovingAverage(0.99)


@pytest.mark.parametrize(
    ("optimizer", "states", "average"),
    [
        (SGD(0.3), 0, None),
        (SGD(0.3, momentum=0.9), 1, None),
        (Adam(0.01), 2, None),
        (Adam(0.5, 0.0, 0.5, 1e-3), 2, None),
        (AdamW(0.02, weight_decay=0.4), 2, None),
        (SGD(LinearWarmUp(40, then=CosineDecay(0.3, 1000)), momentum=0.9, weight_decay=0.1), 1, AVERAGE),
        (AdamW(StepDecay(0.05, 20, 0.5), weight_decay=0.4), 2, None),
        (DPAdamBC(0.02, floor=1e-3), 2, None),
    ],
)
@pytest.mark.parametrize("step", [1, 37, 100_000])
def test_updates_agree_with_the_textbook(optimizer: Any, states: int, average: Any, step: int) -> None:
    from myelin.privacy.oracle import apply_update

    graph = differentiate(job(optimizer, average))
    shapes = [v.shape for v in graph.parameter_values]
    assert graph.state_shapes == tuple(shapes) * (states + bool(average))
    start = len(graph.state_shapes) if average else 0
    assert graph.released == tuple(range(start, start + len(shapes)))
    parameters, state, gradients = update_inputs(shapes, states + bool(average))
    if step == 1 and average:
        state[-len(shapes) :] = [np.zeros(s, np.float32) for s in shapes]
    found = run(graph.module, "update", np.array([step], np.int32), *parameters, *state, *gradients)
    wide = [[a.astype(np.float64) for a in group] for group in (parameters, state, gradients)]
    deviation = graph.noise_deviation or 0.0
    assert deviation == (0.3 if isinstance(optimizer, DPAdamBC) else 0.0)
    new, new_state = apply_update(optimizer, step, *wide, average, deviation)
    assert len(found) == len(new) + len(new_state)
    for a, b in zip(found, (*new, *new_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    if step == 1 and average:
        np.testing.assert_array_equal(found[-1], found[len(shapes) - 1])


def test_an_optimizer_that_needs_the_noise_is_refused_without_it() -> None:
    builder = relax.BlockBuilder()
    with pytest.raises(BuildError, match=r"use a myelin\.privacy\.DpPlan"):
        update_function(builder, "update", DPAdamBC(), ["w"], [(2,)])


def test_the_sgd_update_by_structure() -> None:
    @I.ir_module
    class Expected:
        @R.function
        def update(
            step_number: R.Tensor((1,), "int32"),
            w: R.Tensor((2,), "float32"),
            velocity: R.Tensor((2,), "float32"),
            gradient: R.Tensor((2,), "float32"),
        ):
            with R.dataflow():
                slowed = R.multiply(velocity, R.const(0.5, "float32"))
                moved = R.add(slowed, gradient)
                scaled = R.multiply(moved, R.const(0.25, "float32"))
                stepped = R.subtract(w, scaled)
                result = (stepped, moved)
                R.output(result)
            return result

    builder = relax.BlockBuilder()
    update_function(builder, "update", SGD(0.25, momentum=0.5), ["w"], [(2,)])
    tvm.ir.assert_structural_equal(builder.finalize()["update"], Expected["update"], map_free_vars=True)
