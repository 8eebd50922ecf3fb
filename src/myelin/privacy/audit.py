"""A lower bound of a run's ε, from which of many planted records its result betrays.

The one-run audit of Steinke, Nasr and Jagielski, *Privacy Auditing with One (1) Training Run* (NeurIPS 2023,
arXiv:2305.08846): each of m *canaries* is in the data with probability one half, independently; the model is
trained once; the auditor guesses, of r canaries, which were in. A run that is (ε, δ)-private lets it be right
only so often. What an accountant claims is above this bound, or the accountant, or what was run, is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from myelin.errors import InputError

__all__ = ["audit_one_run", "p_value"]

_LEAST_GUESSES: Final = 16
"""Fewer right guesses than this prove little of anything."""

_EPSILON_MAX: Final = 64.0
_HALVINGS: Final = 40


@lru_cache(maxsize=16)
def _log_binomial(count: int) -> npt.NDArray[np.float64]:
    """Logarithms of ``count`` over 0, 1, … ``count``."""
    logs = np.array([math.lgamma(k + 1) for k in range(count + 1)])
    result: npt.NDArray[np.float64] = logs[-1] - logs - logs[::-1]
    return result


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Most probability with which an (ε, δ)-private run lets ``correct`` or more guesses be right.

    Theorem 5.2 of the paper, computed as it stands, with no approximation of the binomial: with W a sum of
    r = ``guesses`` coins that show 1 with probability ``e^ε / (1 + e^ε)``, v = ``correct``, m = ``canaries``,

        P[W >= v] + 2 m δ · max over i in 1 … m of P[v > W >= v − i] / i.

    Args:
        canaries: records of which each was in the data with probability one half.
        guesses: how many of them were guessed; that number must not depend on the run.
        correct: how many guesses were right.
        epsilon: of the claim, at least 0.
        delta: of the claim, from 0 to below 1.

    Errors: :class:`myelin.errors.InputError` for numbers that do not fit each other.
    """
    if not 0 <= correct <= guesses <= canaries or not epsilon >= 0 or not 0 <= delta < 1:
        raise InputError(
            "p_value: expected 0 <= correct <= guesses <= canaries, epsilon of at least 0 and delta from 0 "
            f"to below 1, got {correct}, {guesses}, {canaries}, {epsilon} and {delta}."
        )
    log_right, log_wrong = -math.log1p(math.exp(-epsilon)), -epsilon - math.log1p(math.exp(-epsilon))
    hits = np.arange(guesses + 1)
    masses = np.exp(_log_binomial(guesses) + hits * log_right + (guesses - hits) * log_wrong)
    tail = float(masses[correct:].sum())
    # P[v > W >= v − i] for i = 1 … v; beyond that it grows no more, and i does.
    below = np.cumsum(masses[:correct][::-1])
    steepest = float((below / np.arange(1, correct + 1)).max()) if correct else 0.0
    return min(1.0, tail + 2 * canaries * delta * steepest)


def audit_one_run(
    scores: Sequence[float] | npt.NDArray[np.floating],
    included: Sequence[bool] | npt.NDArray[np.bool_],
    delta: float,
    *,
    confidence: float = 0.95,
    guesses: int | None = None,
) -> float:
    """The ε that one run is above, with ``confidence``: 0 where the scores tell nothing.

    Guesses that the half of ``guesses`` canaries with the highest scores were in, and as many with the lowest
    were not, and inverts :func:`p_value`. A mechanism that is (ε, δ)-private gets a bound above ε with
    probability ``1 − confidence`` at most. A bound below ε proves nothing good: a better score may find more.

    Args:
        scores: one a canary, higher where the run speaks for its being in. Computed from what was released
            alone, never from ``included``; equal scores are taken in the order given.
        included: whether each canary was in, as coins decided before the run. A canary that was not in was
            left out or replaced, as the event's neighbouring relation says.
        delta: of the claim, from 0 to below 1.
        confidence: above 0 and below 1.
        guesses: how many canaries to guess, chosen before the run. When not given, all, a half, a quarter and
            so on are tried, and each at a confidence that makes them all together as sure as was asked for
            (Bonferroni).

    Returns:
        a lower bound of ε, at most 64.

    Errors: :class:`myelin.errors.InputError` for arrays or numbers that do not fit.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(included)
    if values.ndim != 1 or truth.shape != values.shape or not values.size or truth.dtype != np.bool_:
        raise InputError(
            "audit_one_run: expected as many scores as booleans, at least one, got shapes "
            f"{values.shape} and {truth.shape} of {truth.dtype}."
        )
    if np.isnan(values).any():
        raise InputError("audit_one_run: a score is NaN; give every canary a number.")
    if not 0 < confidence < 1:
        raise InputError(f"confidence: expected a number above 0 and below 1, got {confidence!r}.")
    if guesses is not None and not 1 <= guesses <= values.size:
        raise InputError(f"guesses: expected 1 to {values.size}, one a canary at most, got {guesses}.")
    tried = _sizes(values.size) if guesses is None else [guesses]
    order = np.argsort(values, kind="stable")
    level = (1 - confidence) / len(tried)
    return max(_bound(order, truth, count, delta, level) for count in tried)


def _sizes(canaries: int) -> list[int]:
    sizes = [canaries]
    while sizes[-1] // 2 >= _LEAST_GUESSES:
        sizes.append(sizes[-1] // 2)
    return sizes


def _bound(
    order: npt.NDArray[np.intp], truth: npt.NDArray[np.bool_], guesses: int, delta: float, level: float
) -> float:
    """The largest ε, to 2⁻³⁴, at which as many right guesses have a probability below ``level``."""
    outside = guesses // 2
    inside = guesses - outside
    right = int(truth[order[order.size - inside :]].sum()) + int((~truth[order[:outside]]).sum())
    low, high = 0.0, _EPSILON_MAX
    if p_value(order.size, guesses, right, low, delta) >= level:
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if p_value(order.size, guesses, right, middle, delta) < level:
            low = middle
        else:
            high = middle
    return low
