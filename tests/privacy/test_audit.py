"""The one-run audit: the theorem in exact arithmetic, cases with known answers, and how often it errs."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from myelin.errors import InputError
from myelin.privacy import audit_one_run
from myelin.privacy.audit import p_value


def theorem(m: int, r: int, v: int, odds: Fraction, delta: Fraction) -> Fraction:
    """Theorem 5.2 of arXiv:2305.08846 in exact arithmetic; ``odds`` is e^ε."""
    right = odds / (1 + odds)
    mass = [math.comb(r, k) * right**k * (1 - right) ** (r - k) for k in range(r + 1)]

    def above(k: int) -> Fraction:
        return sum(mass[max(k, 0) :], Fraction(0))

    steepest = max((above(v - i) - above(v)) / i for i in range(1, m + 1))
    return min(Fraction(1), above(v) + 2 * m * delta * steepest)


@pytest.mark.parametrize(("m", "r"), [(1, 1), (12, 5), (12, 12), (24, 20)])
@pytest.mark.parametrize("odds", [Fraction(1), Fraction(5, 2), Fraction(50)])
@pytest.mark.parametrize("delta", [Fraction(0), Fraction(1, 10**5), Fraction(1, 100)])
def test_the_p_value_is_the_theorem_s(m: int, r: int, odds: Fraction, delta: Fraction) -> None:
    for v in range(r + 1):
        expected = float(theorem(m, r, v, odds, delta))
        assert p_value(m, r, v, math.log(odds), float(delta)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [20, 200, 2000])
def test_perfect_separation_gives_what_the_formula_says(count: int) -> None:
    """All r guesses right has probability q^r, q = e^ε / (1 + e^ε); so ε = log(q / (1 − q)) at q^r = 5 %."""
    included = np.arange(count) % 2 == 0
    right = 0.05 ** (1 / count)
    exact = math.log(right / (1 - right))
    assert audit_one_run(included, included, 0.0, guesses=count) == pytest.approx(exact, abs=1e-6)
    # A δ takes a little away, and a choice among several numbers of guesses some more.
    assert exact - 0.2 < audit_one_run(included, included, 1e-7, guesses=count) < exact
    assert exact - 1.7 < audit_one_run(included, included, 0.0) < exact


def test_scores_the_wrong_way_round_or_all_alike_give_nothing() -> None:
    included = np.random.default_rng(1).random(500) < 0.5
    assert audit_one_run(-included.astype(float), included, 1e-5) == 0.0
    assert audit_one_run(np.zeros(500), included, 1e-5) == 0.0


def test_more_delta_and_more_confidence_give_less() -> None:
    random = np.random.default_rng(2)
    included = random.random(1000) < 0.5
    scores = 3.0 * included + random.normal(size=1000)
    bounds = [audit_one_run(scores, included, delta) for delta in (0.0, 1e-5, 1e-3)]
    assert bounds[0] > bounds[1] > bounds[2] > 0
    assert audit_one_run(scores, included, 1e-5, confidence=0.999) < bounds[1]


def test_several_numbers_of_guesses_share_the_doubt() -> None:
    """One bound from four tries at 95 % in all, each at 98.75 %."""
    random = np.random.default_rng(6)
    included = random.random(150) < 0.5
    scores = 2.0 * included + random.normal(size=150)
    alone = [
        audit_one_run(scores, included, 1e-5, guesses=count, confidence=1 - 0.05 / 4)
        for count in (150, 75, 37, 18)
    ]
    assert audit_one_run(scores, included, 1e-5) == pytest.approx(max(alone), abs=1e-6)
    assert max(alone) > 0


def test_guessing_at_random_is_found_guilty_no_more_often_than_the_confidence_allows() -> None:
    """ε of 0: 400 audits at 95 % err 20 times on average, and 38 or more with a chance of 1e-4."""
    random = np.random.default_rng(3)
    found = [audit_one_run(random.random(100), random.random(100) < 0.5, 0.0) for _ in range(400)]
    assert sum(bound > 0 for bound in found) < 38


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomised_response_is_found_out_and_not_slandered(epsilon: float) -> None:
    """Each bit told truly with probability e^ε / (1 + e^ε): nothing (ε, 0)-private reveals more."""
    random = np.random.default_rng(4)
    bounds = []
    for _ in range(200):
        included = random.random(1000) < 0.5
        told = included ^ (random.random(1000) > 1 / (1 + math.exp(-epsilon)))
        bounds.append(audit_one_run(told, included, 0.0, guesses=1000))
    assert sum(bound > epsilon for bound in bounds) < 23  # 10 on average; 23 with a chance of 1e-4
    assert 0.6 * epsilon < float(np.median(bounds)) < epsilon


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scores": [1.0]}, "as many scores"),
        ({"scores": [1.0, math.nan]}, "NaN"),
        ({"included": [1, 0]}, "booleans"),
        ({"confidence": 1.0}, "confidence"),
        ({"guesses": 3}, "guesses"),
        ({"delta": -1e-5}, "delta"),
    ],
)
def test_refuses_what_does_not_fit(changes: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"scores": [1.0, 2.0], "included": [True, False], "delta": 1e-5}
    with pytest.raises(InputError, match=says):
        audit_one_run(**{**arguments, **changes})
