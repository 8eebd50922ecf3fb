"""Training recorded and replayed on neighbouring datasets, sampler and noise frozen.

In the manner of Re:cord-play (PETS 2026, arXiv:2602.17454): every step of a recorded run is computed again
for datasets in which one record is another, from the parameters that the recorded run had; the same records
are drawn, each with the same masks where there is dropout, and the same noise is added. What is released may
then differ by no more than the sensitivity that the noise is for: the relation is *replace-special*, so the
neighbour's record adds nothing, and where a draw is truncated another record takes its place, which counts
twice.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tvm")

from neighbours import CLASSES, DROPOUT_KEY, EMPTY, Case, compile_case

from myelin.model import nn
from myelin.privacy import DpPlan, sampling
from myelin.privacy.dropout import draw_masks
from myelin.privacy.noise import fill

RECORDS, STEPS, TRIALS = 120, 4, 10
SAMPLING_KEY, NOISE_KEY = bytes(range(32)), bytes(range(32, 64))
PLAN = DpPlan(
    dataset_size=RECORDS,
    expected_batch_size=58,
    capacity=59,
    microbatch=13,
    steps=STEPS,
    noise_multiplier=1.0,
    clipping_norm=0.3,
    delta=1e-5,
)

Parameters = list[npt.NDArray[np.float32]]


class Sentences(nn.Module):
    """A table of tokens, a normalisation, a recurrence: weights that are used at every position."""

    def __init__(self) -> None:
        self.table, self.norm = nn.Embedding(9, 5), nn.LayerNorm(5)
        self.lstm, self.output = nn.LSTM(5, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.output(nn.mean(self.lstm(self.norm(self.table(x))), 1))


class Residual(nn.Module):
    """Convolutions with groups of channels, a normalisation within the image, a branch that joins again."""

    def __init__(self) -> None:
        self.first, self.norm = nn.Conv2D(2, 6, 3, stride=1, padding=1), nn.GroupNorm(2, 6)
        self.second = nn.Conv2D(6, 6, 3, stride=1, padding=1, groups=2)
        self.output = nn.Linear(6, CLASSES)

    def forward(self, x: Any) -> Any:
        x = nn.relu(self.norm(self.first(x)))
        return self.output(nn.global_avg_pool2d(self.second(x) + x))


class Dropped(nn.Module):
    """Dropout before, between and beside layers: every record has masks of its own."""

    def __init__(self) -> None:
        self.first, self.norm, self.output = nn.Linear(60, 8), nn.LayerNorm(8), nn.Linear(8, CLASSES)
        self.drop = nn.Dropout(0.4)

    def forward(self, x: Any) -> Any:
        x = nn.relu(self.first(self.drop(nn.flatten(x))))
        return self.output(self.drop(self.norm(x)) + nn.dropout(x, 0.1))


def records_for(name: str) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(12)
    if name == "sentences":
        return random.integers(0, 9, (RECORDS, 7)).astype(np.float32)
    return random.uniform(-1, 1, (RECORDS, 2, 6, 5)).astype(np.float32)


NETWORKS = [("sentences", Sentences), ("residual", Residual), ("dropped", Dropped)]


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda p: p[0])
def case(request: pytest.FixtureRequest) -> Case:
    name, network = request.param
    labels = np.random.default_rng(13).integers(0, CLASSES, RECORDS).astype(np.int32)
    return compile_case(network, records_for(name), labels, PLAN)


def noise_at(case: Case, step: int) -> npt.NDArray[np.int64]:
    return fill(NOISE_KEY, step, 0, case.private.parameter_count)


def released(case: Case, step: int, slots: list[int], parameters: Parameters) -> npt.NDArray[np.float64]:
    """The noisy gradient of a step, before it is rounded to float32."""
    return (case.total(slots, parameters, step) + noise_at(case, step)) * (
        case.unit / case.plan.expected_batch_size
    )


def drawn_at(case: Case, step: int) -> tuple[list[int], list[int]]:
    """Who is in a step's slots, and everybody who was drawn, in the order in which they would stay."""
    threshold = case.plan.sampling_threshold
    slots, filled = sampling.draw(SAMPLING_KEY, step, RECORDS, threshold, case.plan.capacity)
    words = sampling.words(SAMPLING_KEY, step, RECORDS)
    everybody = np.flatnonzero(words < np.uint64(threshold))
    return [int(s) for s in slots[:filled]], [int(i) for i in everybody[np.argsort(words[everybody])]]


@pytest.fixture(scope="module")
def recorded(case: Case) -> list[Parameters]:
    """The parameters before each step of a run."""
    before = [list(case.private.parameter_values)]
    cuts = np.cumsum([value.size for value in before[0]])[:-1]
    for step in range(1, STEPS + 1):
        gradient = released(case, step, drawn_at(case, step)[0], before[-1]).astype(np.float32)
        parts = zip(np.split(gradient, cuts), before[0], strict=True)
        before.append(list(case.native.run_update(step, [g.reshape(v.shape) for g, v in parts])))
    assert not any(np.array_equal(a[0], b[0]) for a, b in pairwise(before))
    return before


def test_some_draws_are_truncated_and_some_are_not(case: Case) -> None:
    counts = [len(drawn_at(case, step)[1]) for step in range(1, STEPS + 1)]
    assert min(counts) <= case.plan.capacity < max(counts)


def strange(case: Case, kind: str, random: np.random.Generator) -> tuple[npt.NDArray[np.float32], int]:
    """A record that an adversary would put in, and its label."""
    shape = case.features.shape[1:]
    record = case.features[random.integers(RECORDS)].copy()
    label = int(random.integers(CLASSES))
    if kind == "huge":
        record = (random.choice([-1, 1], shape) * 10.0 ** random.uniform(3, 38)).astype(np.float32)
    elif kind == "not finite":
        record.flat[random.integers(record.size)] = random.choice([np.nan, np.inf, -np.inf])
    elif kind == "tiny":
        record = (random.normal(size=shape) * 10.0 ** random.uniform(-45, -30)).astype(np.float32)
    elif kind == "one value":
        record = np.full(shape, random.choice([0.0, 1.0, 8.0, -1.0, 255.0]), np.float32)
    elif kind == "no class":
        label = int(random.choice([-1, CLASSES, 2**31 - 1]))
    return record, label


KINDS = ("huge", "not finite", "tiny", "one value", "no class", "like another")


@pytest.mark.parametrize("kind", KINDS)
def test_no_release_moves_further_than_the_sensitivity(
    case: Case, recorded: list[Parameters], kind: str
) -> None:
    random = np.random.default_rng(KINDS.index(kind))
    for trial in range(TRIALS):
        step = trial % STEPS + 1
        slots, everybody = drawn_at(case, step)
        # The first and the last slot, the record that would be cut next, then any.
        edge = everybody[: case.plan.capacity][-1]
        victim = [slots[0], slots[-1], edge][trial] if trial < 3 else int(random.choice(slots))
        kept = case.features[victim].copy(), case.labels[victim]
        try:
            case.features[victim], case.labels[victim] = strange(case, kind, random)
            check(case, step, victim, recorded[step - 1], slots, everybody)
        finally:
            case.features[victim], case.labels[victim] = kept


def check(
    case: Case, step: int, victim: int, parameters: Parameters, slots: list[int], everybody: list[int]
) -> None:
    allowed = case.sensitivity / case.plan.expected_batch_size
    whole = released(case, step, slots, parameters)
    assert np.isfinite(whole).all()
    in_place = released(case, step, [EMPTY if s == victim else s for s in slots], parameters)
    moving = released(case, step, [s for s in slots if s != victim], parameters)
    newcomer = everybody[case.plan.capacity : case.plan.capacity + 1]
    other = released(case, step, sorted([*(s for s in slots if s != victim), *newcomer]), parameters)
    exact = 1 + 2.0**-40  # float64, of the multiplication by the grid and of this norm
    assert np.linalg.norm(whole - in_place) <= allowed * exact
    assert np.linalg.norm(whole - moving) <= allowed * exact
    assert np.linalg.norm(whole - other) <= allowed * (2 if newcomer else 1) * exact


def test_many_alike_move_it_by_one_norm_and_no_more(case: Case, recorded: list[Parameters]) -> None:
    """Every record the same and clipped: the sum is as long, and rounds as badly, as it can."""
    features, labels = case.features.copy(), case.labels.copy()
    try:
        case.features[:], case.labels[:] = features[5], labels[5]
        slots, _ = drawn_at(case, 1)
        quiet = released(case, 1, slots, recorded[0])
        for place in (0, 12, 13, len(slots) - 1):
            moved = quiet - released(case, 1, slots[:place] + slots[place + 1 :], recorded[0])
            length = float(np.linalg.norm(moved)) * case.plan.expected_batch_size
            assert 0.999 * case.plan.clipping_norm <= length <= case.sensitivity
    finally:
        case.features[:], case.labels[:] = features, labels


def test_masks_of_the_others_are_the_same_bits_in_any_neighbour(case: Case) -> None:
    """What the bound rests on: who is beside a record, and in which slot it is, is not in its masks."""
    slots, _ = drawn_at(case, 2)
    whole = draw_masks(DROPOUT_KEY, 2, slots, case.native.dropout)
    moved = draw_masks(DROPOUT_KEY, 2, slots[1:], case.native.dropout)
    assert len(whole) == len(case.private.dropout)
    for a, b in zip(whole, moved, strict=True):
        np.testing.assert_array_equal(a[1:], b)
        assert not np.array_equal(a[0], a[1])


def test_the_noise_that_is_frozen_is_there(case: Case, recorded: list[Parameters]) -> None:
    """What is compared is what would be released: with its noise, which is far larger than the bound."""
    noise = noise_at(case, 1) * case.unit
    assert np.linalg.norm(noise) > 5 * case.sensitivity
    slots, _ = drawn_at(case, 1)
    gradient = released(case, 1, slots, recorded[0]) * case.plan.expected_batch_size
    assert np.linalg.norm(gradient - noise - case.sums(slots, recorded[0])) < 1e-3 * case.sensitivity
