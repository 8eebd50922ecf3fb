"""Pooling, group normalisation and orders of images against NumPy in float64."""

import numpy as np
import pytest

pytest.importorskip("tvm")

from kernel_runs import TARGETS, close, normal, run, the_same

from myelin.schedule import kernels

# shape, window, strides
POOLS = [
    ((2, 14, 14, 16), (2, 2), (1, 1)),
    ((3, 9, 7, 5), (3, 2), (2, 3)),
    ((1, 4, 4, 33), (2, 2), (2, 2)),
    ((2, 5, 7, 19), (2, 2), (2, 2)),
    ((1, 2, 2, 3), (2, 2), (1, 1)),
    ((2, 6, 5, 4), (3, 3), (1, 2)),
    ((2, 6, 5, 4), (1, 2), (1, 1)),
]


class Pool:
    def __init__(self, shape, window, strides):
        (m, h, w, c), self.window, self.strides = shape, window, strides
        self.x = np.random.default_rng(0).integers(-3, 3, shape).astype(np.float32)
        p, q = (h - window[0]) // strides[0] + 1, (w - window[1]) // strides[1] + 1
        self.out = (m, p, q, c)
        self.g = normal(*self.out, seed=3)

    def at(self, i, j):
        _, p, q, _ = self.out
        rows = slice(i, i + self.strides[0] * (p - 1) + 1, self.strides[0])
        return (slice(None), rows, slice(j, j + self.strides[1] * (q - 1) + 1, self.strides[1]))

    @property
    def places(self):
        return [self.at(i, j) for i in range(self.window[0]) for j in range(self.window[1])]

    @property
    def seen(self):
        return np.stack([self.x[at] for at in self.places])

    def forward(self, target):
        machine = kernels.MACHINES[target]
        function = kernels.max_pool2d(machine, self.x.shape, self.out, self.window, self.strides)
        return run(function, target, self.x)[0]

    def backward(self, target, mask):
        machine = kernels.MACHINES[target]
        function = kernels.max_pool2d_gradient(
            machine, self.x.shape, self.out, self.window, self.strides, mask
        )
        return run(function, target, self.g, self.x)[0]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("shape", "window", "strides"), POOLS)
def test_max_pooling(target, shape, window, strides):
    pool = Pool(shape, window, strides)
    np.testing.assert_array_equal(pool.forward(target), pool.seen.max(0))
    for place in [(0, 0), (shape[1] - 1, shape[2] - 1), (shape[1] // 2, 1)]:
        pool.x[(0, *place, 0)] = np.nan
        np.testing.assert_array_equal(np.isnan(pool.forward(target)), np.isnan(pool.seen.max(0)))


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("shape", "window", "strides"), POOLS)
def test_max_pooling_sends_the_gradient_to_the_first_greatest(target, shape, window, strides, mask):
    pool = Pool(shape, window, strides)
    want, first = np.zeros(shape), pool.seen.argmax(0)
    for number, at in enumerate(pool.places):
        want[at] += pool.g * (first == number)
    close(pool.backward(target, mask), np.where(pool.x > 0, want, 0) if mask else want)


# shape, groups
NORMS = [((3, 5, 7, 16), 8), ((2, 32, 32, 16), 8), ((2, 3, 3, 12), 3), ((1, 2, 1, 5), 5), ((2, 4, 4, 64), 8)]


def grouped(x, groups):
    m, h, w, c = x.shape
    return x.astype(np.float64).reshape(m, h * w, groups, c // groups)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("shape", "groups"), NORMS)
def test_group_normalisation(target, shape, groups):
    machine, epsilon = kernels.MACHINES[target], 1e-5
    x = normal(*shape) * 3 + 100
    parts = grouped(x, groups)
    centred = parts - parts.mean((1, 3), keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean((1, 3), keepdims=True) + epsilon)
    function = kernels.group_normalise(machine, shape, groups, epsilon)
    y, rstd = run(function, target, x)
    np.testing.assert_allclose(y, (centred * scale).reshape(shape), atol=3e-5)
    np.testing.assert_allclose(rstd, scale[:, 0, :, 0], rtol=2e-6)

    g, parts = normal(*shape, seed=1), grouped(y, groups)
    slopes = grouped(g, groups)
    first = slopes.mean((1, 3), keepdims=True)
    second = (slopes * parts).mean((1, 3), keepdims=True)
    want = rstd[:, None, :, None] * (slopes - first - parts * second)
    function = kernels.group_normalise_gradient(machine, shape, groups)
    close(run(function, target, g, y, rstd)[0], want.reshape(shape))

    factor = normal(shape[3], seed=2)
    got = run(kernels.group_normalise_gradient(machine, shape, groups, True), target, g, y, rstd, factor)
    slopes = grouped(g.astype(np.float64) * factor, groups)
    first, second = slopes.mean((1, 3), keepdims=True), (slopes * parts).mean((1, 3), keepdims=True)
    close(got[0], (rstd[:, None, :, None] * (slopes - first - parts * second)).reshape(shape))
    close(got[1], g.astype(np.float64).sum((1, 2)))
    close(got[2], (g.astype(np.float64) * y).sum((1, 2)))


@pytest.mark.parametrize(("shape", "groups"), NORMS)
def test_sums_over_pixels_are_the_same_for_every_target(shape, groups):
    a, b = normal(*shape), normal(*shape, seed=1)
    products = the_same([run(kernels.channel_products(m, shape), t, a, b) for t, m in MACHINES])
    close(products[0], (a.astype(np.float64) * b).sum((1, 2)))
    sums = the_same([run(kernels.channel_sums(m, shape), t, a) for t, m in MACHINES])
    close(sums[0], a.astype(np.float64).sum((1, 2)))
    the_same([run(kernels.group_normalise(m, shape, groups, 1e-5), t, a) for t, m in MACHINES])


MACHINES = [(target, kernels.MACHINES[target]) for target in TARGETS]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 33, 7, 2), (3, 1, 1, 9), (2, 35, 4, 9), (2, 16, 4, 4)])
def test_orders_of_images(shape, target):
    machine = kernels.MACHINES[target]
    x = normal(*shape)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(run(kernels.image_order(machine, shape, True), target, x)[0], last)
    back = kernels.image_order(machine, last.shape, False)
    np.testing.assert_array_equal(run(back, target, last)[0], x)
    flat = x.reshape(shape[0], -1)
    got = run(kernels.image_order(machine, shape, True, flat.shape), target, flat)[0]
    np.testing.assert_array_equal(got, last)
