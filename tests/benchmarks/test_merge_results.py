"""Runs of one workload join what was measured before, and files hold exactly what they are said to."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.results import FIELDS, Run, load, merge, save
from benchmarks.workloads import WORKLOADS
from recorded import recorded

ORDER = list(WORKLOADS)


def workloads_of(entries: list[dict[str, object]]) -> set[object]:
    return {entry["workload"] for entry in entries}


def test_results_are_a_list_of_records_with_just_these_fields(tmp_path: Path) -> None:
    save(recorded(), tmp_path, ORDER)
    records = json.loads((tmp_path / "results.json").read_text())
    assert isinstance(records, list)
    assert all(tuple(record) == FIELDS for record in records)
    assert records[0] == {
        "workload": "vgg9",
        "system": "myelin",
        "mode": "plain",
        "threads": 1,
        "median_ms": 100.0,
        "min_ms": 90.0,
        "max_ms": 120.0,
        "peak_rss_mb": 100.0,
    }


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    run = recorded()
    save(run, tmp_path, ORDER)
    assert load(tmp_path) == run
    assert sorted(path.name for path in tmp_path.iterdir()) == ["environment.json", "results.json"]


def test_nothing_measured_yet_is_an_empty_run(tmp_path: Path) -> None:
    assert load(tmp_path) == Run()


def test_a_new_run_replaces_its_workload_and_leaves_the_others(tmp_path: Path) -> None:
    both = merge(recorded("mlp"), recorded("vgg9"))
    again = merge(both, recorded("vgg9", scale=2.0))
    assert again.find("vgg9", "myelin", "plain", 1)["median_ms"] == 200.0  # type: ignore[index]
    assert again.find("mlp", "myelin", "plain", 1)["median_ms"] == 100.0  # type: ignore[index]
    assert len(again.records) == len(both.records)
    assert len(again.missing) == len(both.missing) == 4
    assert len(again.facts) == len(both.facts)
    assert set(again.fma_gflops) == set(again.rounds) == {"mlp", "vgg9"}


def test_a_system_that_is_now_missing_does_not_keep_its_old_number() -> None:
    new = recorded()
    new.records = [record for record in new.records if record["system"] != "opacus"]
    new.miss(Case("vgg9", "opacus", "private_hooks", 1), "it broke")
    merged = merge(recorded(), new)
    assert merged.find("vgg9", "opacus", "private_hooks", 1) is None
    assert "it broke" in {entry["reason"] for entry in merged.missing}


def test_a_workload_in_which_everything_failed_replaces_the_old_numbers() -> None:
    failed = Run()
    failed.miss(Case("vgg9", "pytorch", "plain", 1), "it broke")
    merged = merge(merge(recorded("vgg9"), recorded("mlp")), failed)
    assert workloads_of(merged.records) == {"mlp"}
    assert merged.machine == recorded().machine


def test_files_are_in_the_order_of_the_workloads(tmp_path: Path) -> None:
    save(merge(recorded("transformer"), recorded("mnist_cnn")), tmp_path, ORDER)
    records = json.loads((tmp_path / "results.json").read_text())
    assert list(dict.fromkeys(record["workload"] for record in records)) == ["mnist_cnn", "transformer"]
