"""Dropout: layers against the oracle under the same masks, and the masks' own law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from families import MICROBATCH, family
from small_jobs import plan, small_job

from myelin.errors import BuildError, InputError
from myelin.graph import Dropout, differentiate
from myelin.model import nn
from myelin.privacy import inspect_step
from myelin.privacy.dropout import draw_masks, dropout_scale, masks_from_seed
from myelin.privacy.keystream import groups
from myelin.privacy.oracle import clipped_sums
from myelin.schedule import InferenceProgram, schedule_inference

KEY = bytes(range(32))


class Images(nn.Module):
    """Dropout of an image's values, of features, and of the same values at two places."""

    def __init__(self) -> None:
        self.conv, self.hidden, self.output = nn.Conv2D(2, 4, 3), nn.Linear(48, 9), nn.Linear(9, 3)
        self.first, self.second = nn.Dropout(0.25), nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        x = self.first(nn.relu(self.conv(x)))
        x = nn.tanh(self.hidden(nn.flatten(x)))
        return self.output(self.second(x) + self.second(x))


class Sentences(nn.Module):
    """After a table, beside a residual connection, and between recurrences."""

    def __init__(self) -> None:
        self.table, self.norm, self.drop = nn.Embedding(9, 8), nn.LayerNorm(8), nn.Dropout(0.1)
        self.attention, self.lstm = nn.MultiHeadAttention(8, 2), nn.LSTM(8, 5)
        self.output = nn.Linear(5, 3)

    def forward(self, tokens: Any) -> Any:
        x = self.drop(self.table(tokens))
        x = x + self.drop(self.attention(self.norm(x)))
        return self.output(nn.dropout(nn.step(self.lstm(x), -1), 0.3))


class Attending(nn.Module):
    """Attention's weights dropped, with as many heads of keys as of queries and with half as many."""

    def __init__(self) -> None:
        self.first, self.norm = nn.MultiHeadAttention(8, 4, dropout=0.25), nn.LayerNorm(8)
        self.second = nn.MultiHeadAttention(8, 4, key_heads=2, dropout=0.5)
        self.output = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.output(nn.mean(self.second(self.norm(x + self.first(x))), 1))


def test_attentions_weights_are_dropped_each_head_and_place_by_itself() -> None:
    built = family(Attending, (5, 8), 3)
    assert built.graph.dropout == (Dropout((4, 5, 5), 3 << 30), Dropout((2, 10, 5), 1 << 31))
    built.check()
    with pytest.raises(BuildError, match="at least 0 and below 1, got 1"):
        nn.MultiHeadAttention(8, 2, dropout=1.5)


@pytest.mark.numeric
@pytest.mark.parametrize("case", [(Images, (2, 5, 6), 3, 0), (Sentences, (6,), 3, 9)], ids=["images", "text"])
def test_steps_agree_with_the_oracle_under_the_same_masks(case: Any) -> None:
    built = family(*case)
    assert len(built.graph.dropout) == 3
    built.check()
    # Other masks are other sums: what agrees above is what the masks make.
    x, labels, mask = built.inputs
    other = masks_from_seed(4, range(MICROBATCH), built.graph.dropout)
    sums, _, _ = built.program.run_step(x, labels, mask, built.values, other)
    assert max(np.abs(a - b).max() for a, b in zip(sums, built.oracle.sums, strict=True)) > 1e-3


def test_a_batch_inspected_agrees_with_the_oracle() -> None:
    the_plan, random = plan(3, clipping_norm=0.5), np.random.default_rng(4)
    graph = differentiate(small_job(Images, (2, 5, 6), 3, the_plan))
    values = list(graph.parameter_values)
    x, y = random.uniform(-1, 1, (7, 2, 5, 6)).astype(np.float32), random.integers(0, 3, 7)
    masks = masks_from_seed(9, range(7), graph.dropout)
    found = inspect_step(Images, values, x, y, the_plan, masks=9)
    oracle = clipped_sums(graph.trained_forward, values, x, list(y), np.ones(7), 0.5, masks=masks)
    np.testing.assert_allclose(found.per_example_norms, oracle.norms, rtol=5e-6)
    again = inspect_step(Images, values, x, y, the_plan, masks=masks)
    np.testing.assert_array_equal(found.per_example_norms, again.per_example_norms)
    with pytest.raises(InputError, match=r"masks: expected shapes \[\(7, 4, 3, 4\), .*got \[\(7, 9\)\]"):
        inspect_step(Images, values, x, y, the_plan, masks=masks[1:2])


def test_what_serves_has_no_dropout() -> None:
    graph = differentiate(small_job(Images, (2, 5, 6), 3, plan(3)))

    class Bare(Images):
        def forward(self, x: Any) -> Any:
            x = nn.tanh(self.hidden(nn.flatten(nn.relu(self.conv(x)))))
            return self.output(x + x)

    bare = differentiate(small_job(Bare, (2, 5, 6), 3, plan(3)))
    assert not bare.dropout
    assert "masked_forward" not in [v.name_hint for v in bare.module.functions]
    x = np.random.default_rng(1).uniform(-1, 1, (3, 2, 5, 6)).astype(np.float32)
    served = [InferenceProgram(schedule_inference(g, "x86-64-v3")).run(x) for g in (graph, bare)]
    np.testing.assert_array_equal(*served)


def test_rates_that_are_none_are_refused_and_zero_is_nothing() -> None:
    for rate in (-0.1, 1.0, 1.5, float("nan")):
        with pytest.raises(BuildError, match="rate"):
            nn.Dropout(rate)
    with pytest.raises(BuildError, match="dropout: rate: expected at least 0 and below 1"):
        nn.dropout(None, 1 - 2.0**-40)
    assert nn.dropout("itself", 0.0) == "itself"


def test_a_parameter_cannot_be_dropped() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.output = nn.Linear(3, 2)

        def forward(self, x: Any) -> Any:
            return (
                nn.dropout(self.output.weight, 0.5) * 1.0
                if x is None
                else self.output(x) * nn.dropout(self.output.bias, 0.5)
            )

    with pytest.raises(BuildError, match="only be used by the layers"):
        differentiate(small_job(Net, (3,), 2, plan(3)))


def layers() -> list[Dropout]:
    return [Dropout((3, 100), 3 << 30), Dropout((7,), 1 << 31)]


def test_masks_are_words_below_a_threshold() -> None:
    first, second = draw_masks(KEY, 5, [8, 2**32 - 1], layers())
    assert first.shape == (2, 3, 100)
    for row, record in enumerate((8, 2**32 - 1)):
        words = groups(KEY, 5, record, 0, 3).ravel()
        np.testing.assert_array_equal(first[row].ravel() > 0, words[:300] < 3 << 30)
        np.testing.assert_array_equal(second[row] > 0, words[512:519] < 1 << 31)
    assert set(np.unique(first)) == {0.0, np.float32(4 / 3)}
    assert set(np.unique(second)) <= {0.0, 2.0}
    assert dropout_scale(3 << 30) == np.float32(4 / 3)


def test_a_records_mask_is_its_own_whoever_is_beside_it() -> None:
    together = draw_masks(KEY, 5, [3, 1, 4, 15, 9], layers())
    alone = draw_masks(KEY, 5, [15], layers())
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a[3], b[0])
    for other in (draw_masks(KEY, 6, [15], layers()), draw_masks(bytes(32), 5, [15], layers())):
        assert not np.array_equal(other[0], alone[0])


def test_elements_are_kept_as_often_as_the_threshold_says_and_independently() -> None:
    count, (mask, _) = 4000, draw_masks(KEY, 1, range(4000), layers())
    kept = (mask.reshape(count, 300) > 0) - 0.75
    deviations = kept.sum() / np.sqrt(kept.size * 0.1875)
    assert abs(deviations) < 5
    # Between elements of an example, and between examples: as far from zero as independent ones are.
    for matrix in (kept.T @ kept / (0.1875 * np.sqrt(count)), kept @ kept.T / (0.1875 * np.sqrt(300))):
        apart = matrix[np.triu_indices(len(matrix), 1)]
        assert abs((apart**2).mean() - 1) < 0.05
        assert np.abs(apart).max() < 7
