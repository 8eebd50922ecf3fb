"""Neighbouring datasets under every clipping rule: the sums are never further apart than the sensitivity.

As tests/audit/test_neighbours.py does for flat clipping: the image's kernels, whole logical batches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tvm")

from neighbours import CLASSES, EMPTY, PLAN, Case, compile_case

from myelin.model import nn
from myelin.privacy import AdaptiveClipping, AutomaticClipping, PerLayerClipping

RULES: dict[str, Any] = {
    "adaptive": AdaptiveClipping(count_noise=1.0),
    "automatic": AutomaticClipping(),
    "per layer": PerLayerClipping(),
    "per layer, with shares": PerLayerClipping({"first": 1, "hidden": 2, "hidden.bias": 0.5, "output": 1}),
}


class Mixed(nn.Module):
    """A kept convolution, ghost norms, biases."""

    def __init__(self) -> None:
        self.first, self.hidden = nn.Conv2D(1, 5, 3, stride=2, padding=1), nn.Linear(80, 37)
        self.output = nn.Linear(37, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.output(nn.relu(self.hidden(nn.flatten(nn.relu(self.first(x))))))


@pytest.fixture(scope="module", params=RULES)
def case(request: pytest.FixtureRequest) -> Case:
    random = np.random.default_rng(5)
    features = random.uniform(-1, 1, (200, 1, 8, 8)).astype(np.float32)
    labels = random.integers(0, CLASSES, 200).astype(np.int32)
    return compile_case(Mixed, features, labels, replace(PLAN, clipping=RULES[request.param]))


PLACES = (0, 12, 13, 58)


def parameters_of(case: Case, factor: float) -> list[npt.NDArray[np.float32]]:
    return [(value * factor).astype(np.float32) for value in case.private.parameter_values]


@pytest.mark.parametrize("factor", [1.0, 30.0, 1e-3])
def test_one_record_moves_the_sum_by_no_more_than_the_sensitivity(case: Case, factor: float) -> None:
    parameters, slots = parameters_of(case, factor), list(range(40, 40 + case.plan.capacity))
    whole = case.total(slots, parameters)
    for place in PLACES:
        in_place = case.total([EMPTY if n == place else s for n, s in enumerate(slots)], parameters)
        moving = case.total(slots[:place] + slots[place + 1 :], parameters)
        newcomer = case.total(sorted([*slots[:place], *slots[place + 1 :], 199]), parameters)
        assert case.moved(whole, in_place) <= case.sensitivity
        assert case.moved(whole, moving) <= case.sensitivity
        assert case.moved(whole, newcomer) <= 2 * case.sensitivity


def test_where_all_are_alike_a_record_moves_it_by_nearly_the_clipping_norm(case: Case) -> None:
    parameters = parameters_of(case, 1.0)
    case.features[100:160] = case.features[100] * 30
    tried = (np.arange(case.plan.microbatch) % CLASSES).astype(np.int32)
    rows = case.features[100 : 100 + len(tried)]
    _, norms, _ = case.native.run_step(rows, tried, np.ones(len(tried), np.float32), parameters)
    case.labels[100:160] = tried[np.argmax(norms)]
    slots = list(range(100, 100 + case.plan.capacity))
    whole = case.total(slots, parameters)
    for place in PLACES:
        without = case.total(slots[:place] + slots[place + 1 :], parameters)
        assert 0.9 * case.plan.contribution_norm <= case.moved(whole, without) <= case.sensitivity


@pytest.mark.parametrize("value", [np.nan, np.inf, -3e38, 1e30, 1e19, 1e-30, 1e-45])
def test_an_adversary_s_record_moves_it_no_further(case: Case, value: float) -> None:
    parameters, slots = parameters_of(case, 1.0), list(range(40, 40 + case.plan.capacity))
    kept = case.features[60].copy()
    try:
        for shape in ("all", "one"):
            record = np.full_like(kept, value) if shape == "all" else kept.copy()
            record.flat[-1] = value
            case.features[60] = record
            whole = case.total(slots, parameters)
            assert (
                case.moved(whole, case.total([s for s in slots if s != 60], parameters)) <= case.sensitivity
            )
    finally:
        case.features[60] = kept
