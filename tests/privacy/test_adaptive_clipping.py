"""Adaptive clipping: the step and the next norm against the oracle, and the split of noise of the paper."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import CASES, Built, build, draw, plan, small_job
from tvm import relax

from myelin.errors import BuildError, InputError
from myelin.graph import differentiate
from myelin.graph.relax_ir import emit_function, tensor
from myelin.model import SGD, Adam, DPAdamBC, ExponentialMovingAverage, Job
from myelin.privacy import AdaptiveClipping, make_private
from myelin.privacy.adaptive import CLIPPING_NORM, count_below
from myelin.privacy.clipping_kernels import clip_adaptive
from myelin.privacy.noise import SIGMA_UNITS
from myelin.privacy.oracle import apply_update, clipped_sums
from myelin.privacy.oracle_clipping import next_clipping_norm, share_below
from myelin.privacy.sensitivity import noise_deviation, sensitivity_bound

BATCH = 6
RULE = AdaptiveClipping(0.7, 0.3, count_noise=1.5)


def built(name: str, optimizer: Any = None, clipping_norm: float = 0.8) -> Built:
    the_plan = plan(5, clipping_norm=clipping_norm, clipping=RULE)
    return build(small_job(*CASES[name], the_plan, optimizer))


@pytest.mark.parametrize("name", ["hospitals tanh", "mnist", "tokens"])
@pytest.mark.parametrize("clipping_norm", [0.8, 1e-3, 1000.0])
def test_the_step_agrees_with_the_oracle(name: str, clipping_norm: float) -> None:
    job = built(name, clipping_norm=clipping_norm)
    x, labels, mask = draw(job.job)
    mask[2] = 0
    *values, norm_now = job.private.parameter_values
    assert job.private.parameter_names[-1] == CLIPPING_NORM
    assert norm_now == np.float32(clipping_norm)
    (*sums, count), norms, contributing = job.step(x, labels, mask, *values, norm_now)
    oracle = clipped_sums(job.graph.module["forward"], values, x, labels, mask, float(norm_now[0]), rule=RULE)
    np.testing.assert_allclose(norms, oracle.norms, rtol=5e-6)
    for found, expected in zip(sums, oracle.sums, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * max(np.abs(expected).max(), 1e-3))
    half = RULE.half_weight(job.job.plan)  # type: ignore[arg-type]
    real = [float(n) for n in oracle.norms[contributing == 1]]
    np.testing.assert_allclose(count, [share_below(float(norm_now[0]), real, half)], rtol=1e-6)


@pytest.mark.parametrize("optimizer", [SGD(0.2, momentum=0.9), Adam(0.01)])
@pytest.mark.parametrize("average", [None, ExponentialMovingAverage(0.9)])
def test_the_update_takes_gradients_in_units_of_the_norm_and_moves_the_norm(
    optimizer: Any, average: Any
) -> None:
    job = small_job(*CASES["hospitals tanh"], plan(5, clipping_norm=0.8, clipping=RULE), optimizer)
    job = Job(job.name, job.model, job.loss, job.optimizer, job.plan, job.schema, average=average)
    private = build(job)
    count = len(private.graph.parameter_names)
    values = list(private.private.parameter_values)
    state = [np.zeros(shape, np.float32) for shape in private.private.state_shapes]
    wide, wide_state = [v.astype(np.float64) for v in values[:-1]], [np.zeros(s.shape) for s in state]
    norm, random = 0.8, np.random.default_rng(3)
    half = RULE.half_weight(job.plan)  # type: ignore[arg-type]
    for step in (1, 2, 3):
        noisy = [random.normal(size=v.shape).astype(np.float32) for v in values]
        found = private.call("update", np.array([step], np.int32), *values, *state, *noisy)
        values, state = found[: count + 1], found[count + 1 :]
        gradients = [n.astype(np.float64) * norm for n in noisy[:-1]]
        new, new_state = apply_update(optimizer, step, wide, wide_state, gradients, average)
        wide, wide_state = list(new), list(new_state)
        norm = next_clipping_norm(RULE, norm, float(noisy[-1][0]), half)
        np.testing.assert_allclose(values[-1], [norm], rtol=1e-5)
        for a, b in zip([*values[:-1], *state], [*wide, *wide_state], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=3e-5)
    results = [*values, *state]
    for index, (name, released) in enumerate(
        zip(private.private.parameter_names, private.private.released, strict=True)
    ):
        assert results[released].shape == private.private.parameter_values[index].shape
        assert (released == index) == (average is None or name == CLIPPING_NORM)


@pytest.mark.parametrize("count", [1e30, -1e30, np.float32(3e38)])
def test_the_norm_stays_within_its_range(count: float) -> None:
    job = built("logistic")
    values = job.private.parameter_values
    noisy = [np.zeros_like(v) for v in values[:-1]]
    found = job.call("update", np.array([1], np.int32), *values, *noisy, np.array([count], np.float32))
    assert found[len(values) - 1][0] == (2.0**-20 if count > 0 else 2.0**20)


@pytest.fixture(scope="module")
def machine() -> relax.VirtualMachine:
    builder = relax.BlockBuilder()
    a, b, mask = (relax.Var(n, tensor((BATCH,))) for n in ("a", "b", "mask"))
    limit = relax.Var("limit", tensor((1,)))

    def body() -> list[relax.Expr]:
        norms, contributing, coefficients = clip_adaptive(builder, [a, b], mask, limit)
        count = count_below(builder, norms, contributing, limit, 0.25)
        return [norms, contributing, coefficients, count]

    emit_function(builder, "main", [a, b, mask, limit], body)
    return relax.VirtualMachine(relax.build(builder.finalize(), target="llvm"), tvm.cpu())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    norms=st.lists(
        st.one_of(st.floats(0, width=32), st.just(float("nan"))), min_size=2 * BATCH, max_size=2 * BATCH
    ),
    mask=st.lists(st.sampled_from([0.0, 1.0]), min_size=BATCH, max_size=BATCH),
    limit=st.one_of(st.floats(width=32), st.floats(2.0**-20, 2.0**20, width=32)),
)
def test_no_example_adds_more_than_one_norm_whatever_the_norm_is(
    machine: relax.VirtualMachine, norms: list[float], mask: list[float], limit: float
) -> None:
    parts = np.array(norms, np.float32).reshape(2, BATCH)
    arguments = [*parts, np.array(mask, np.float32), np.array([limit], np.float32)]
    results = machine["main"](*[tvm.runtime.tensor(a) for a in arguments])
    _, contributing, coefficients, count = (r.numpy() for r in results)
    bound = max(limit, 2.0**-20) if not math.isnan(limit) else 2.0**-20
    for i in range(BATCH):
        finite = np.isfinite(parts[:, i]).all()
        square = sum(Fraction(float(v)) ** 2 for v in parts[:, i]) if finite else Fraction(2**200)
        if mask[i] == 0 or square > 2**121:
            assert (contributing[i], coefficients[i]) == (0, 0)
        elif square < 2**119:
            c = Fraction(float(coefficients[i]))
            assert c * c * square <= 1
            if math.isfinite(bound):
                assert c * Fraction(bound) <= 1
                assert c * c * max(square, Fraction(bound) ** 2) >= (1 - Fraction(1, 10**6)) ** 2
    assert abs(count[0]) <= 0.25 * contributing.sum()


@pytest.mark.parametrize(
    ("multiplier", "batch", "noise"), [(1.0, 256, None), (3.0, 64, None), (0.7, 1000, 5.0), (2.0, 64, 1.1)]
)
def test_gradients_and_count_share_the_noise_as_in_the_paper(
    multiplier: float, batch: int, noise: float | None
) -> None:
    """Andrew et al., theorem 1: ``1/z² = 1/z_Δ² + 1/(2 σ_b)²``, from the numbers that the image runs with."""
    rule = AdaptiveClipping(count_noise=noise)
    the_plan = plan(16, expected_batch_size=batch, capacity=batch + 64, noise_multiplier=multiplier,
                    clipping=rule)  # fmt: skip
    half, contribution = rule.half_weight(the_plan), the_plan.clipping_norm_e9 / 1e9
    gradient_noise = multiplier * contribution
    count_noise = multiplier * contribution / (2 * half)
    assert count_noise == pytest.approx(noise or batch / 20, rel=1e-6)
    assert 1 / multiplier**2 == pytest.approx(1 / gradient_noise**2 + 1 / (2 * count_noise) ** 2, rel=1e-6)
    assert Fraction(half) ** 2 + 1 <= Fraction(the_plan.clipping_norm_e9, 10**9) ** 2


def test_the_sensitivity_is_of_gradient_and_count_together() -> None:
    the_plan = plan(5, clipping_norm=1e-3, clipping=RULE)
    bound = sensitivity_bound(the_plan, 1000, 5, SIGMA_UNITS)
    joint = math.sqrt(1 + RULE.half_weight(the_plan) ** 2)
    assert joint < float(bound) < 1.001 * joint
    assert the_plan.event(1000, math.ceil(bound * 10**9))["clipping_norm_e9"] == math.ceil(joint * 1e9)
    assert noise_deviation(the_plan, 10**9) == 1 / 5


def test_what_it_refuses() -> None:
    with pytest.raises(InputError, match=r"count_noise: expected at least 2\.2"):
        plan(5, noise_multiplier=4.0, clipping=AdaptiveClipping(count_noise=2.0))
    for wrong in ({"quantile": 0}, {"quantile": 1.0}, {"rate": 0}, {"count_noise": float("nan")}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            AdaptiveClipping(**wrong)  # type: ignore[arg-type]
    the_plan = plan(5, clipping=RULE)
    job = small_job(*CASES["logistic"], the_plan, DPAdamBC(0.1))
    with pytest.raises(BuildError, match="noise follows the clipping norm"):
        make_private(differentiate(job), the_plan)
