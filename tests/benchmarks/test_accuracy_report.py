"""The accuracy page is of what was run: nothing twice, nothing lost, nothing that the results do not say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy import record, report, tables, tasks
from benchmarks.accuracy.__main__ import runs_of
from benchmarks.accuracy.tasks import TASKS
from benchmarks.accuracy.training import physical_batches

from myelin.privacy.sampling import EMPTY


def run(system: str, target: float | None, seed: int, accuracy: float) -> dict[str, Any]:
    made = {"task": "adult", "system": system, "target_epsilon": target, "seed": seed}
    made |= {"accuracy": accuracy, "seconds": 1.0}
    if target is not None:
        made |= {"epsilon": target - 0.001, "delta": 1e-5, "plan": {"noise_multiplier": 2.0, "steps": 10}}
    return made


def test_a_run_that_is_there_is_not_run_again(tmp_path: Path) -> None:
    path, task = tmp_path / "results.json", TASKS["adult"]
    wanted = list(runs_of("adult", task, (1, 2)))
    keys = [record.key(one) for one in wanted]
    assert len(keys) == len(set(keys)) == 2 * (1 + 2 * len(task.epsilons))
    for one in wanted[:3]:
        record.add({**one, "accuracy": 0.5, "seconds": 1.0}, path)
    done = {record.key(one) for one in record.load(path)}
    assert [key for key in keys if key not in done] == keys[3:]


def test_an_interrupted_write_leaves_the_results_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    record.add(run("myelin", 1.0, 1, 0.5), path)

    def fail(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(record.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        record.add(run("myelin", 1.0, 2, 0.5), path)
    assert [one["seed"] for one in record.load(path)] == [1]


def test_the_page_gives_medians_and_says_how_many_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run("myelin", 1.0, seed, 0.8 + seed / 100) for seed in (1, 2, 3)]
    runs += [run("plain", None, seed, 0.9) for seed in (1, 2, 3, 4, 5)]
    results = tmp_path / "accuracy.json"
    results.write_text(json.dumps({"runs": runs}))
    monkeypatch.setattr(record, "RESULTS", results)
    monkeypatch.setattr(record.load, "__defaults__", (results,))
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "draw", lambda *_: None)
    assert report.write() == [tmp_path / "accuracy.md"]
    page = (tmp_path / "accuracy.md").read_text()
    assert "| Myelin | 0.999 | 1e-05 | 2.000 | 10 | **82.00** | 81.00, 83.00 | 3 |" in page
    assert "| without privacy | – | – | – | – | **90.00** | 90.00, 90.00 | 5 |" in page
    assert "Fewer than 5 seeds in 1 of the lines" in page
    assert "Not run: ε = 0.5, 2, 4, 8." in page
    assert page.count("Not run.\n") == len(TASKS) - 1


def test_slots_come_in_physical_batches_and_none_is_lost() -> None:
    slots = np.array([3, 5, 8, 9, 11, EMPTY, EMPTY, EMPTY, EMPTY], np.uint32)
    parts = physical_batches(slots, 4)
    assert [part.tolist() for part in parts] == [[3, 5, 8, 9], [11, EMPTY, EMPTY, EMPTY]]


def test_columns_are_scaled_by_public_ranges_alone() -> None:
    names = ["age", "capital-gain", "sex_Male", "y", "not y"]
    rows = np.array([[50, 0, 1, 1, 0], [200, 100_000, 0, 0, 1], [-3, -5, 0, 0, 1]] * 5, np.float64)
    data = tables._data(names, rows, tables.ADULT_RANGES, "y", {"y", "not y"})
    assert len(data.labels) == 12
    assert len(data.test_labels) == 3
    features = np.concatenate([data.features, data.test_features])
    labels = np.concatenate([data.labels, data.test_labels])
    expected = {(0.5, 0.0, 1.0, 1), (1.0, 1.0, 0.0, 0), (0.0, 0.0, 0.0, 0)}
    assert {(*map(float, row), int(label)) for row, label in zip(features, labels, strict=True)} == expected


def test_noise_that_was_found_for_the_same_plan_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    task, searches = TASKS["adult"], []

    def search(epsilon: float, delta: float, **sizes: int) -> float:
        searches.append((epsilon, delta, sizes["capacity"]))
        return 7.5

    monkeypatch.setattr(tasks, "calibrate", search)
    found = task.plan(3.25, 36_178)
    assert task.calibrated(1.0, 36_178, 100, [tasks.numbers_of(found)]) == found
    assert not searches
    other = {**tasks.numbers_of(found), "steps": found.steps + 1}
    assert task.calibrated(1.0, 36_178, 100, [other]).noise_multiplier == 7.5
    assert searches == [(1.0, 1e-5, found.capacity)]
