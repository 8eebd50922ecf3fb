"""Kernels over rows and elements against float64, on odd sizes; what NaN and infinities give."""

import math

import numpy as np
import pytest
from kernel_runs import TARGETS, close, normal, run, the_same

from myelin.privacy.clipping import upper_outer_norm
from myelin.schedule import kernels
from myelin.schedule.kernels import activation, emit, rows, vectors

SHAPES = [(3, 1), (2, 3), (5, 17), (2, 3, 33), (4, 129), (1, 256)]


def both(make, *inputs):
    """Outputs on one target, after comparing them with the other's to the bit."""
    return the_same([run(make(kernels.MACHINES[target]), target, *inputs) for target in TARGETS])


@pytest.mark.parametrize("shape", SHAPES)
def test_softmax_and_its_gradient(shape):
    x, g = 5 * normal(*shape), normal(*shape, seed=1)
    wide = x.astype(np.float64)
    power = np.exp(wide - wide.max(-1, keepdims=True))
    y = power / power.sum(-1, keepdims=True)
    got = both(lambda machine: rows.softmax(machine, shape), x)[0]
    np.testing.assert_allclose(got, y, rtol=2e-6, atol=1e-38)
    want = got * (g - (g * got.astype(np.float64)).sum(-1, keepdims=True))
    close(both(lambda machine: rows.softmax_gradient(machine, shape), g, got)[0], want, 1e-6)


def test_softmax_of_what_is_not_finite():
    x = normal(4, 33)
    x[0, 7], x[1, 32], x[2, :5] = np.nan, np.inf, -np.inf
    got = both(lambda machine: rows.softmax(machine, x.shape), x)[0]
    assert np.isnan(got[:2]).all()
    assert np.isfinite(got[2:]).all()
    np.testing.assert_array_equal(got[2, :5], 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_normalisation_and_its_gradient(shape, offset):
    epsilon = 1e-5
    x, g = normal(*shape) + np.float32(offset), normal(*shape, seed=1)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    got, got_rstd = both(lambda machine: rows.normalise(machine, shape, epsilon), x)
    tolerance = 4e-6 if offset == 0 else 2e-2
    if shape[-1] > 1:
        np.testing.assert_allclose(got, centred * rstd, atol=tolerance)
        np.testing.assert_allclose(got_rstd, rstd[..., 0], rtol=tolerance)
    y, r = got.astype(np.float64), got_rstd.astype(np.float64)[..., None]
    want = r * (g - g.mean(-1, keepdims=True) - y * (g * y).mean(-1, keepdims=True))
    gradient = both(lambda machine: rows.normalise_gradient(machine, shape), g, got, got_rstd)[0]
    np.testing.assert_allclose(gradient, want, atol=4e-6 * max(1.0, r.max()))


def test_a_row_that_is_not_finite_stays_alone():
    x = normal(3, 40)
    x[1, 39] = np.nan
    y, rstd = both(lambda machine: rows.normalise(machine, x.shape, 1e-5), x)
    assert np.isnan(y[1]).all()
    assert np.isnan(rstd[1])
    assert np.isfinite(y[[0, 2]]).all()


def phi(x):
    return np.array([(1 + math.erf(v / math.sqrt(2))) / 2 for v in x.ravel()]).reshape(x.shape)


def gelu(x, approximate):
    if approximate == "none":
        return x * phi(x)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("shape", [(1,), (3, 17), (33, 129)])
def test_gelu_and_its_gradient(shape, approximate):
    x, g = 3 * normal(*shape), normal(*shape, seed=1)
    wide, step = x.astype(np.float64), 1e-5
    got = both(lambda machine: activation.gelu(machine, shape, approximate), x)[0]
    close(got, gelu(wide, approximate), 1e-6)
    slope = (gelu(wide + step, approximate) - gelu(wide - step, approximate)) / (2 * step)
    gradient = both(lambda machine: activation.gelu_gradient(machine, shape, approximate), g, x)[0]
    close(gradient, g * slope, 2e-6)
    both_at_once = both(lambda machine: activation.gelu_and_slope(machine, shape, approximate), x)
    np.testing.assert_array_equal(both_at_once[0], got)
    np.testing.assert_array_equal(both_at_once[1] * g, gradient)


FUNCTIONS = {
    "exp_nonpositive": (np.exp, 2.0),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 3.0),
    "tanh": (np.tanh, 3.0),
    "erf": (np.vectorize(math.erf), 8.0),
}


def test_gates_together_are_what_they_are_one_by_one():
    x = 8 * normal(5, 23)
    for gate, function in enumerate((vectors.sigmoid, vectors.sigmoid, vectors.tanh, vectors.sigmoid)):

        def together(value, lanes, gate=gate):
            return vectors.lstm_gates([value] * 4, lanes)[gate]

        made = [
            both(lambda machine, f=f: activation.elementwise(machine, "f", x.shape, 1, f), x)[0]
            for f in (function, together)
        ]
        np.testing.assert_array_equal(*made)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_vectors(name):
    reference, ulps = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    n = 1 << 14
    x = np.concatenate(
        [
            rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32),
            rng.uniform(-100, 100, n).astype(np.float32),
            rng.uniform(-4, 4, n).astype(np.float32),
            np.float32([np.inf, -np.inf, np.nan, 0.0, -0.0, -87.3, -87.4, -104.0, 0.625, -0.625, 4.0]),
        ]
    )
    x = x[~(x > 0)] if name == "exp_nonpositive" else x
    function = getattr(vectors, name)
    got = both(lambda machine: activation.elementwise(machine, name, x.shape, 1, function), x)[0]
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
    tiny = np.abs(exact) < np.finfo(np.float32).tiny
    assert (np.abs(got[tiny]) <= np.finfo(np.float32).tiny).all()
    # The first product of erf's quotient is a hundredth of x: below this it is no normal number.
    ok = ~np.isnan(x) & ~tiny & (np.abs(exact) > (1e-35 if name == "erf" else 0))
    error = np.abs(got[ok] - exact[ok]) / np.spacing(np.abs(exact[ok]).astype(np.float32))
    assert error.max() < ulps
    if name in ("tanh", "erf"):
        assert np.abs(got[ok]).max() <= 1


def test_partial_results_are_the_same_for_every_width():
    x = normal(1, 77)
    parts = [x[0, lane::16].astype(np.float32) for lane in range(16)]
    sums = []
    for part in parts:
        total = np.float32(0)
        for value in part:
            total = np.float32(total + value)
        sums.append(total)
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [np.float32(sums[i] + sums[i + half]) for i in range(half)]

    def make(machine):
        def body(source, out):
            emit.store(out, 0, rows.total(machine, 77, lambda at, lanes: emit.load(source, at, lanes)))

        return emit.kernel("total", [((1, 77), "float32")], [((1,), "float32")], body)

    assert both(make, x)[0][0] == sums[0]


@pytest.mark.parametrize(("left", "right"), [(1, 7), (8, 33), (64, 31), (200, 1023)])
def test_norm_of_outer_products(left, right):
    a, b = normal(5, left), normal(5, right, seed=1)
    a[1, -1], b[2, 0], a[3, 0] = np.inf, np.nan, 1e30
    a[4] = 0

    def exact(x):
        return (x.astype(np.float64) ** 2).sum(1)

    def make(_machine):
        # As float32, what is left of float64's accuracy in the sums would not show.
        return kernels.outer_norm(a.shape, b.shape, lambda x, y: (x * y * 2.0**-24).astype("float32"))

    with np.errstate(over="ignore"):
        want = (exact(a) * exact(b) * 2.0**-24).astype(np.float32)
    np.testing.assert_allclose(both(make, a, b)[0], want, rtol=2**-23)


def test_bound_of_outer_products():
    """The bound is above the norm, by little; what is not finite or too large is infinite."""
    a, b = normal(5, 65), normal(5, 130, seed=1)
    a[1, 3], b[2, 0], a[3, 64] = np.inf, np.nan, 2.0**61
    got = both(lambda _machine: kernels.outer_norm(a.shape, b.shape, upper_outer_norm), a, b)[0]
    assert np.isinf(got[1:4]).all()
    for n in (0, 4):
        norm = math.sqrt((a[n].astype(np.float64) ** 2).sum() * (b[n].astype(np.float64) ** 2).sum())
        assert norm < got[n] < norm * (1 + 2.0**-20)
