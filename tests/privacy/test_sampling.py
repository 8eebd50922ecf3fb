"""The sampler's reference: known answers, and statistics that a faulty sampler fails.

Each statistic is a number of standard deviations (or a χ² turned into one); honest draws stay within ``FAR``,
which happens by chance less than once in a hundred thousand keys. Faults are planted to show that each
statistic can fail; the margin by which they do is the test's power.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from known_answers import FILE, lines

from myelin.errors import InputError
from myelin.privacy import sampling

KEY = bytes(range(32))
FAR = 5.0
RECORDS, STEPS, RATE = 256, 4000, 0.125
THRESHOLD = int(RATE * 2**64)

Draws = npt.NDArray[np.bool_]


def _draws(records: int, steps: int, threshold: int, capacity: int) -> Draws:
    """Who is in each step's sample: bool ``[steps, records]``."""
    made = np.zeros((steps, records + 1), bool)
    for step in range(steps):
        slots, _ = sampling.draw(KEY, step, records, threshold, capacity)
        made[step, np.minimum(slots, records)] = True
    return made[:, :records]


def _chi2(total: float, freedom: float) -> float:
    """A χ² in standard deviations (Wilson and Hilferty)."""
    spread = 2 / (9 * freedom)
    return float(((total / freedom) ** (1 / 3) - (1 - spread)) / np.sqrt(spread))


def _poisson_statistics(drawn: Draws, rate: float) -> dict[str, float]:
    """What independent draws at ``rate`` keep within a few standard deviations of 0."""
    steps, records = drawn.shape
    scale = np.sqrt(rate * (1 - rate))
    z = (drawn - rate) / scale
    correlations = (z.T @ z / np.sqrt(steps))[np.triu_indices(records, 1)]
    return {
        "rate": float(z.sum() / np.sqrt(z.size)),
        "each record": _chi2(float((z.sum(axis=0) ** 2).sum() / steps), records),
        "batch sizes": _chi2(float((z.sum(axis=1) ** 2).sum() / records), steps),
        "pairs of records": _chi2(float((correlations**2).sum()), correlations.size),
        "consecutive steps": float((z[1:] * z[:-1]).sum() / np.sqrt(z[1:].size)),
        "neighbouring records": float((z[:, 1:] * z[:, :-1]).sum() / np.sqrt(z[:, 1:].size)),
    }


@pytest.fixture(scope="module")
def drawn() -> Draws:
    return _draws(RECORDS, STEPS, THRESHOLD, RECORDS)


def test_known_answers_are_those_of_the_enclave() -> None:
    assert FILE.read_text().splitlines() == lines()


def test_draws_every_record_independently_at_the_rate(drawn: Draws) -> None:
    statistics = _poisson_statistics(drawn, RATE)
    assert all(abs(value) < FAR for value in statistics.values()), statistics


def _shuffled(drawn: Draws) -> Draws:
    """Batches of fixed size, as from shuffling: what Poisson accounting must not be used for."""
    generator = np.random.default_rng(1)
    made = np.zeros_like(drawn)
    for row in made:
        row[generator.permutation(len(row))[: round(len(row) * RATE)]] = True
    return made


def _partitioned(drawn: Draws) -> Draws:
    """Epochs: every record exactly once in every eight steps."""
    generator = np.random.default_rng(2)
    made = np.zeros_like(drawn)
    for start in range(0, len(made), 8):
        made[start : start + 8] = generator.integers(8, size=drawn.shape[1]) == np.arange(8)[:, None]
    return made


def _biased(drawn: Draws) -> Draws:
    """One record in 32 drawn half as often again."""
    generator = np.random.default_rng(3)
    made = drawn.copy()
    made[:, ::32] |= generator.random(made[:, ::32].shape) < RATE / 2
    return made


def _more(drawn: Draws) -> Draws:
    """A rate that is 3 % too high: sampled afresh with such a threshold."""
    return _draws(RECORDS, len(drawn), int(THRESHOLD * 1.03), RECORDS)


def _stuck(drawn: Draws) -> Draws:
    """Every eighth step repeats the one before."""
    made = drawn.copy()
    made[8::8] = made[7:-1:8]
    return made


def _shared(drawn: Draws) -> Draws:
    """Records 2i and 2i + 1 share a word."""
    return np.repeat(drawn[:, ::2], 2, axis=1)


@pytest.mark.parametrize(
    ("fault", "statistic"),
    [
        (_shuffled, "batch sizes"),
        (_partitioned, "consecutive steps"),
        (_biased, "each record"),
        (_more, "rate"),
        (_stuck, "consecutive steps"),
        (_shared, "pairs of records"),
        (_shared, "neighbouring records"),
    ],
)
def test_a_faulty_sampler_fails(fault: Callable[[Draws], Draws], statistic: str, drawn: Draws) -> None:
    # Three standard deviations past the limit: a fault of this size is missed at most once in 700 keys.
    assert abs(_poisson_statistics(fault(drawn), RATE)[statistic]) > FAR + 3


CAPACITY, CROWD = 16, 64


def _subset_statistics(kept: Draws) -> dict[str, float]:
    """What uniformly random subsets of ``CAPACITY`` of ``CROWD`` keep near 0."""
    steps, records = kept.shape
    rate = CAPACITY / records
    z = (kept - rate) / np.sqrt(rate * (1 - rate) * records / (records - 1))
    products = z.T @ z / np.sqrt(steps)
    centred = products[np.triu_indices(records, 1)] + np.sqrt(steps) / records
    return {
        "each record": _chi2(float((z.sum(axis=0) ** 2).sum() / steps), records - 1),
        "pairs of records": _chi2(float((centred**2).sum()), centred.size - records),
        "early records": float(z[:, : records // 2].sum() / np.sqrt(steps * records / 4)),
    }


@pytest.fixture(scope="module")
def overflowing() -> tuple[Draws, Draws]:
    """All that is drawn at a rate of one half, and what stays of it, where more is drawn than fits."""
    everyone = _draws(CROWD, STEPS, 2**63, CROWD)
    kept = _draws(CROWD, STEPS, 2**63, CAPACITY)
    full = everyone.sum(axis=1) > CAPACITY
    assert full.mean() > 0.99
    assert (kept.sum(axis=1) == np.minimum(everyone.sum(axis=1), CAPACITY)).all()
    assert not (kept & ~everyone).any()
    return everyone[full], kept[full]


def test_what_stays_of_too_many_is_a_uniform_subset(overflowing: tuple[Draws, Draws]) -> None:
    statistics = _subset_statistics(overflowing[1])
    assert all(abs(value) < FAR for value in statistics.values()), statistics


def test_keeping_the_first_or_neighbours_fails(overflowing: tuple[Draws, Draws]) -> None:
    everyone, _ = overflowing
    first = everyone & (everyone.cumsum(axis=1) <= CAPACITY)
    assert abs(_subset_statistics(first)["each record"]) > FAR + 3
    assert abs(_subset_statistics(first)["early records"]) > FAR + 3
    # A random window of the drawn, cyclically: each record is as likely as any other, pairs are not.
    generator = np.random.default_rng(4)
    window = np.zeros_like(everyone)
    for row, chosen in zip(everyone, window, strict=True):
        members = np.flatnonzero(row)
        chosen[np.roll(members, generator.integers(len(members)))[:CAPACITY]] = True
    assert abs(_subset_statistics(window)["each record"]) < FAR + 3
    assert abs(_subset_statistics(window)["pairs of records"]) > FAR + 3


def test_slots_are_ascending_and_padded() -> None:
    slots, count = sampling.draw(KEY, 1, 1000, 2**60, 100)
    assert 0 < count < 100
    assert all(a < b for a, b in pairwise(slots[:count].tolist()))
    assert (slots[count:] == sampling.EMPTY).all()
    assert sampling.draw(KEY, 1, 1000, 0, 4)[1] == 0
    assert sampling.draw(KEY, 1, 0, 2**63, 4)[1] == 0
    assert sampling.draw(KEY, 1, 1000, 2**64 - 1, 4)[1] == 4


def test_a_draw_depends_on_key_and_step_alone() -> None:
    words = sampling.words(KEY, 3, 500)
    assert (sampling.words(KEY, 3, 77) == words[:77]).all()
    assert len(np.intersect1d(words, sampling.words(KEY, 4, 500))) == 0
    assert len(np.intersect1d(words, sampling.words(bytes(32), 3, 500))) == 0


def test_refuses_what_is_out_of_range() -> None:
    wrong = (KEY, 0, 2**31 + 1, 1, 1), (KEY, 0, 1, 2**64, 1), (KEY[1:], 0, 1, 1, 1), (KEY, 2**64, 1, 1, 1)
    for arguments in wrong:
        with pytest.raises(InputError):
            sampling.draw(*arguments)
