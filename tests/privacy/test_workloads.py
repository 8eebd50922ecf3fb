"""The six workloads, small: the compiled step against the float64 oracle, private and plain."""

from __future__ import annotations

import numpy as np
import pytest
from workloads import MICROBATCH, SMALL, TARGET, batch_of, compiled, compiled_plain

from myelin.image.check import check_kernels
from myelin.model import SGD, Adam, Optimizer
from myelin.privacy.oracle import apply_update, example_gradient, noisy_mean
from myelin.schedule import InferenceProgram, schedule_inference

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("name", SMALL)
def test_norms_and_clipped_sums_agree_with_the_oracle(name: str) -> None:
    case = compiled(name)
    x, labels, mask = batch_of(name)
    sums, norms, contributing = case.program.run_step(x, labels, mask, case.values)
    oracle = case.oracle(x, labels, mask)
    np.testing.assert_array_equal(contributing, [1, 1, 0, 1, 1])
    real = mask > 0
    assert norms[2] == 0
    ratio = norms[real] / oracle.norms[real]
    assert ratio.min() >= 1 - 1e-6  # of the gradient in float32 the norm is a bound, of the true one nearly
    assert ratio.max() <= 1.0001
    assert (oracle.norms[real] > case.clipping_norm).any()
    assert (oracle.norms[real] < case.clipping_norm).any()
    for parameter, found, expected in zip(case.private.parameter_names, sums, oracle.sums, strict=True):
        scale = np.linalg.norm(expected)
        assert np.linalg.norm(found - expected) <= 1e-5 * scale, parameter


@pytest.mark.parametrize("name", ["resnet20", "mlp", "lstm", "transformer"])
def test_plain_sums_are_the_gradients_of_the_unmasked_examples(name: str) -> None:
    case = compiled(name)
    x, labels, mask = batch_of(name)
    sums, norms, contributing = compiled_plain(name).run_step(x, labels, mask, case.values)
    oracle = case.oracle(x, labels, mask)
    np.testing.assert_array_equal(contributing, [1, 1, 0, 1, 1])
    assert not norms.any()
    for index, (parameter, found) in enumerate(zip(case.private.parameter_names, sums, strict=True)):
        expected = sum(g[index] for g, real in zip(oracle.gradients, mask, strict=True) if real)
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected), parameter


@pytest.mark.parametrize("name", SMALL)
def test_an_example_that_is_not_a_number_adds_nothing(name: str) -> None:
    """As a feature where features are numbers; NaN as a token is the first row, and counts."""
    case = compiled(name)
    x, labels, mask = batch_of(name)
    bad = x.copy()
    bad[1].flat[0] = np.nan
    sums, norms, contributing = case.program.run_step(bad, labels, mask, case.values)
    if SMALL[name][3]:
        x[1].flat[0] = 0
        expected, _, _ = case.program.run_step(x, labels, mask, case.values)
        assert contributing[1] == 1
    else:
        without = mask.copy()
        without[1] = 0
        expected, _, _ = case.program.run_step(x, labels, without, case.values)
        assert (contributing[1], norms[1]) == (0, np.inf)
    for found, want in zip(sums, expected, strict=True):
        np.testing.assert_array_equal(found.view(np.int32), want.view(np.int32))


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_tokens_outside_of_the_vocabulary_read_the_nearest_row(name: str) -> None:
    case = compiled(name)
    x, labels, mask = batch_of(name)
    wild = np.array([-1, np.nan, -np.inf, np.inf, 3e9, 2**24, -0.5], np.float32)
    tame, last = x.copy(), SMALL[name][3] - 1
    x[0], tame[0] = wild, np.array([0, 0, 0, last, last, last, 0], np.float32)
    found, norms, _ = case.program.run_step(x, labels, mask, case.values)
    expected, tame_norms, _ = case.program.run_step(tame, labels, mask, case.values)
    np.testing.assert_array_equal(norms, tame_norms)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", SMALL)
def test_an_example_depends_neither_on_its_slot_nor_on_the_others(name: str) -> None:
    case = compiled(name)
    x, labels, _ = batch_of(name)
    mask = np.ones(MICROBATCH, np.float32)
    _, norms, _ = case.program.run_step(x, labels, mask, case.values)
    others, other_labels, _ = batch_of(name, seed=9)
    expected = None
    for slot in range(MICROBATCH):
        y, z, alone = others.copy(), other_labels.copy(), np.zeros(MICROBATCH, np.float32)
        y[slot], z[slot], alone[slot] = x[0], labels[0], 1
        sums, found, _ = case.program.run_step(y, z, alone, case.values)
        bits = [s.view(np.int32) for s in sums]
        expected = expected or bits
        assert found[slot] == norms[0]
        assert all(np.array_equal(a, b) for a, b in zip(bits, expected, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_kernels_call_nothing_that_an_image_lacks(name: str) -> None:
    """No mathematics library, above all."""
    check_kernels(compiled(name).program.scheduled.object)


@pytest.mark.parametrize("name", ["resnet20", "lstm", "transformer"])
def test_the_forward_pass_alone_gives_the_oracles_probabilities(name: str) -> None:
    case = compiled(name)
    x, _, _ = batch_of(name)
    logits = InferenceProgram(schedule_inference(case.graph, TARGET), list(case.values)).run(x)
    for row, features in zip(logits.astype(np.float64), x, strict=True):
        # For a label that is no class, the gradient at the last bias is the softmax itself.
        expected = example_gradient(case.graph.module["forward"], case.values, features, -1)[-1]
        powers = np.exp(row - row.max())
        np.testing.assert_allclose(powers / powers.sum(), expected, rtol=1e-5)


OTHERS = [SGD(0.2), SGD(0.2, momentum=0.9), Adam(0.01)]
"""Beside the workloads' own, AdamW."""


@pytest.mark.parametrize(
    ("name", "optimizer"), [*((name, None) for name in SMALL), *(("mlp", other) for other in OTHERS)]
)
def test_whole_steps_with_injected_noise_agree_with_the_oracle(
    name: str, optimizer: Optimizer | None
) -> None:
    case = compiled(name) if optimizer is None else compiled(name, optimizer)
    random = np.random.default_rng(3)
    values = [v.astype(np.float64) for v in case.values]
    state = [np.zeros(shape) for shape in case.private.state_shapes]
    x, labels, mask = batch_of(name)
    grid = 2.0**-12
    noise = [random.integers(-900, 900, v.shape) for v in values]
    sums, _, _ = case.program.run_step(x, labels, mask, case.values)
    wide = case.oracle(x, labels, mask).sums
    noisy = [g.astype(np.float32) for g in noisy_mean([s.astype(np.float64) for s in sums], grid, noise, 4)]
    found = case.program.run_update(1, noisy)
    expected, _ = apply_update(case.job.optimizer, 1, values, state, noisy_mean(wide, grid, noise, 4))
    for before, after, want in zip(case.values, found, expected, strict=True):
        moved = np.linalg.norm(want - before)
        # Rounding to the grid may fall the other way, by one unit; Adam's first step is a sign.
        assert np.linalg.norm(after - want) <= 1e-5 * np.linalg.norm(want) + 2e-3 * moved
