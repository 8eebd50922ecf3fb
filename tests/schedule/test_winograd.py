"""Convolutions by fewer products against NumPy in float64: odd sizes, narrow channels, edge tiles, borders.

Every machine's cut is compiled for the oldest target, which any processor that runs these tests has; vectors
that are too long for it are two.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

pytest.importorskip("tvm")

from kernel_runs import build, call, close, normal
from tvm import tirx

from myelin.schedule import kernels
from myelin.schedule.kernels import winograd, winograd_gradient, winograd_tiles

TARGET = "x86-64-v3"
V3, V4 = kernels.MACHINES["x86-64-v3"], kernels.MACHINES["x86-64-v4"]
NONE = kernels.Finish()

# m, h, w, c, o, padding (top, left, bottom, right)
FEW = [(3, 5, 7, 9, 17, (1, 1, 1, 1))]
MANY = [(2, 6, 5, 19, 35, (2, 0, 1, 2)), (2, 4, 4, 80, 256, (1, 1, 1, 1)), (5, 8, 8, 33, 64, (1, 1, 1, 1))]
SHAPES = [*FEW, *(pytest.param(*shape, marks=pytest.mark.numeric) for shape in MANY)]
NAMES = ("m", "h", "w", "c", "o", "padding")


def bound(squares):
    return tirx.sqrt(squares).astype("float32")


class Layer:
    """One convolution's tensors, what float64 makes of them, and the kernels that have been built."""

    def __init__(self, m, h, w, c, o, padding):
        top, left, bottom, right = padding
        self.padding, self.built = padding, {}
        self.x, self.k, self.bias = normal(m, h, w, c), normal(o, c, 3, 3, seed=1), normal(o, seed=4)
        padded = np.pad(self.x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
        p, q = padded.shape[1] - 2, padded.shape[2] - 2
        self.g = normal(m, p, q, o, seed=2)
        self.out, self.kept = np.zeros((m, p, q, o)), np.zeros((m, 3, 3, c, o))
        data, g, k = np.zeros(padded.shape), self.g.astype(np.float64), self.k.astype(np.float64)
        for i in range(3):
            for j in range(3):
                at = (slice(None), slice(i, i + p), slice(j, j + q))
                self.out += padded[at] @ k[:, :, i, j].T
                self.kept[:, i, j] = np.einsum("mpqc,mpqo->mco", padded[at], g)
                data[at] += g @ k[:, :, i, j]
        self.data = data[:, top : top + h, left : left + w]

    def call(self, name, *arguments, inputs):
        """Run a kernel, built once."""
        key = (name, *arguments)
        if key not in self.built:
            function = getattr(kernels, name)(*arguments)
            self.built[key] = build(function, TARGET), function
        return call(*self.built[key], *inputs)

    def forward(self, machine, x=None, finish=NONE, extra=()):
        weight = self.call("winograd_weight", machine, self.k.shape, inputs=[self.k])[0]
        arguments = ("winograd_conv2d", machine, self.x.shape, self.g.shape, self.padding, finish)
        return self.call(*arguments, inputs=[self.x if x is None else x, weight, *extra])[0]

    def backward(self, machine, g=None, finish=NONE, extra=()):
        weight = self.call("winograd_weight", machine, self.k.shape, True, inputs=[self.k])[0]
        before = (2 - self.padding[0], 2 - self.padding[1])
        arguments = ("winograd_conv2d", machine, self.g.shape, self.x.shape, before, finish)
        return self.call(*arguments, inputs=[self.g if g is None else g, weight, *extra])[0]

    def weight(self, machine, x=None, g=None):
        inputs = [self.x if x is None else x, self.g if g is None else g]
        arguments = (machine, self.x.shape, self.g.shape, self.padding, bound)
        return self.call("winograd_weight_gradient", *arguments, inputs=inputs)[:2]

    def total(self, machine):
        arguments = ("winograd_weight_gradient_sum", machine, self.x.shape, self.g.shape, self.padding)
        return self.call(*arguments, inputs=[self.x, self.g])[0]


@cache
def layer_of(*shape):
    return Layer(*shape)


@pytest.mark.parametrize(NAMES, SHAPES)
def test_forward(m, h, w, c, o, padding):
    layer = layer_of(m, h, w, c, o, padding)
    got = layer.forward(V3)
    close(got, layer.out)
    np.testing.assert_array_equal(layer.forward(V4), got)
    finished = layer.forward(V3, finish=kernels.Finish(bias=True, relu=True), extra=[layer.bias])
    np.testing.assert_array_equal(finished, np.maximum(got + layer.bias, 0))


@pytest.mark.parametrize(NAMES, SHAPES)
def test_data_gradient(m, h, w, c, o, padding):
    layer = layer_of(m, h, w, c, o, padding)
    got = layer.backward(V4)
    close(got, layer.data)
    masked = layer.backward(V3, finish=kernels.Finish(mask=True), extra=[layer.x])
    np.testing.assert_array_equal(masked, np.where(layer.x > 0, got, 0))


@pytest.mark.parametrize(NAMES, SHAPES)
def test_weight_gradients(m, h, w, c, o, padding):
    layer = layer_of(m, h, w, c, o, padding)
    kept, norms = layer.weight(V3)
    close(kept, layer.kept)
    for got, first in zip(layer.weight(V4), (kept, norms), strict=True):
        np.testing.assert_array_equal(got, first)
    exact = np.sqrt((kept.astype(np.float64) ** 2).sum((1, 2, 3, 4)))
    np.testing.assert_allclose(norms, exact, rtol=32 * 2**-24)
    close(layer.total(V3), layer.kept.sum(0))


@pytest.mark.parametrize(NAMES, SHAPES)
def test_results_are_the_same_in_every_slot_and_beside_any_others(m, h, w, c, o, padding):
    """The last example, then the first, beside others that are not finite."""
    layer = layer_of(m, h, w, c, o, padding)
    x, g = layer.x[::-1].copy(), layer.g[::-1].copy()
    x[1:], g[1:] = np.nan, np.inf
    np.testing.assert_array_equal(layer.forward(V3, x)[0], layer.forward(V3)[-1])
    np.testing.assert_array_equal(layer.backward(V4, g)[0], layer.backward(V4)[-1])
    np.testing.assert_array_equal(layer.weight(V3, x, g)[0][0], layer.weight(V3)[0][-1])


def test_blocks_groups_and_tasks_change_no_bit(monkeypatch):
    """Whole images or rows of one, parts of the inputs, and cuts for threads: by blocks, then by strips."""
    shape = (4, 12, 6, 16, 48, (1, 1, 1, 1))

    def results():
        layer = Layer(*shape)
        return layer.forward(V3), layer.weight(V3)[0], layer.total(V3)

    want = results()
    close(want[2], Layer(*shape).kept.sum(0))
    for elements, tiles, tasks in ((16 * 16 * 10, 18, 4), (16 * 16 * 60, 64, 3)):
        monkeypatch.setattr(winograd, "_PATCH_ELEMENTS", elements)
        monkeypatch.setattr(winograd, "_TASKS", tasks)
        monkeypatch.setattr(winograd_gradient, "_PATCH_ELEMENTS", elements)
        monkeypatch.setattr(winograd_gradient, "_TILES", tiles)
        for got, first in zip(results(), want, strict=True):
            np.testing.assert_array_equal(got, first)


def test_norms_are_of_every_part_of_the_inputs(monkeypatch):
    """Squares are summed part by part while what was written is near: parts of 16, 16 and 8 inputs."""
    monkeypatch.setattr(winograd_gradient, "_KEPT_ELEMENTS", 9 * 16 * 16)
    layer = Layer(2, 4, 4, 40, 16, (1, 1, 1, 1))
    kept, norms = layer.weight(V3)
    close(kept, layer.kept)
    parts = np.sqrt((kept.astype(np.float64) ** 2).sum((1, 2, 4)))
    assert (parts > 1).all()
    np.testing.assert_allclose(norms, np.sqrt((parts**2).sum(1)), rtol=32 * 2**-24)


def test_nothing_is_written_or_read_beyond_a_tensor():
    """Bands cover every output once, and name no source outside."""
    for size in range(1, 12):
        for before in range(3):
            for places in range(max(1, size - 2), size + 3):
                found = winograd_tiles.bands(size, before, places)
                tiles = [band.start + k for band in found for k in range(band.count)]
                assert tiles == list(range(-(-places // 2)))
                made, met = [], []
                for band in found:
                    for tile in range(band.start, band.start + band.count):
                        made += [2 * tile + place for place in band.outputs]
                        met += [2 * tile - before + tap for tap in band.sources]
                assert made == list(range(places))
                assert all(0 <= source < size for source in met)


def test_shapes_decide():
    """The same for every machine, so that they agree to the bit; few channels or tiles do not pay."""
    pays, kept = kernels.winograd_pays, kernels.winograd_gradient_pays
    assert pays((4, 32, 32, 64), (4, 32, 32, 64), (3, 3), (1, 1))
    assert pays((4, 32, 32, 16), (4, 32, 32, 16), (3, 3), (1, 1))
    assert kept((4, 32, 32, 16), (4, 32, 32, 16), (3, 3), (1, 1))
    assert not pays((4, 32, 32, 64), (4, 16, 16, 64), (3, 3), (2, 2))
    assert not pays((4, 32, 32, 64), (4, 32, 32, 64), (5, 5), (1, 1))
    assert not pays((4, 32, 32, 4), (4, 32, 32, 4), (3, 3), (1, 1))
    assert not kept((4, 4, 4, 256), (4, 4, 4, 256), (3, 3), (1, 1))
    assert kernels.winograd_sum_pays((4, 4, 4, 256), (4, 4, 4, 256), (3, 3), (1, 1))


@pytest.mark.numeric
def test_every_target_compiles_its_own():
    for target, machine in kernels.MACHINES.items():
        shape = (2, 8, 8, 32)
        assert build(kernels.winograd_weight(machine, (32, 32, 3, 3)), target) is not None
        assert build(kernels.winograd_conv2d(machine, shape, shape, (1, 1)), target) is not None
        assert build(kernels.winograd_weight_gradient(machine, shape, shape, (1, 1)), target) is not None
