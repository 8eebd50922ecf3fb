"""Correlated noise: an image's model computed again to the bit, and neighbours along a recorded run.

What the noise is added to, the encoded sums of all steps together, may not move by more than the root of a
record's turns times the sensitivity.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tvm")

from compiled import Compiled, compile_job
from jobs import TURNS
from neighbours import CLASSES, EMPTY, Case, compile_case
from reference import run_certified
from test_frozen_noise import KINDS, NOISE_KEY, SAMPLING_KEY, Residual, strange
from typer.testing import CliRunner

from myelin.cli.app import app
from myelin.privacy import BandedNoise, DpPlan
from myelin.privacy.banded import BandedRelease, batch_of
from myelin.privacy.noise import fill
from world import World


def test_the_model_is_the_mechanism_to_the_bit_and_the_certificate_says_so(
    tmp_path: Path, settle: Callable[[Compiled], World]
) -> None:
    compiled = compile_job(tmp_path, TURNS)
    event = run_certified(compiled, settle(compiled))
    assert event["type"] == "cyclic-banded-gaussian"
    assert event["correlation"] == [10**9, 500_000_000, 375_000_000]
    assert event == compiled.image.manifest["event"]
    said = " ".join(CliRunner().invoke(app, ["inspect", str(compiled.image.path)]).output.split())
    assert "10 steps, in which 8000 records take turns, 2300 a step and 3 times each" in said
    assert "correlated over 3 steps" in said


RECORDS, STEPS = 120, 7
PLAN = DpPlan(
    dataset_size=RECORDS,
    expected_batch_size=35,
    capacity=35,
    microbatch=13,
    steps=STEPS,
    noise_multiplier=1.0,
    clipping_norm=0.3,
    delta=1e-5,
    correlation=BandedNoise(4),
)


@pytest.fixture(scope="module")
def case() -> Case:
    random = np.random.default_rng(12)
    features = random.uniform(-1, 1, (RECORDS, 2, 6, 5)).astype(np.float32)
    labels = random.integers(0, CLASSES, RECORDS).astype(np.int32)
    return compile_case(Residual, features, labels, PLAN)


Parameters = list[npt.NDArray[np.float32]]


def run(case: Case, without: int | None, recorded: list[Parameters] | None) -> tuple[Any, list[Parameters]]:
    """Encoded sums of every step, and the parameters before each: those of ``recorded`` where given."""
    assert case.plan.correlation is not None
    count = case.private.parameter_count
    banded = BandedRelease(case.plan.correlation.coefficients_e9, case.unit, count)
    values = list(case.private.parameter_values)
    cuts = np.cumsum([value.size for value in values])[:-1]
    encoded, before = [], [values]
    for step in range(1, STEPS + 1):
        turn = [int(i) for i in batch_of(SAMPLING_KEY, step, RECORDS, case.plan.capacity)]
        slots = [EMPTY if i == without else i for i in turn]
        parameters = recorded[step - 1] if recorded else before[-1]
        units = banded.step(case.sums(slots, parameters), fill(NOISE_KEY, step, 0, count))
        encoded.append(banded.encoded)
        if recorded is None:
            gradient = (units * (case.unit / case.plan.expected_batch_size)).astype(np.float32)
            parts = zip(np.split(gradient, cuts), values, strict=True)
            before.append(list(case.native.run_update(step, [g.reshape(v.shape) for g, v in parts])))
    return np.concatenate(encoded), before


@pytest.mark.parametrize("kind", KINDS)
def test_no_record_moves_what_noise_is_added_to_further_than_its_turns_allow(case: Case, kind: str) -> None:
    """First, middle and last of the order: two turns for those of the first batches, one for the others."""
    random = np.random.default_rng(KINDS.index(kind))
    order = np.concatenate([batch_of(SAMPLING_KEY, step, RECORDS, PLAN.capacity) for step in (1, 2, 3, 4)])
    assert sorted(order) == list(range(RECORDS))
    for victim, turns in ((order[0], 2), (order[50], 2), (order[119], 1)):
        kept = case.features[victim].copy(), case.labels[victim]
        try:
            case.features[victim], case.labels[victim] = strange(case, kind, random)
            whole, before = run(case, None, None)
            other, _ = run(case, int(victim), before)
            assert case.moved(whole, other) <= np.sqrt(turns) * case.sensitivity
        finally:
            case.features[victim], case.labels[victim] = kept


def test_the_bound_is_nearly_reached(case: Case) -> None:
    """A record that is always clipped moves it by its turns' root times the coefficients' norm."""
    assert case.plan.correlation is not None
    length = np.linalg.norm(case.plan.correlation.coefficients_e9) / 1e9
    assert length * case.plan.clipping_norm < case.sensitivity < 1.005 * length * case.plan.clipping_norm
    victim = int(batch_of(SAMPLING_KEY, 1, RECORDS, PLAN.capacity)[3])
    kept = case.features[victim].copy()
    try:
        case.features[victim] *= 50
        whole, before = run(case, None, None)
        other, _ = run(case, victim, before)
        # The last window is cut off at the end of the run: seven steps, turns at 1 and 5, four bands.
        cut = np.sqrt(length**2 + sum(c * c for c in (1, 0.5, 0.375)))
        assert case.moved(whole, other) == pytest.approx(cut * case.plan.clipping_norm, rel=0.01)
    finally:
        case.features[victim] = kept
