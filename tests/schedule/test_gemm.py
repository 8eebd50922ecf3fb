"""Products of every layout against NumPy in float64, and their one order of summation."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from kernel_runs import TARGETS, close, normal, run, the_same

from myelin.schedule import kernels
from myelin.schedule.kernels import Epilogue, Factor, Product, RowFinish
from myelin.schedule.kernels.blocking import Blocking


def factor(batch, rows, columns, turned=False):
    strides = [rows * columns * int(np.prod(batch[i + 1 :])) for i in range(len(batch))]
    shape = (*batch, columns, rows) if turned else (*batch, rows, columns)
    return Factor(shape, tuple(strides), *((1, rows) if turned else (columns, 1)))


def product(batch, m, k, n, kind, **more):
    left, right = factor(batch, m, k, kind[0] == "T"), factor(batch, k, n, kind[1] == "T")
    return Product(batch, m, k, n, left, right, factor(batch, m, n), **more)


def operands(p):
    return normal(*p.left.shape), normal(*p.right.shape, seed=1)


def exact(a, b, kind):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a.swapaxes(-1, -2) if kind[0] == "T" else a) @ (b.swapaxes(-1, -2) if kind[1] == "T" else b)


def chain(a, b, kind):
    """The order of summation that is promised: for each element, k ascending, one rounding a step."""
    a = (a.swapaxes(-1, -2) if kind[0] == "T" else a).astype(np.float64)
    b = (b.swapaxes(-1, -2) if kind[1] == "T" else b).astype(np.float64)
    total = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
    for i in range(a.shape[-1]):
        total = (total + a[..., :, i, None] * b[..., None, i, :]).astype(np.float32)
    return total


SIZES = [
    ((), 1, 1, 1),
    ((), 3, 1, 17),
    ((), 17, 33, 3),
    ((), 33, 129, 17),
    ((), 129, 17, 33),
    ((3,), 33, 3, 129),
    ((2, 3), 17, 17, 40),
    ((), 40, 256, 129),
    ((), 5, 1030, 70),
    ((), 70, 1100, 33),
    ((2,), 62, 128, 96),
    ((), 104, 530, 70),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["NN", "NT", "TN", "TT"])
@pytest.mark.parametrize(("batch", "m", "k", "n"), SIZES)
def test_every_layout(target, kind, batch, m, k, n):
    p = product(batch, m, k, n, kind)
    a, b = operands(p)
    got = run(kernels.gemm(kernels.MACHINES[target], p), target, a, b)[0]
    close(got, exact(a, b, kind), 4e-6)


@pytest.mark.parametrize(
    ("kind", "m", "k", "n"), [("NN", 33, 1030, 47), ("TN", 129, 600, 70), ("NT", 20, 40, 17)]
)
def test_sums_are_in_the_promised_order_on_both_targets(kind, m, k, n):
    p = product((), m, k, n, kind)
    a, b = operands(p)
    want = chain(a, b, kind)
    for target in TARGETS:
        got = run(kernels.gemm(kernels.MACHINES[target], p), target, a, b)[0]
        # float64 holds the product and all but never the sum exactly: a rounding in a million is doubled.
        assert np.mean(got != want) < 1e-3
        close(got, want, 1e-6)
    the_same([run(kernels.gemm(kernels.MACHINES[t], p), t, a, b) for t in TARGETS])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("k", "n", "turned"), [(33, 17, False), (129, 70, True), (3, 1, True), (16, 32, False)]
)
def test_a_packed_factor_gives_the_same_bits(target, k, n, turned):
    machine, kind = kernels.MACHINES[target], "NT" if turned else "NN"
    p = product((), 29, k, n, kind)
    a, b = operands(p)
    panels = run(kernels.pack(machine, (k, n), p.right), target, b)[0]
    packed = Product((), 29, k, n, p.left, None, p.target)
    got = run(kernels.gemm(machine, packed), target, a, panels)[0]
    np.testing.assert_array_equal(got, run(kernels.gemm(machine, p), target, a, b)[0])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("k", [33, 1030])
def test_epilogue(target, k):
    epilogue = Epilogue(scale=0.375, factor=True, bias=True, residual=True)
    p = product((), 31, k, 37, "NN", epilogue=epilogue)
    a, b = operands(p)
    factor, bias, residual = normal(31, 37, seed=4), normal(37, seed=2), normal(31, 37, seed=3)
    got = run(kernels.gemm(kernels.MACHINES[target], p), target, a, b, factor, bias, residual)[0]
    close(got, exact(a, b, "NN") * 0.375 * factor + bias + residual)


@pytest.mark.parametrize("target", TARGETS)
def test_rows_are_finished_as_kernels_of_their_own_would(target):
    machine, shape = kernels.MACHINES[target], (2, 3, 19, 37)
    scores = product((2, 3), 19, 8, 37, "NT", epilogue=Epilogue(scale=0.25))
    a, b = operands(scores)
    raw = run(kernels.gemm(machine, scores), target, a, b)[0]
    y = run(kernels.softmax(machine, shape), target, raw)[0]
    finished = replace(scores, finish=RowFinish.SOFTMAX)
    np.testing.assert_array_equal(run(kernels.gemm(machine, finished), target, a, b)[0], y)
    want = run(kernels.softmax_gradient(machine, shape), target, raw, y)[0] * np.float32(0.375)
    finished = replace(scores, finish=RowFinish.SOFTMAX_GRADIENT, finish_scale=0.375)
    np.testing.assert_array_equal(run(kernels.gemm(machine, finished), target, a, b, y)[0], want)


@pytest.mark.parametrize("target", TARGETS)
def test_heads_are_read_and_written_where_they_lie(target):
    """Projections [m, T, heads · d]: scores and context without a transposed copy."""
    m, t, heads, d = 2, 19, 3, 8
    machine, shape = kernels.MACHINES[target], (m, t, heads * d)
    row, batch = heads * d, (t * heads * d, d)
    q, k, v = (normal(*shape, seed=s) for s in range(3))
    split = [x.astype(np.float64).reshape(m, t, heads, d).transpose(0, 2, 1, 3) for x in (q, k, v)]
    p = Product(
        (m, heads), t, d, t,
        Factor(shape, batch, row, 1), Factor(shape, batch, 1, row), factor((m, heads), t, t),
    )  # fmt: skip
    scores = run(kernels.gemm(machine, p), target, q, k)[0]
    close(scores, split[0] @ split[1].swapaxes(2, 3))
    p = Product(
        (m, heads), t, t, d,
        factor((m, heads), t, t), Factor(shape, batch, row, 1), Factor(shape, batch, row, 1),
    )  # fmt: skip
    context = run(kernels.gemm(machine, p), target, scores, v)[0]
    want = (scores.astype(np.float64) @ split[2]).transpose(0, 2, 1, 3).reshape(shape)
    close(context, want)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("examples", "positions", "p", "d"), [(5, 1, 33, 17), (3, 7, 1, 40), (40, 30, 17, 129)]
)
def test_weighted_product_selects_by_coefficient(target, examples, positions, p, d):
    k = examples * positions
    machine = kernels.MACHINES[target]
    plan = Product(
        (), p, k, d, factor((), p, k, True), factor((), k, d), factor((), p, d), weighted=positions
    )
    g, x = normal(k, p), normal(k, d, seed=1)
    c = np.random.default_rng(0).uniform(0.1, 1, examples).astype(np.float32)
    c[1] = 0
    g[positions], x[positions] = np.nan, np.inf
    each = np.repeat(c, positions).astype(np.float64)
    counts = each > 0
    want = (g[counts] * each[counts, None]).T @ x[counts].astype(np.float64)
    got = run(kernels.gemm(machine, plan), target, g, x, c)[0]
    close(got, want, 4e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_a_row_does_not_depend_on_the_others(target):
    machine = kernels.MACHINES[target]
    for m, kind in itertools.product((1, 14, 37), ("NN", "NT")):
        p = product((), m, 300, 47, kind)
        a, b = operands(product((), 37, 300, 47, kind))
        whole = run(kernels.gemm(machine, product((), 37, 300, 47, kind)), target, a, b)[0]
        part = run(kernels.gemm(machine, p), target, a[37 - m :], b)[0]
        np.testing.assert_array_equal(part, whole[37 - m :])


@pytest.mark.parametrize("machine", kernels.MACHINES.values())
def test_blocks_of_rows_are_all_rows_and_none_is_low(machine):
    for m in range(1, 300):
        blocking = Blocking(product((), m, 8, 64, "NN"), machine)
        blocks = [
            range(cut.start + i * cut.length, cut.start + (i + 1) * cut.length)
            for cut in blocking.row_cuts
            for i in range(cut.count)
        ]
        assert [row for rows in blocks for row in rows] == list(range(m))
        assert max(map(len, blocks)) <= blocking.height
        assert m <= 2 * blocking.height or min(map(len, blocks)) >= min(3, blocking.height)


def test_large_factors_are_copied_and_small_ones_are_not():
    machine = kernels.MACHINES["x86-64-v4"]
    assert Blocking(product((), 4096, 1024, 256, "NN"), machine).packs_left
    assert Blocking(product((), 4096, 300, 256, "NN"), machine).packs_right
    assert Blocking(product((), 4, 30, 16, "NN"), machine).scratch == 0
    assert Blocking(product((), 1024, 4096, 1024, "TN"), machine).scratch * 4 < 1 << 20
