import numpy as np
import pytest

pytest.importorskip("tvm")

from networks import NETWORKS, case

from targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_step_equals_the_oracle(name, target):
    c = case(name, target=target)
    x, labels, mask = c.batch()
    mask[2] = 0
    sums, norms, contributing = c.native.run_step(x, labels, mask)
    want = c.oracle(x, labels, mask)
    np.testing.assert_array_equal(contributing, want.contributing)
    np.testing.assert_allclose(norms, want.norms, rtol=5e-6)
    for role, got, sum_ in zip(c.scheduled.roles.parameters, sums, want.sums, strict=True):
        np.testing.assert_allclose(got, sum_, atol=5e-6 * max(np.abs(sum_).max(), 1e-3), err_msg=role.name)


@pytest.mark.parametrize(
    ("name", "microbatch"), [*((name, 5) for name in NETWORKS), ("cnn", 64), ("mlp", 33)]
)
def test_an_examples_result_depends_neither_on_slot_nor_on_batch_mates(name, microbatch):
    c = case(name, microbatch)
    x, labels, mask = c.batch()
    _, norms, _ = c.native.run_step(x, labels, mask)
    order = np.random.default_rng(7).permutation(microbatch)
    _, permuted, _ = c.native.run_step(x[order], labels[order], mask)
    np.testing.assert_array_equal(permuted.view(np.int32), norms[order].view(np.int32))
    others = c.batch(seed=99)
    expected = None
    for slot in {0, 1, microbatch // 2, microbatch - 2, microbatch - 1}:
        y, z, _ = (array.copy() for array in others)
        y[slot], z[slot] = x[0], labels[0]
        alone = np.zeros(microbatch, np.float32)
        alone[slot] = 1
        sums, norms_, _ = c.native.run_step(y, z, alone)
        bits = [s.view(np.int32).copy() for s in sums]
        assert norms_[slot] == norms[0]
        expected = expected or bits
        for got, want in zip(bits, expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_an_example_that_is_not_finite_adds_nothing():
    c = case("odd cnn")
    x, labels, mask = c.batch()
    x[3] = np.float32(3e38)
    x[1, 0, 4, 4] = np.nan
    sums, norms, contributing = c.native.run_step(x, labels, mask)
    without = mask.copy()
    without[[1, 3]] = 0
    want, _, _ = c.native.run_step(x, labels, without)
    assert contributing[1] == 0
    if contributing[3] == 0:
        for a, b in zip(sums, want, strict=True):
            np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))
    assert all(np.isfinite(s).all() for s in sums)
    assert np.isinf(norms[1])


@pytest.mark.parametrize("adam", [False, True])
def test_update_equals_the_oracle(adam):
    from myelin.privacy.oracle import apply_update

    c = case("mlp", adam=adam)
    rng = np.random.default_rng(2)
    values = [v.astype(np.float64) for v in c.private.parameter_values]
    state = [np.zeros(shape) for shape in c.private.state_shapes]
    for step in (1, 2, 3):
        gradients = [rng.standard_normal(v.shape).astype(np.float32) for v in values]
        got = c.native.run_update(step, gradients)
        values, state = apply_update(c.job.optimizer, step, values, state, gradients)
        for a, b in zip(got, values, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
