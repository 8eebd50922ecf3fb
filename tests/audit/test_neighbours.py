"""The sum on the grid, of neighbouring datasets: never further apart than the sensitivity that noise is for.

The image's kernels, called as the enclave calls them, on whole logical batches of several physical ones. The
neighbour of a dataset has one record replaced by one that adds nothing; if a draw was truncated, another
record takes its place, which is two changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tvm")

from neighbours import CLASSES, EMPTY, Case, compile_case

from myelin.model import nn


class Vectors(nn.Module):
    """Norms from factors: nothing per example is kept but the biases' gradients."""

    def __init__(self) -> None:
        self.hidden = nn.Linear(11, 37)
        self.output = nn.Linear(37, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.output(nn.relu(self.hidden(x)))


class Images(nn.Module):
    """Every per-example gradient of the convolutions is kept."""

    def __init__(self) -> None:
        self.first = nn.Conv2D(1, 5, 3, stride=2, padding=1)
        self.second = nn.Conv2D(5, 7, 2)
        self.output = nn.Linear(28, CLASSES)

    def forward(self, x: Any) -> Any:
        x = nn.max_pool2d(nn.relu(self.first(x)), 2, stride=1)
        return self.output(nn.flatten(nn.tanh(self.second(x))))


@pytest.fixture(scope="module", params=[(Vectors, (11,)), (Images, (1, 8, 8))], ids=["vectors", "images"])
def case(request: pytest.FixtureRequest) -> Case:
    network, shape = request.param
    random = np.random.default_rng(5)
    features = random.uniform(-1, 1, (200, *shape)).astype(np.float32)
    labels = random.integers(0, CLASSES, 200).astype(np.int32)
    return compile_case(network, features, labels)


def parameters_of(case: Case, factor: float) -> list[npt.NDArray[np.float32]]:
    return [(value * factor).astype(np.float32) for value in case.private.parameter_values]


PLACES = (0, 1, 12, 13, 29, 57, 58)


@pytest.mark.parametrize("factor", [1.0, 30.0, 1e-3])
def test_one_record_moves_the_sum_by_no_more_than_the_sensitivity(case: Case, factor: float) -> None:
    """In its own slot, and with all behind it moving up, as happens when slots are filled in order."""
    parameters = parameters_of(case, factor)
    slots = list(range(40, 40 + case.plan.capacity))
    whole = case.total(slots, parameters)
    for place in PLACES:
        in_place = case.total([EMPTY if n == place else s for n, s in enumerate(slots)], parameters)
        moving = case.total(slots[:place] + slots[place + 1 :], parameters)
        assert case.moved(whole, in_place) <= case.sensitivity
        assert case.moved(whole, moving) <= case.sensitivity


def test_where_all_are_clipped_and_alike(case: Case) -> None:
    """The worst for rounding; and clipping wastes nothing, so that one record moves it by one whole norm."""
    parameters = parameters_of(case, 1.0)
    # No other test uses these records.
    case.features[100:160], case.labels[100:160] = case.features[100], case.labels[100]
    slots = list(range(100, 100 + case.plan.capacity))
    whole = case.total(slots, parameters)
    for place in PLACES:
        without = case.total(slots[:place] + slots[place + 1 :], parameters)
        assert 0.999 * case.plan.clipping_norm <= case.moved(whole, without) <= case.sensitivity


def test_a_truncated_draw_changes_two_records(case: Case) -> None:
    parameters = parameters_of(case, 1.0)
    slots = list(range(40, 40 + case.plan.capacity))
    whole = case.total(slots, parameters)
    for place in PLACES:
        for newcomer in (0, 199):
            other = sorted([*slots[:place], *slots[place + 1 :], newcomer])
            assert case.moved(whole, case.total(other, parameters)) <= 2 * case.sensitivity


@pytest.mark.parametrize("value", [np.nan, np.inf, -3e38, 1e30, 1e19, 1e-30, 1e-45])
@pytest.mark.parametrize("place", [0, 20, 58])
def test_an_adversary_s_record_moves_it_no_further(case: Case, value: float, place: int) -> None:
    """Values that no schema would let in, and what overflow makes of them."""
    parameters = parameters_of(case, 1.0)
    slots = list(range(40, 40 + case.plan.capacity))
    kept = case.features[40 + place].copy()
    try:
        for shape in ("all", "one"):
            record = np.full_like(kept, value) if shape == "all" else kept.copy()
            record.flat[-1] = value
            case.features[40 + place] = record
            whole = case.total(slots, parameters)
            without = case.total(slots[:place] + slots[place + 1 :], parameters)
            assert case.moved(whole, without) <= case.sensitivity
            if not np.isfinite(value):
                in_place = case.total([EMPTY if n == place else s for n, s in enumerate(slots)], parameters)
                assert np.array_equal(whole, in_place)
    finally:
        case.features[40 + place] = kept


@pytest.mark.parametrize("factor", [1e15, 1e30, np.nan])
def test_parameters_that_overflow_change_nothing_of_that(case: Case, factor: float) -> None:
    parameters = parameters_of(case, factor)
    slots = list(range(40, 40 + case.plan.capacity))
    whole = case.total(slots, parameters)
    for place in PLACES:
        assert (
            case.moved(whole, case.total(slots[:place] + slots[place + 1 :], parameters)) <= case.sensitivity
        )


def test_an_example_is_the_same_bits_in_every_slot(case: Case) -> None:
    """What the bound stands on: shifting slots changes only which sums a contribution is rounded in."""
    size, parameters = case.plan.microbatch, parameters_of(case, 3.0)
    expected = None
    for slot in range(size):
        features, labels = case.features[:size].copy(), case.labels[:size].copy()
        features[slot], labels[slot] = case.features[77], case.labels[77]
        mask = np.zeros(size, np.float32)
        mask[slot] = 1
        sums, norms, _ = case.native.run_step(features, labels, mask, parameters)
        bits = [np.concatenate([s.ravel() for s in sums]).tobytes(), norms[slot].tobytes()]
        expected = expected or bits
        assert bits == expected


def test_less_than_the_sensitivity_would_not_do(case: Case) -> None:
    """The bound is the clipping norm and its roundings, no generous multiple of it."""
    assert case.plan.clipping_norm < case.sensitivity < 1.001 * case.plan.clipping_norm
