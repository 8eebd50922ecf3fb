"""The sensitivity covers what float and grid arithmetic really do, and stays close to the clipping norm."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from small_jobs import built_case, draw, plan

from myelin.errors import BuildError
from myelin.privacy import sensitivity_bound, sensitivity_e9
from myelin.privacy.noise import SIGMA_UNITS

HOSPITALS = plan(64, dataset_size=455, capacity=128, noise_multiplier=3.0, clipping_norm=0.25)
MNIST = plan(
    64, dataset_size=60_000, expected_batch_size=1024, capacity=1216, noise_multiplier=1.1, clipping_norm=0.5
)


@pytest.mark.parametrize(("the_plan", "parameters"), [(HOSPITALS, 530), (HOSPITALS, 1058), (MNIST, 26_010)])
def test_the_demos_pay_about_a_hundredth(the_plan: object, parameters: int) -> None:
    bound = sensitivity_bound(the_plan, parameters, 64, SIGMA_UNITS)  # type: ignore[arg-type]
    norm = Fraction(the_plan.clipping_norm)  # type: ignore[attr-defined]
    assert norm < bound <= norm * Fraction(1011, 1000)
    in_nanos = sensitivity_e9(the_plan, parameters, 64, SIGMA_UNITS)  # type: ignore[arg-type]
    assert bound <= Fraction(in_nanos, 10**9) < bound + Fraction(1, 10**9)


def test_the_bound_closes_over_the_grid_that_is_derived_from_it() -> None:
    """With the grid made of the rounded-up S, C·(1 + float error) + √P · grid is still at most S."""
    for parameters, multiplier in ((1, 0.01), (530, 3.0), (26_010, 1.1), (10**6, 50.0)):
        the_plan = plan(64, noise_multiplier=multiplier)
        rounded = Fraction(sensitivity_e9(the_plan, parameters, 64, SIGMA_UNITS), 10**9)
        grid = Fraction(multiplier) * rounded / SIGMA_UNITS * (1 + Fraction(1, 2**50))
        unit = Fraction(1, 2**24)
        gamma = 66 * unit / (1 - 66 * unit)
        batches = -(-the_plan.capacity // 64)
        assert rounded >= 1 + 2 * batches * 64 * gamma + Fraction(parameters**0.5) * grid


def test_each_part_only_grows() -> None:
    base = sensitivity_bound(MNIST, 26_010, 64, SIGMA_UNITS)
    assert sensitivity_bound(MNIST, 26_011, 64, SIGMA_UNITS) > base
    assert sensitivity_bound(MNIST, 26_010, 65, SIGMA_UNITS) > base
    assert sensitivity_bound(MNIST, 26_010, 64, SIGMA_UNITS - 1) > base


def test_every_physical_batch_may_round_differently() -> None:
    """A draw that shifts everyone's slot changes what each batch sums: the error counts once a batch."""
    one = sensitivity_bound(plan(64, capacity=64), 1, 64, SIGMA_UNITS) - 1
    four = sensitivity_bound(plan(64, capacity=256), 1, 64, SIGMA_UNITS) - 1
    assert four > Fraction(39, 10) * one


@pytest.mark.parametrize("clipping_norm", [1e-6, 1e9, 0.1, 1 / 3])
def test_it_is_never_below_the_clipping_norm(clipping_norm: float) -> None:
    the_plan = plan(1, capacity=1, clipping_norm=clipping_norm)
    assert sensitivity_e9(the_plan, 1, 1, SIGMA_UNITS) >= the_plan.clipping_norm_e9


def test_a_grid_that_would_dominate_is_refused() -> None:
    with pytest.raises(BuildError, match="use a smaller model or less noise"):
        sensitivity_bound(plan(noise_multiplier=1000.0), 10**6, 4, SIGMA_UNITS)


def test_a_reduction_that_is_too_long_is_refused() -> None:
    with pytest.raises(BuildError, match="lower the microbatch"):
        sensitivity_bound(plan(), 100, 2**24, SIGMA_UNITS)


def on_grid(sums: list[np.ndarray], grid: float) -> np.ndarray:
    return np.concatenate([np.rint(s.astype(np.float64) / grid).ravel() for s in sums])


@pytest.mark.parametrize("name", ["hospitals relu", "mnist"])
def test_one_record_moves_the_sum_on_the_grid_by_less_than_the_bound(name: str) -> None:
    """All examples clipped and alike, the worst case: one whole example more, plus every rounding."""
    built = built_case(name, 0.1)
    x, labels, mask = draw(built.job)
    x[:], labels[:] = x[0], labels[0]
    values = built.private.parameter_values
    bound = built.private.sensitivity_e9 / 1e9
    grid = built.job.plan.noise_multiplier * bound / SIGMA_UNITS
    sums, norms, contributing = built.step(x, labels, mask, *values)
    assert contributing.all()
    assert (norms > 0.1).all()
    for gone in range(len(mask)):
        without = mask.copy()
        without[gone] = 0
        moved = on_grid(sums, grid) - on_grid(built.step(x, labels, without, *values)[0], grid)
        length = float(np.sqrt((moved**2).sum())) * grid
        assert 0.1 * (1 - 1e-3) <= length <= bound
