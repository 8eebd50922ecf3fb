"""Convolutions and their gradients against NumPy in float64, on odd shapes, borders and all."""

import numpy as np
import pytest

pytest.importorskip("tvm")

from kernel_runs import TARGETS, WIDEST, build, close, normal, run, the_same
from tvm import tirx

from myelin.schedule import kernels

pytestmark = pytest.mark.numeric

# m, h, w, c, u, v, o, strides, padding (top, left, bottom, right)
SHAPES = [
    (2, 28, 28, 1, 8, 8, 16, (2, 2), (3, 3, 3, 3)),
    (3, 7, 9, 5, 3, 2, 7, (1, 2), (1, 0, 2, 1)),
    (2, 6, 6, 3, 1, 1, 4, (3, 3), (0, 0, 0, 0)),
    (5, 9, 8, 2, 3, 4, 20, (2, 1), (0, 2, 0, 1)),
    (1, 5, 5, 33, 3, 3, 35, (1, 1), (1, 1, 1, 1)),
    (2, 3, 2, 4, 5, 5, 6, (1, 1), (4, 3, 2, 3)),
    (1, 34, 33, 17, 3, 3, 50, (1, 1), (1, 1, 1, 1)),
    (3, 13, 13, 16, 4, 4, 32, (2, 2), (0, 0, 0, 0)),
    (2, 4, 4, 130, 2, 2, 66, (1, 1), (0, 0, 0, 0)),
]
NAMES = ("m", "h", "w", "c", "u", "v", "o", "strides", "padding")


class Layer:
    """One convolution's tensors, and what float64 makes of them."""

    def __init__(self, m, h, w, c, u, v, o, strides, padding):
        top, left, bottom, right = padding
        self.strides, self.padding, self.size = strides, padding, (u, v)
        self.x, self.k = normal(m, h, w, c), normal(o, c, u, v, seed=1)
        self.bias = normal(o, seed=4)
        padded = np.pad(self.x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
        p, q = (padded.shape[1] - u) // strides[0] + 1, (padded.shape[2] - v) // strides[1] + 1
        self.g = normal(m, p, q, o, seed=2)
        self.out, self.kept = np.zeros((m, p, q, o)), np.zeros((m, u, v, c, o))
        data, g, k = np.zeros(padded.shape), self.g.astype(np.float64), self.k.astype(np.float64)
        for i in range(u):
            for j in range(v):
                rows = slice(i, i + strides[0] * (p - 1) + 1, strides[0])
                at = (slice(None), rows, slice(j, j + strides[1] * (q - 1) + 1, strides[1]))
                self.out += padded[at] @ k[:, :, i, j].T
                self.kept[:, i, j] = np.einsum("mpqc,mpqo->mco", padded[at], g)
                data[at] += g @ k[:, :, i, j]
        self.data = data[:, top : top + h, left : left + w]

    @property
    def forward_shape(self):
        return (*self.size, self.x.shape[3], self.g.shape[3])

    @property
    def backward_shape(self):
        return (*self.size, self.g.shape[3], self.x.shape[3])

    def forward(self, target, finish=None, extra=(), first=False):
        machine = kernels.MACHINES[target]
        arguments = (self.x.shape, self.forward_shape, self.strides, self.padding)
        block = kernels.block_width(machine, *arguments)
        k = run(kernels.blocked_weight(self.k.shape, block), target, self.k)[0]
        x, source = self.x, None
        if first:
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
            source = kernels.channel_first(x.shape)
        function = kernels.conv2d(machine, *arguments, source, finish or kernels.Finish())
        return run(function, target, x, k, *extra)[0]

    def backward(self, target, finish=None, extra=()):
        machine = kernels.MACHINES[target]
        arguments = (self.g.shape, self.backward_shape, self.x.shape, self.strides, self.padding)
        block = kernels.gradient_block_width(machine, *arguments)
        k = run(kernels.blocked_weight(self.k.shape, block, True), target, self.k)[0]
        function = kernels.conv2d_data_gradient(machine, *arguments, finish or kernels.Finish())
        return run(function, target, self.g, k, *extra)[0]

    def gradient_arguments(self, target):
        return (kernels.MACHINES[target], self.x.shape, self.g.shape, self.size, self.strides, self.padding)

    def weight(self, target, x=None, g=None):
        function = kernels.conv2d_weight_gradient(*self.gradient_arguments(target))
        return run(function, target, self.x if x is None else x, self.g if g is None else g)[0]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(NAMES, SHAPES)
def test_forward(target, m, h, w, c, u, v, o, strides, padding):
    layer = Layer(m, h, w, c, u, v, o, strides, padding)
    close(layer.forward(target), layer.out)
    finish = kernels.Finish(bias=True, relu=True)
    close(layer.forward(target, finish, [layer.bias]), np.maximum(layer.out + layer.bias, 0))
    np.testing.assert_array_equal(layer.forward(target, first=True), layer.forward(target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(NAMES, SHAPES)
def test_data_gradient(target, m, h, w, c, u, v, o, strides, padding):
    layer = Layer(m, h, w, c, u, v, o, strides, padding)
    close(layer.backward(target), layer.data)
    finish = kernels.Finish(mask=True)
    close(layer.backward(target, finish, [layer.x]), np.where(layer.x > 0, layer.data, 0))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(NAMES, SHAPES)
def test_weight_gradients(target, m, h, w, c, u, v, o, strides, padding):
    layer = Layer(m, h, w, c, u, v, o, strides, padding)
    arguments, total = layer.gradient_arguments(target), layer.kept.shape[1:]
    kept = layer.weight(target)
    close(kept, layer.kept)
    first = np.ascontiguousarray(layer.x.transpose(0, 3, 1, 2))
    source = kernels.channel_first(first.shape)
    function = kernels.conv2d_weight_gradient(*arguments, source, lambda s: tirx.sqrt(s).astype("float32"))
    got, norms = run(function, target, first, layer.g)
    np.testing.assert_array_equal(got, kept)
    exact = np.sqrt((kept.astype(np.float64) ** 2).sum((1, 2, 3, 4)))
    np.testing.assert_allclose(norms, exact, rtol=32 * 2**-24)
    got = run(kernels.conv2d_weight_gradient_sum(*arguments), target, layer.x, layer.g)[0]
    close(got, layer.kept.sum(0))
    order = run(kernels.weight_order(kernels.MACHINES[target], total), target, got)[0]
    np.testing.assert_array_equal(order, got.transpose(3, 2, 0, 1))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(NAMES, SHAPES)
def test_weighted_sum_selects(target, m, h, w, c, u, v, o, strides, padding):
    layer = Layer(m, h, w, c, u, v, o, strides, padding)
    factors = np.random.default_rng(5).uniform(0.1, 1, m).astype(np.float32)
    layer.x[0, 0, 0, 0], layer.g[0] = np.nan, np.inf
    factors[0] = 0
    function = kernels.conv2d_weight_gradient_sum(*layer.gradient_arguments(target), weighted=True)
    got = run(function, target, layer.x, layer.g, factors)[0]
    close(got, np.einsum("m,m...->...", factors[1:].astype(np.float64), layer.kept[1:]))


@pytest.mark.parametrize("shape", SHAPES)
def test_results_are_the_same_for_every_slot_and_target(shape):
    layer = Layer(*shape)
    turned = np.arange(layer.x.shape[0])[::-1]
    other = Layer(*shape)
    other.x, other.g = layer.x[turned].copy(), layer.g[turned].copy()
    for call in ("forward", "backward", "weight"):
        want = getattr(layer, call)(WIDEST)
        np.testing.assert_array_equal(getattr(other, call)(WIDEST), want[turned])
        np.testing.assert_array_equal(getattr(layer, call)("x86-64-v3"), want)


@pytest.mark.parametrize("by_example", [False, True])
def test_sums_go_on_from_example_to_example(by_example, monkeypatch):
    """Whether tiles or examples come first changes no bit."""
    from myelin.schedule.kernels import conv_gradient

    layer = Layer(*SHAPES[4][:3], 9, 3, 3, 20, (1, 1), (1, 1, 1, 1))
    arguments = layer.gradient_arguments(WIDEST)
    want = run(kernels.conv2d_weight_gradient_sum(*arguments), WIDEST, layer.x, layer.g)[0]
    monkeypatch.setattr(conv_gradient, "_CACHED_BYTES", 0 if by_example else 1 << 30)
    function = kernels.conv2d_weight_gradient_sum(*arguments)
    got = run(function, WIDEST, layer.x, layer.g)[0]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("length", [1, 7, 8, 63, 64, 65, 200, 2048, 2049, 5000])
def test_norm_of_kept_gradients(length):
    kept = normal(3, length)
    kept[2, -1] = np.inf
    function = kernels.kept_norm(kept.shape, lambda s: tirx.sqrt(s).astype("float32"))
    norms = the_same([run(function, target, kept) for target in TARGETS])
    exact = np.sqrt((kept.astype(np.float64) ** 2).sum(1))
    np.testing.assert_allclose(norms[0], exact, rtol=32 * 2**-24)


def test_a_kernel_builds_for_a_stride_that_skips_data():
    layer = Layer(1, 7, 7, 2, 1, 2, 3, (3, 3), (0, 0, 0, 0))
    close(layer.backward(WIDEST), layer.data)
    assert build(kernels.weight_order(kernels.MACHINES["x86-64-v3"], (1, 2, 2, 3)), "x86-64-v3") is not None
