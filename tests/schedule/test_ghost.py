"""The ghost norm of convolutions: never below the norm of what is summed, close above, whatever cancels."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tvm")

from kernel_runs import TARGETS, WIDEST, normal, run
from networks import Case

from myelin.privacy import rules
from myelin.privacy.conv2d_ghost import GHOST, slack, upper_bound
from myelin.schedule import kernels

pytestmark = pytest.mark.numeric

# m, h, w, c, u, v, o, strides, padding (top, left, bottom, right)
SHAPES = [
    (2, 8, 8, 16, 3, 3, 8, (1, 1), (1, 1, 1, 1)),
    (3, 7, 9, 5, 3, 2, 7, (1, 2), (1, 0, 2, 1)),
    (2, 6, 6, 3, 1, 1, 4, (3, 3), (0, 0, 0, 0)),
    (2, 3, 2, 4, 5, 5, 6, (1, 1), (4, 3, 2, 3)),
]


class Example:
    def __init__(self, m, h, w, c, u, v, o, strides, padding):
        top, left, bottom, right = padding
        p, q = (h + top + bottom - u) // strides[0] + 1, (w + left + right - v) // strides[1] + 1
        self.x, self.g = normal(m, h, w, c), normal(m, p, q, o, seed=1)
        self.size, self.strides, self.padding = (u, v), strides, padding
        self.kernel, self.places = (o, c, u, v), p * q

    def layer(self, target):
        machine = kernels.MACHINES[target]
        return (machine, self.x.shape, self.g.shape, self.size, self.strides, self.padding)

    def kept(self, target=WIDEST):
        return run(kernels.conv2d_weight_gradient(*self.layer(target)), target, self.x, self.g)[0]

    def bounds(self, target=WIDEST):
        def bound(sums):
            return upper_bound(self.kernel, self.places, sums.square, sums.size, sums.walk)

        made = kernels.conv2d_ghost_norm(*self.layer(target), bound, slack(self.kernel, self.places))
        return run(made, target, self.x, self.g)[0]

    def exact(self):
        """Norms of the gradient, and sums of its terms' norms, in float64."""
        (top, left, bottom, right), (_, p, q, o) = self.padding, self.g.shape
        x = np.pad(self.x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
        rows = [slice(i, i + self.strides[0] * (p - 1) + 1, self.strides[0]) for i in range(self.size[0])]
        columns = [slice(j, j + self.strides[1] * (q - 1) + 1, self.strides[1]) for j in range(self.size[1])]
        a = np.stack([x[:, r, s] for r in rows for s in columns], 3).reshape(len(x), p * q, -1)
        b = self.g.astype(np.float64).reshape(len(x), p * q, o)
        gradient = np.einsum("mti,mto->mio", a, b)
        size = (np.linalg.norm(a, axis=2) * np.linalg.norm(b, axis=2)).sum(1)
        return np.sqrt((gradient**2).sum((1, 2))), size


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e8])
def test_bound_is_above_and_close(target, shape, scale):
    example = Example(*shape)
    example.x *= np.float32(scale)
    kept, bounds, (exact, _) = example.kept(target), example.bounds(target), example.exact()
    summed = np.sqrt((kept.astype(np.float64) ** 2).sum((1, 2, 3, 4)))
    assert (bounds >= summed).all()
    assert (bounds >= exact).all()
    np.testing.assert_allclose(bounds, exact, rtol=2e-5)


def test_bounds_are_the_same_for_every_slot_and_target():
    example = Example(*SHAPES[1])
    bounds = example.bounds()
    np.testing.assert_array_equal(example.bounds("x86-64-v3"), bounds)
    example.x, example.g = example.x[::-1].copy(), example.g[::-1].copy()
    np.testing.assert_array_equal(example.bounds(), bounds[::-1])


def cancelling(example, kind, depth):
    """Make the terms of the gradient cancel, down to about ``depth`` of their size."""
    m, p, q, o = example.g.shape
    example.x[:] = normal(*example.x.shape[-1:], seed=7)
    g = normal(m, p * q, o, seed=8)
    rest = normal(m, p * q, o, seed=9) * np.float32(depth)
    half = p * q // 2
    if kind == "neighbours":
        g[:, 1 : 2 * half : 2] = -g[:, 0 : 2 * half : 2]
    else:
        g[:, half : 2 * half] = -g[:, :half]
    g[:, 2 * half :] = 0
    example.g = (g + rest).reshape(m, p, q, o)


@pytest.mark.parametrize("kind", ["neighbours", "halves"])
@pytest.mark.parametrize("depth", [1e-1, 1e-2, 5e-3])
def test_bound_under_cancellation(kind, depth):
    example = Example(2, 8, 8, 8, 1, 1, 16, (1, 1), (0, 0, 0, 0))
    cancelling(example, kind, depth)
    kept, bounds, (exact, size) = example.kept(), example.bounds(), example.exact()
    assert (size > 2 / depth * exact).all()
    summed = np.sqrt((kept.astype(np.float64) ** 2).sum((1, 2, 3, 4)))
    assert (bounds >= summed).all()
    assert (bounds >= exact).all()
    assert (bounds <= exact * 1.001).all()


def test_bound_holds_where_nothing_is_left():
    """All terms cancel but for roundings: the bound is of their size, and still above."""
    example = Example(*SHAPES[0])
    example.x[:] = normal(16, seed=7)
    example.g[:, 4:] = -example.g[:, :4] * np.float32(1 + 2**-20)
    kept, (_, size) = example.kept(), example.exact()
    summed = np.sqrt((kept.astype(np.float64) ** 2).sum((1, 2, 3, 4)))
    bounds = example.bounds()
    assert (bounds >= summed).all()
    assert (bounds <= size).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_bound_of_what_is_not_finite_is_infinite(value):
    example = Example(*SHAPES[0])
    example.x[0, 3, 4, 5] = value
    example.g[1, 0, 0, 0] = value
    assert np.isinf(example.bounds()).all()


@pytest.fixture
def ghosts(monkeypatch):
    rule = replace(rules.RULES["conv2d"], strategies=(GHOST,))
    monkeypatch.setitem(rules.RULES, "conv2d", rule)


@pytest.mark.parametrize("name", ["cnn", "odd cnn"])
def test_step_with_ghost_norms_equals_the_oracle(name, ghosts):
    case = Case(name, 5, WIDEST)
    x, labels, mask = case.batch()
    mask[2] = 0
    x[3, 0, 2, 2] = np.nan
    sums, norms, contributing = case.native.run_step(x, labels, mask)
    keep = np.array([0, 1, 4])
    want = case.oracle(x[keep], labels[keep], mask[keep])
    np.testing.assert_array_equal(contributing, [1, 1, 0, 0, 1])
    np.testing.assert_allclose(norms[keep], want.norms, rtol=5e-6)
    for got, sum_ in zip(sums, want.sums, strict=True):
        np.testing.assert_allclose(got, sum_, atol=5e-6 * max(np.abs(sum_).max(), 1e-3))
