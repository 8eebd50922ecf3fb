"""Norms and coefficients: never understated, whatever the float32 values are."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, te

from myelin.graph.relax_ir import call_family, emit_function, family, tensor
from myelin.privacy.clipping import LARGEST_NORM, clip, kept_norm, outer_norm, upper_norm
from myelin.privacy.strategy import kept_sum

Array = npt.NDArray[np.float32]
BATCH, WIDTH = 6, 5
CLIPPING_NORM = 0.7


@pytest.fixture(scope="module")
def machine() -> relax.VirtualMachine:
    builder = relax.BlockBuilder()
    a, b = (relax.Var(n, tensor((BATCH, WIDTH))) for n in "ab")
    n1, n2, mask, c = (relax.Var(n, tensor((BATCH,))) for n in ("n1", "n2", "mask", "c"))
    emit_function(builder, "outer", [a, b], lambda: [outer_norm(builder, a, b)])
    emit_function(builder, "kept", [a], lambda: [kept_norm(builder, a)])
    emit_function(builder, "clip", [n1, n2, mask], lambda: clip(builder, [n1, n2], mask, CLIPPING_NORM))
    emit_function(builder, "sum", [a, c], lambda: [kept_sum(builder, a, c)])
    return relax.VirtualMachine(relax.build(builder.finalize(), target="llvm"), tvm.cpu())


def call(machine: relax.VirtualMachine, name: str, *arguments: Array) -> list[Array]:
    return [
        r.numpy() for r in machine[name](*[tvm.runtime.tensor(np.asarray(a, np.float32)) for a in arguments])
    ]


def exact_square(values: Array) -> Fraction:
    return sum((Fraction(float(v)) ** 2 for v in values.flat), Fraction(0))


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.lists(FLOATS, min_size=BATCH * WIDTH, max_size=BATCH * WIDTH).map(
    lambda v: np.array(v, np.float32).reshape(BATCH, WIDTH)
)
SLACK = Fraction(1, 10**6)
TINY = Fraction(1, 2**120)
"""Below float32's normal range a norm is rounded to a subnormal; nothing that small is ever clipped."""
KEPT_SLACK, KEPT_TINY = Fraction(25, 10**7), WIDTH * Fraction(1, 2**125)
"""The same for a kept gradient, whose bound allows for float32 chains; the second is of the square."""


@settings(max_examples=200, deadline=None, derandomize=True)
@given(a=ROWS, b=ROWS)
def test_norms_are_upper_bounds_and_tight_for_any_floats(
    machine: relax.VirtualMachine, a: Array, b: Array
) -> None:
    limit = Fraction(LARGEST_NORM) ** 2
    for i, (outer, kept) in enumerate(
        zip(call(machine, "outer", a, b)[0], call(machine, "kept", a)[0], strict=True)
    ):
        squares = exact_square(a[i]), exact_square(b[i])
        for found, square, fits, slack, tiny in (
            (outer, squares[0] * squares[1], max(squares) <= limit, SLACK, TINY),
            (kept, squares[0], squares[0] <= limit, KEPT_SLACK, KEPT_TINY),
        ):
            if not fits:
                assert found == np.inf
                continue
            assert (Fraction(float(found)) + TINY) ** 2 >= square
            assert Fraction(float(found)) ** 2 <= square * (1 + slack) ** 2 + tiny


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e18])
def test_a_factor_that_is_not_finite_is_not_saved_by_a_zero(
    machine: relax.VirtualMachine, bad: float
) -> None:
    a, b = np.zeros((BATCH, WIDTH)), np.zeros((BATCH, WIDTH))
    a[2, 3] = bad
    for arguments in ((a, b), (b, a)):
        norms = call(machine, "outer", *arguments)[0]
        assert norms[2] == np.inf
        assert not norms[[0, 1, 3, 4, 5]].any()


def test_small_inputs_times_large_gradients_do_not_underflow(machine: relax.VirtualMachine) -> None:
    """In float32 |a|² would be 0 and the product would pass as a gradient of norm zero, unclipped."""
    a, b = np.full((BATCH, WIDTH), 1e-23), np.full((BATCH, WIDTH), 1e17)
    expected = float(np.float32(1e-23)) * float(np.float32(1e17)) * WIDTH
    np.testing.assert_allclose(call(machine, "outer", a, b)[0], expected, rtol=1e-6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    norms=st.lists(
        st.one_of(st.floats(0, width=32), st.just(float("nan"))), min_size=2 * BATCH, max_size=2 * BATCH
    ),
    mask=st.lists(st.sampled_from([0.0, 1.0]), min_size=BATCH, max_size=BATCH),
)
def test_coefficients_never_let_more_than_the_clipping_norm_pass(
    machine: relax.VirtualMachine, norms: list[float], mask: list[float]
) -> None:
    parts = np.array(norms, np.float32).reshape(2, BATCH)
    total, contributing, coefficients = call(machine, "clip", *parts, np.array(mask))
    limit = Fraction(CLIPPING_NORM)
    for i in range(BATCH):
        square = exact_square(parts[:, i]) if np.isfinite(parts[:, i]).all() else 2**200
        if mask[i] == 0:
            assert (total[i], contributing[i], coefficients[i]) == (0, 0, 0)
        elif square > 2**121:
            assert (contributing[i], coefficients[i]) == (0, 0)
        elif square < 2**119:
            c = Fraction(float(coefficients[i]))
            assert contributing[i] == 1
            assert 0 < c <= 1
            assert c * c * square <= limit * limit
            assert c == 1 or c * c * square >= limit * limit * (1 - SLACK) ** 2
            assert (Fraction(float(total[i])) + TINY) ** 2 >= square


def test_the_clipping_norm_itself_passes_whole(machine: relax.VirtualMachine) -> None:
    at = np.nextafter(np.float32(CLIPPING_NORM), np.float32(0))
    norms = np.array([at * np.float32(1 - 1e-6), 0, 1.4, 0.7e-30, 7, 1e18], np.float32)
    _, contributing, coefficients = call(machine, "clip", norms, np.zeros(BATCH), np.ones(BATCH))
    np.testing.assert_allclose(coefficients, [1, 1, 0.5, 1, 0.1, 0.7e-18], rtol=1e-6)
    assert coefficients[0] == coefficients[1] == coefficients[3] == 1
    assert contributing.all()


def test_sums_select_and_never_multiply_what_is_not_counted(machine: relax.VirtualMachine) -> None:
    gradients = np.arange(BATCH * WIDTH, dtype=np.float32).reshape(BATCH, WIDTH)
    coefficients = np.array([0, 1, 0, 0.5, 0, 1], np.float32)
    expected = (coefficients[:, None] * gradients).sum(axis=0)
    gradients[0], gradients[2], gradients[4] = np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(call(machine, "sum", gradients, coefficients)[0], expected)


CHAIN, TERMS = 64, 64 * 50


def chained_squares(values: Array) -> float:
    """Squares as a kernel may add them: float32 chains of 64, each step rounded down, then float64.

    Every step loses as much as a rounding can, and what would be subnormal is lost whole.
    """
    total = 0.0
    for chain in values.astype(np.float64).reshape(-1, CHAIN):
        partial = np.float32(0)
        for value in chain:
            exact = Fraction(float(value)) ** 2 + Fraction(float(partial))
            rounded = np.float32(float(exact))
            if Fraction(float(rounded)) > exact:
                rounded = np.nextafter(rounded, np.float32(0))
            partial = rounded if rounded >= 2.0**-126 else np.float32(0)
        total += float(partial)
    return total


@pytest.mark.parametrize("scale", [1.0, 2.0**-62, 2.0**-64, 2.0**-70, 2.0**50])
def test_float32_chains_of_64_are_covered_by_the_bound(scale: float) -> None:
    builder, squares = relax.BlockBuilder(), relax.Var("squares", tensor((1,), "float64"))
    source = te.placeholder((1,), "float64", name="squares")
    bound = te.compute((1,), lambda i: upper_norm(source[i], TERMS), name="bound")
    function = family("test.upper", [source, bound])
    emit_function(
        builder, "main", [squares], lambda: call_family(builder, function, [squares], [tensor((1,))], "b")
    )
    program = relax.VirtualMachine(relax.build(builder.finalize(), target="llvm"), tvm.cpu())
    random = np.random.default_rng(8)
    for values in (random.uniform(0.5, 1, TERMS), random.normal(0, 1, TERMS), np.full(TERMS, 1 + 2.0**-23)):
        scaled = (values * scale).astype(np.float32)
        summed = np.array([chained_squares(scaled)])
        found = Fraction(float(program["main"](tvm.runtime.tensor(summed))[0].numpy()[0]))
        exact = exact_square(scaled)
        assert found**2 >= exact
        assert found**2 <= exact * (1 + KEPT_SLACK) ** 2 + 2 * TERMS * Fraction(1, 2**125)
