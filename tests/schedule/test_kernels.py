"""Every hand-written family and elementary function against NumPy in float64, on odd shapes."""

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm
from tvm import te

from myelin.schedule import elementary, kernels
from myelin.schedule.objects import llvm_target

TARGETS = ["x86-64-v3", "x86-64-v4"]


def build(function, target):
    named = tvm.IRModule({"f": function.with_attr("global_symbol", "f")})
    with tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}):
        return tvm.tirx.build(named, target=llvm_target(target), pipeline="s_tir")["f"]


def run(function, target, inputs, shape):
    out = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    build(function, target)(*(tvm.runtime.tensor(x) for x in inputs), out)
    return out.numpy()


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(got, want):
    np.testing.assert_allclose(got, want, atol=3e-6 * max(1.0, np.abs(want).max()))


# m, h, w, c, u, v, o, strides, padding (top, left, bottom, right)
CONVOLUTIONS = [
    (2, 28, 28, 1, 8, 8, 16, (2, 2), (3, 3, 3, 3)),
    (3, 7, 9, 5, 3, 2, 7, (1, 2), (1, 0, 2, 1)),
    (2, 6, 6, 3, 1, 1, 4, (3, 3), (0, 0, 0, 0)),
    (5, 9, 8, 2, 3, 4, 20, (2, 1), (0, 2, 0, 1)),
    (1, 5, 5, 33, 3, 3, 35, (1, 1), (1, 1, 1, 1)),
]


def windows(x, strides, p, q, i, j):
    rows = slice(i, i + strides[0] * (p - 1) + 1, strides[0])
    return (slice(None), rows, slice(j, j + strides[1] * (q - 1) + 1, strides[1]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("m", "h", "w", "c", "u", "v", "o", "strides", "padding"), CONVOLUTIONS)
def test_convolutions(target, m, h, w, c, u, v, o, strides, padding):
    machine, (top, left, bottom, right) = kernels.MACHINES[target], padding
    x, k = normal(m, h, w, c), normal(u, v, c, o, seed=1)
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    got = run(kernels.pad(machine, x.shape, padding), target, [x], padded.shape)
    np.testing.assert_array_equal(got, padded)
    p, q = (padded.shape[1] - u) // strides[0] + 1, (padded.shape[2] - v) // strides[1] + 1
    g = normal(m, p, q, o, seed=2)
    out, weight = np.zeros((m, p, q, o)), np.zeros((m, u, v, c, o))
    data = np.zeros(padded.shape)
    for i in range(u):
        for j in range(v):
            at = windows(padded, strides, p, q, i, j)
            seen = padded[at].astype(np.float64)
            out += seen @ k[i, j].astype(np.float64)
            weight[:, i, j] = np.einsum("mpqc,mpqo->mco", seen, g.astype(np.float64))
            data[at] += g.astype(np.float64) @ k[i, j].T.astype(np.float64)
    close(run(kernels.conv2d(machine, padded.shape, k.shape, strides), target, [padded, k], out.shape), out)
    function = kernels.conv2d_weight_gradient(machine, padded.shape, g.shape, (u, v), strides)
    close(run(function, target, [padded, g], weight.shape), weight)
    above, below = kernels.gradient_padding(h, u, strides[0], top, p)
    before, after = kernels.gradient_padding(w, v, strides[1], left, q)
    wide = np.pad(g, ((0, 0), (above, below), (before, after), (0, 0)))
    turned = np.ascontiguousarray(k.transpose(0, 1, 3, 2))
    function = kernels.conv2d_data_gradient(
        machine, wide.shape, turned.shape, x.shape, strides, (top, left), (above, before)
    )
    want = data[:, top : top + h, left : left + w]
    close(run(function, target, [wide, turned], want.shape), want)


POOLS = [((2, 14, 14, 16), (2, 2), (1, 1)), ((3, 9, 7, 5), (3, 2), (2, 3)), ((1, 4, 4, 33), (2, 2), (2, 2))]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("shape", "window", "strides"), POOLS)
def test_max_pooling_sends_the_gradient_to_the_first_greatest(target, shape, window, strides):
    machine, (m, h, w, c) = kernels.MACHINES[target], shape
    x = np.random.default_rng(0).integers(-3, 3, shape).astype(np.float32)
    p, q = (h - window[0]) // strides[0] + 1, (w - window[1]) // strides[1] + 1
    places = [windows(x, strides, p, q, i, j) for i in range(window[0]) for j in range(window[1])]
    seen = np.stack([x[at] for at in places])
    out = (m, p, q, c)
    got = run(kernels.max_pool2d(machine, shape, out, window, strides), target, [x], out)
    np.testing.assert_array_equal(got, seen.max(0))
    g, want = normal(*out, seed=3), np.zeros(shape)
    for number, at in enumerate(places):
        want[at] += g * (seen.argmax(0) == number)
    close(run(kernels.max_pool2d_gradient(machine, shape, out, window, strides), target, [g, x], shape), want)
    x[0, 1, 1, 0] = np.nan
    got = run(kernels.max_pool2d(machine, shape, out, window, strides), target, [x], out)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(np.stack([x[at] for at in places]).max(0)))


ELEMENTARY = {
    "exp": (np.exp, 2.0),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 3.0),
    "tanh": (np.tanh, 2.0),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ELEMENTARY)
def test_elementary_functions(target, name):
    n, (reference, ulps) = 1 << 18, ELEMENTARY[name]
    source = te.placeholder((n,), "float32", name="x")
    result = te.compute((n,), lambda i: getattr(elementary, name)(source[i]))
    function = build(te.create_prim_func([source, result]), target)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)
    special = [np.inf, -np.inf, np.nan, 0.0, -0.0, 88.72, 88.73, -87.3, -87.4, -103.9, -104.0, 0.625]
    for x in (bits, rng.uniform(-105, 95, n).astype(np.float32), np.resize(np.float32(special), n)):
        out = tvm.runtime.tensor(np.zeros(n, np.float32))
        function(tvm.runtime.tensor(x), out)
        got = out.numpy()
        with np.errstate(all="ignore"):
            exact = reference(x.astype(np.float64))
            rounded = exact.astype(np.float32)
        finite = np.isfinite(rounded)
        np.testing.assert_array_equal(got[~finite], rounded[~finite])
        error = np.abs(got[finite] - exact[finite]) / np.spacing(np.abs(rounded[finite]))
        assert error.max() < ulps
