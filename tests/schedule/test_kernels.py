"""Every elementary function against NumPy in float64, over all bit patterns."""

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm
from kernel_runs import TARGETS, build
from tvm import te

from myelin.schedule import elementary

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
