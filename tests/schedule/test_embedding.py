"""Embeddings against NumPy: tokens out of range, repeated, infinite and NaN."""

import numpy as np
import pytest
from kernel_runs import TARGETS, normal, run

from myelin.schedule import kernels


def tokens(m, steps, vocabulary):
    rng = np.random.default_rng(m)
    drawn = rng.integers(0, max(2, vocabulary // 2), (m, steps)).astype(np.float32)
    odd = np.float32([np.nan, np.inf, -np.inf, -3, vocabulary, 1e30, 0.75, vocabulary - 1])
    drawn.ravel()[: min(8, m * steps)] = odd[: min(8, m * steps)]
    return drawn


def rows_of(values, vocabulary):
    clean = np.where(np.isnan(values), 0, values)
    return np.trunc(np.clip(clean, 0, vocabulary - 1)).astype(int)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("m", "steps", "vocabulary", "width"), [(1, 1, 1, 1), (3, 17, 9, 33), (2, 5, 40, 129)]
)
@pytest.mark.parametrize("hidden", [False, True])
def test_gather_segment_and_sum(target, m, steps, vocabulary, width, hidden):
    machine, places = kernels.MACHINES[target], (m, steps)
    table, token = normal(vocabulary, width), tokens(m, steps, vocabulary)
    gradient, row = normal(m, steps, width, seed=1), rows_of(token, vocabulary)
    function = kernels.embedding_gather(machine, (vocabulary, width), places, hidden)
    np.testing.assert_array_equal(run(function, target, table, token)[0], table[row])
    segments = np.zeros((m, steps, width), np.float32)
    for n in range(m):
        for t in range(steps):
            segments[n, list(row[n]).index(row[n, t])] += gradient[n, t]
    function = kernels.embedding_segment(machine, places, width, vocabulary, hidden)
    np.testing.assert_array_equal(run(function, target, token, gradient)[0], segments)
    coefficient = np.float32([0.5, 0.0, 0.25][:m])
    gradient[1:2] = np.nan
    for by in (None, coefficient):
        total = np.zeros((vocabulary, width), np.float32)
        for n in range(m):
            for t in range(steps):
                if by is None:
                    total[row[n, t]] += gradient[n, t]
                elif by[n] > 0:
                    total[row[n, t]] += by[n] * gradient[n, t]
        function = kernels.embedding_sum(machine, (vocabulary, width), places, by is not None, hidden)
        got = run(function, target, token, gradient, *([] if by is None else [by]))[0]
        np.testing.assert_array_equal(got, total)
        assert by is None or np.isfinite(got).all()
