"""The noise in a released model: as much as the certificate says, normal, and independent everywhere.

Nothing here knows the job key or the reference sampler: with one step of SGD at learning rate 1, the model
moves by the noisy gradient, and with 2 of 8,000 records expected in a batch next to all of that is noise.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from compiled import Compiled, tensors_of
from gaussian import Array, problems, sigma_error, unlikely

from myelin.certificate import open_model
from world import Host, World


def moved(compiled: Compiled, world: World) -> list[Array]:
    """A fresh run: how far each parameter came from its initial value."""
    with Host(world) as host:
        model = open_model(host.run()[1], world.researcher)
    initial = compiled.private.parameter_values
    return [
        (start - end.astype(np.float64)).ravel()
        for start, end in zip(initial, tensors_of(model, initial), strict=True)
    ]


@pytest.fixture(scope="module")
def two_runs(wide: Compiled, settle: Callable[[Compiled], World]) -> tuple[list[Array], list[Array]]:
    world = settle(wide)
    return moved(wide, world), moved(wide, world)


def test_the_released_noise_is_what_is_accounted(wide: Compiled, two_runs: tuple[list[Array], ...]) -> None:
    for run in two_runs:
        assert problems(np.concatenate(run), wide.sigma) == []


def test_the_signal_does_not_matter_here(wide: Compiled) -> None:
    """At most capacity × clipping norm / divisor in all, against sigma in each of n coordinates."""
    signal = wide.plan.capacity * wide.plan.clipping_norm / wide.plan.expected_batch_size
    assert (signal / wide.sigma) ** 2 / wide.private.parameter_count < 1e-3


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_three_percent_would_be_seen(
    wide: Compiled, two_runs: tuple[list[Array], ...], factor: float
) -> None:
    for run in two_runs:
        assert "standard deviation" in problems(factor * np.concatenate(run), wide.sigma)[0]


def test_what_is_not_normal_would_be_seen() -> None:
    uniform = np.random.default_rng(1).uniform(-np.sqrt(3), np.sqrt(3), 40_000)
    assert "not normal" in " ".join(problems(uniform, 1.0))


def test_repeated_noise_would_be_seen() -> None:
    once = np.random.default_rng(2).standard_normal(20_000)
    assert "4096 apart" in " ".join(problems(np.tile(once[:4096], 10), 1.0))
    assert unlikely(once, 0.96 * np.random.default_rng(3).standard_normal(20_000) + 0.28 * once)


def test_every_parameter_has_all_of_the_noise(wide: Compiled, two_runs: tuple[list[Array], ...]) -> None:
    """Also the smallest: none is left out, none has another's scale."""
    for run in two_runs:
        for values in run:
            # Five standard deviations of the estimate. Noise is the integer 0 once in two million draws, so a
            # value or two may stay, and no more.
            assert abs(sigma_error(values, wide.sigma)) < 5 / np.sqrt(2 * values.size) + 0.005
            assert np.count_nonzero(values == 0) <= min(2, values.size // 100)


def test_parameters_have_unrelated_noise(two_runs: tuple[list[Array], ...]) -> None:
    for run in two_runs:
        for a, b in combinations((values for values in run if values.size > 100), 2):
            assert not unlikely(a, b)


def test_two_runs_have_unrelated_noise(two_runs: tuple[list[Array], ...]) -> None:
    first, second = (np.concatenate(run) for run in two_runs)
    assert not unlikely(first, second)


def test_two_steps_have_unrelated_noise(
    wide_two_steps: Compiled, settle: Callable[[Compiled], World]
) -> None:
    """The sum over two steps has twice the variance, where repeated noise would have four times.

    A correlation r makes it 2 (1 + r): with the tolerance, r beyond ±3 % is seen.
    """
    both = np.concatenate(moved(wide_two_steps, settle(wide_two_steps)))
    assert problems(both, np.sqrt(2) * wide_two_steps.sigma) == []
