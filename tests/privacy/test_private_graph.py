"""The private step: by structure, and by numbers against the float64 oracle."""

# ruff: noqa: N805  (functions of TVMScript have no self)
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import CASES, Perceptron, build, built_case, draw, plan, small_job
from tvm.script import ir as I  # noqa: N812
from tvm.script import relax as R  # noqa: N812
from tvm.script import tirx as T  # noqa: N812

from myelin.errors import BuildError
from myelin.graph import differentiate
from myelin.model import SGD, Adam
from myelin.privacy import make_private
from myelin.privacy.oracle import apply_update, clipped_sums, noisy_mean


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("clipping_norm", [1.0, 1000.0])
def test_the_step_agrees_with_the_oracle(name: str, clipping_norm: float) -> None:
    built = built_case(name, clipping_norm)
    x, labels, mask = draw(built.job)
    mask[2] = 0
    values = built.private.parameter_values
    sums, norms, contributing = built.step(x, labels, mask, *values)
    oracle = clipped_sums(built.graph.module["forward"], values, x, labels, mask, clipping_norm)
    np.testing.assert_allclose(norms, oracle.norms, rtol=5e-6)
    np.testing.assert_array_equal(contributing, [1, 1, 0, 1, 1])
    for name_of, found, expected in zip(built.private.parameter_names, sums, oracle.sums, strict=True):
        scale = max(np.abs(expected).max(), 1e-3)
        np.testing.assert_allclose(found, expected, atol=5e-6 * scale, err_msg=name_of)


def test_parameter_counts_of_the_demos() -> None:
    counts = {
        name: make_private(differentiate(small_job(*CASES[name], plan())), plan()).parameter_count
        for name in CASES
    }
    assert counts["mnist"] == 26_010
    assert counts["hospitals tanh"] == 30 * 32 + 32 + 32 * 2 + 2


@I.ir_module
class LogisticStep:
    @T.prim_func(private=True, s_tir=True)
    def loss_cross_entropy_seed(
        p: T.Buffer((4, 2), "float32"), labels: T.Buffer((4,), "int32"), seed: T.Buffer((4, 2), "float32")
    ):
        T.evaluate(0)

    @T.prim_func(private=True, s_tir=True)
    def norm_outer(
        a: T.Buffer((4, 3), "float32"), b: T.Buffer((4, 2), "float32"), norm: T.Buffer((4,), "float32")
    ):
        T.evaluate(0)

    @T.prim_func(private=True, s_tir=True)
    def norm_kept(g: T.Buffer((4, 2), "float32"), norm: T.Buffer((4,), "float32")):
        T.evaluate(0)

    @T.prim_func(private=True, s_tir=True)
    def clip_flat(
        norm0: T.Buffer((4,), "float32"),
        norm1: T.Buffer((4,), "float32"),
        mask: T.Buffer((4,), "float32"),
        norms: T.Buffer((4,), "float32"),
        contributing: T.Buffer((4,), "int32"),
        coefficients: T.Buffer((4,), "float32"),
    ):
        T.evaluate(0)

    @T.prim_func(private=True, s_tir=True)
    def sum_kept(
        g: T.Buffer((4, 2), "float32"), c: T.Buffer((4,), "float32"), total: T.Buffer((2,), "float32")
    ):
        T.evaluate(0)

    @R.function
    def step(
        x: R.Tensor((4, 3), "float32"),
        labels: R.Tensor((4,), "int32"),
        mask: R.Tensor((4,), "float32"),
        weight: R.Tensor((2, 3), "float32"),
        bias: R.Tensor((2,), "float32"),
    ):
        cls = LogisticStep
        with R.dataflow():
            transposed = R.permute_dims(weight, axes=None)
            product = R.matmul(x, transposed)
            logits = R.add(product, bias)
            probabilities = R.nn.softmax(logits, axis=-1)
            seed = R.call_tir(
                cls.loss_cross_entropy_seed, (probabilities, labels), R.Tensor((4, 2), "float32")
            )
            norm = R.call_tir(cls.norm_outer, (x, seed), R.Tensor((4,), "float32"))
            norm1 = R.call_tir(cls.norm_kept, (seed,), R.Tensor((4,), "float32"))
            clip = R.call_tir(
                cls.clip_flat,
                (norm, norm1, mask),
                [R.Tensor((4,), "float32"), R.Tensor((4,), "int32"), R.Tensor((4,), "float32")],
            )
            norms: R.Tensor((4,), "float32") = clip[0]
            contributing: R.Tensor((4,), "int32") = clip[1]
            coefficients: R.Tensor((4,), "float32") = clip[2]
            column = R.reshape(coefficients, R.shape([4, 1]))
            counts = R.greater(column, R.const(0.0, "float32"))
            product1 = R.multiply(seed, column)
            scaled = R.where(counts, product1, R.const(0.0, "float32"))
            inputs = R.where(counts, x, R.const(0.0, "float32"))
            turned = R.permute_dims(scaled, axes=None)
            weight_sum = R.matmul(turned, inputs)
            bias_sum = R.call_tir(cls.sum_kept, (seed, coefficients), R.Tensor((2,), "float32"))
            result = (weight_sum, bias_sum, norms, contributing)
            R.output(result)
        return result


def test_the_logistic_step_by_structure() -> None:
    job = small_job(lambda: Perceptron([3, 2]), (3,), 2, plan(4))
    module = make_private(differentiate(job), job.plan).module
    kernels = {v.name_hint: f for v, f in module.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
    families = {name: str(f.attrs["myelin.family"]) for name, f in kernels.items()}
    assert families == {
        "loss_cross_entropy_seed": "loss.cross_entropy_seed",
        "norm_outer": "norm.outer",
        "norm_kept": "norm.kept",
        "clip_flat": "clip.flat",
        "sum_kept": "sum.kept",
    }
    tvm.ir.assert_structural_equal(module["step"], LogisticStep["step"], map_free_vars=True)
    assert {v.name_hint for v in module.functions} == {"step", "update", *families}


SPOILS = {"nan": np.nan, "infinite": np.inf, "overflows when squared": 1e25, "huge": 3e38}


@pytest.mark.parametrize("name", ["hospitals tanh", "hospitals relu", "mnist", "padded", "tokens"])
@pytest.mark.parametrize("spoil", SPOILS)
def test_a_bad_example_changes_no_bit_of_the_others(name: str, spoil: str) -> None:
    """Its row may hold anything: with it or with padding instead, the sums are the same bits."""
    if name == "padded" and np.isfinite(SPOILS[spoil]):
        pytest.skip("tanh saturates: the gradient of a large input is zero, and that counts")
    built = built_case(name)
    x, labels, mask = draw(built.job)
    values, bad = built.private.parameter_values, x.copy()
    bad[1].flat[:] = SPOILS[spoil]
    sums, norms, contributing = built.step(bad, labels, mask, *values)
    assert contributing[1] == 0
    assert not norms[1] <= 2.0**60
    padded, _, there = built.step(x, labels, np.array([1, 0, 1, 1, 1], np.float32), *values)
    np.testing.assert_array_equal(contributing, there)
    assert all(np.isfinite(s).all() and np.array_equal(s, p) for s, p in zip(sums, padded, strict=True))


def test_a_parameter_that_is_nan_stops_every_example_and_nothing_else() -> None:
    built = built_case("hospitals tanh")
    x, labels, mask = draw(built.job)
    values = [v.copy() for v in built.private.parameter_values]
    values[0][3, 4] = np.nan
    sums, _, contributing = built.step(x, labels, mask, *values)
    assert not contributing.any()
    assert all(not s.any() for s in sums)


@pytest.mark.parametrize("name", ["hospitals relu", "mnist"])
def test_all_padding_sums_to_zero(name: str) -> None:
    built = built_case(name)
    x, labels, mask = draw(built.job)
    sums, norms, contributing = built.step(
        x * np.float32(np.nan), labels, mask * 0, *built.private.parameter_values
    )
    assert not norms.any()
    assert not contributing.any()
    assert all(not s.any() for s in sums)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    activation=st.sampled_from(["tanh", "relu"]),
    microbatch=st.integers(1, 6),
    exponent=st.integers(-6, 6),
    mask=st.lists(st.sampled_from([0.0, 1.0]), min_size=6, max_size=6),
    seed=st.integers(0, 1000),
)
def test_any_perceptron_agrees_with_the_oracle_and_is_clipped(
    widths: list[int], activation: str, microbatch: int, exponent: int, mask: list[float], seed: int
) -> None:
    widths[-1] = max(widths[-1], 2)
    clipping_norm = 2.0**exponent
    job = small_job(
        lambda: Perceptron(widths, activation),
        widths[:1],
        widths[-1],
        plan(microbatch, clipping_norm=clipping_norm),
    )
    built = build(job)
    x, labels, ones = draw(job, seed)
    real = ones * np.array(mask[:microbatch], np.float32)
    values = built.private.parameter_values
    sums, norms, contributing = built.step(x, labels, real, *values)
    oracle = clipped_sums(built.graph.module["forward"], values, x, labels, real, clipping_norm)
    np.testing.assert_allclose(norms, oracle.norms, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(contributing, oracle.contributing)
    for found, expected in zip(sums, oracle.sums, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4 * clipping_norm + 1e-6)
    for i in range(microbatch):
        alone = np.zeros(microbatch, np.float32)
        alone[i] = 1
        single, _, _ = built.step(x, labels, alone, *values)
        length = np.sqrt(sum((s.astype(np.float64) ** 2).sum() for s in single))
        assert length <= clipping_norm * (1 + 4 * 2.0**-24)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("hospitals tanh", SGD(0.2, momentum=0.9)),
        ("hospitals tanh", Adam(0.01)),
        ("mnist", SGD(0.2, momentum=0.9)),
    ],
)
def test_two_whole_private_steps_with_injected_noise_agree_with_the_oracle(
    name: str, optimizer: SGD | Adam
) -> None:
    the_plan = plan(4, clipping_norm=0.5)
    built = build(small_job(*CASES[name], the_plan, optimizer))
    random, grid = np.random.default_rng(9), 1e-6
    values = list(built.private.parameter_values)
    state = [np.zeros(s, np.float32) for s in built.private.state_shapes]
    wide_values = [v.astype(np.float64) for v in values]
    wide_state = [s.astype(np.float64) for s in state]
    for step in (1, 2):
        noise = [np.rint(random.normal(0, 5e4, v.shape)).astype(np.int64) for v in values]
        totals = [np.zeros(v.shape) for v in values]
        wide_totals = [np.zeros(v.shape) for v in values]
        for batch in range(2):
            x, labels, mask = draw(built.job, 10 * step + batch)
            mask[batch] = 0
            for total, part in zip(totals, built.step(x, labels, mask, *values)[0], strict=True):
                total += part
            oracle = clipped_sums(built.graph.module["forward"], wide_values, x, labels, mask, 0.5)
            for total, wide_part in zip(wide_totals, oracle.sums, strict=True):
                total += wide_part
        noisy = [g.astype(np.float32) for g in noisy_mean(totals, grid, noise, 4)]
        found = built.call("update", np.array([step], np.int32), *values, *state, *noisy)
        values, state = found[: len(values)], found[len(values) :]
        wide_noisy = noisy_mean(wide_totals, grid, noise, 4)
        new, new_state = apply_update(optimizer, step, wide_values, wide_state, wide_noisy)
        wide_values, wide_state = list(new), list(new_state)
    for a, b in zip([*values, *state], [*wide_values, *wide_state], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def test_a_plan_of_another_microbatch_is_refused() -> None:
    graph = differentiate(small_job(*CASES["logistic"], plan(4)))
    with pytest.raises(BuildError, match="plan of microbatch 5, graph of microbatch 4"):
        make_private(graph, plan(5))


def test_building_in_other_processes_gives_the_same_module() -> None:
    code = (
        "from small_jobs import CASES, plan, small_job\nfrom myelin.graph import differentiate\n"
        "from myelin.privacy import make_private\n"
        "print(make_private(differentiate(small_job(*CASES['mnist'], plan())), plan()).module.script())"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert b"gradient_conv2d" in texts[0]
    assert texts[0] == texts[1]
