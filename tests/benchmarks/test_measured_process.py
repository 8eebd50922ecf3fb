"""Both sides of the protocol, with a system made up for the test, and what becomes of one that fails."""

from __future__ import annotations

import io
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from benchmarks.cases import LEFT_OUT, Case, cases_of, environment, interpreter
from benchmarks.process import Gap, Measured, without_paths
from benchmarks.results import Run
from benchmarks.workloads import WORKLOADS
from rich.console import Console

from benchmarks import harness, process, protocol

CORES = sorted(os.sched_getaffinity(0))
MLP = WORKLOADS["mlp"]


def served(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, *commands: dict[str, Any]) -> list[Any]:
    """What a process with this system answers to these commands."""
    monkeypatch.setitem(sys.modules, "made_up", module)
    monkeypatch.setitem(protocol.MODULES, "made_up", "made_up")
    monkeypatch.setattr(protocol, "WARM_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(c) + "\n" for c in commands)))
    replies = io.StringIO()
    protocol.serve("made_up", MLP, "plain", 1, replies)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def system(parameters: int, calls: list[int]) -> types.ModuleType:
    module = types.ModuleType("made_up")

    def prepare(workload: protocol.Workload, mode: str, threads: int) -> protocol.Prepared:
        if mode != "plain":
            raise protocol.Unavailable("no such mode")
        return protocol.Prepared(
            lambda: calls.append(1), parameters, {"made_up": "1"}, lambda: {"steps": float(len(calls))}
        )

    module.prepare = prepare  # type: ignore[attr-defined]
    return module


def test_a_process_warms_up_then_times_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    block = {"seconds": 0.0, "cores": CORES}
    ready, first, second = served(monkeypatch, system(MLP.parameters, calls), block, block)
    assert ready["event"] == "ready"
    assert ready["parameters"] == MLP.parameters
    assert ready["facts"]["steps"] == protocol.WARM_STEPS
    assert len(first["step_ms"]) == len(second["step_ms"]) == 1
    # One step not timed and one timed in each of two blocks.
    assert len(calls) == protocol.WARM_STEPS + 4
    assert second["facts"]["steps"] == len(calls)
    assert second["peak_rss_mb"] > 1


def test_a_wrong_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (answer,) = served(monkeypatch, system(MLP.parameters + 1, []))
    assert answer["event"] == "unavailable"
    assert "1863691 parameters" in answer["reason"]


def test_two_bias_vectors_may_be_one() -> None:
    lstm = WORKLOADS["lstm"]
    assert lstm.accepts(lstm.parameters)
    assert lstm.accepts(lstm.parameters - 512)
    assert not lstm.accepts(lstm.parameters - 1)


def test_a_long_step_needs_no_untimed_one() -> None:
    calls: list[int] = []
    protocol.time_block(lambda: calls.append(1), 0.0, last_ms=protocol.LONG_STEP_S * 1e3 + 1)
    assert len(calls) == 1


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers' processes run with this test's own interpreter, which has none of them."""
    monkeypatch.setattr(process, "interpreter", lambda system: Path(sys.executable))


@pytest.mark.usefixtures("here")
def test_a_system_that_cannot_be_imported_is_a_gap_with_its_reason() -> None:
    measured = Measured(Case("mlp", "opacus", "private_hooks", 1), CORES[:1], None)
    with pytest.raises(Gap, match="cannot be imported: no module opacus"):
        measured.wait_until_ready(60)


@pytest.mark.usefixtures("here")
def test_a_process_that_dies_is_a_gap_with_its_last_words() -> None:
    measured = Measured(Case("no such workload", "opacus", "private_hooks", 1), CORES[:1], None)
    with pytest.raises(Gap, match=r"ended by itself \(status 1\): KeyError: 'no such workload'"):
        measured.wait_until_ready(60)


@pytest.mark.usefixtures("here")
def test_a_process_that_does_not_answer_is_a_gap_and_is_ended() -> None:
    measured = Measured(Case("mlp", "opacus", "private_hooks", 1), CORES[:1], None)
    with pytest.raises(Gap, match="no answer within 0 s"):
        measured.wait_until_ready(0)
    assert measured._process.poll() is not None


def test_without_the_peers_environment_each_peer_is_a_gap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "interpreter", lambda system: process.ROOT / tmp_path.name / "python")
    run = Run()
    cases = [case for case in cases_of("mlp", 1) if case.system != "myelin"]
    with harness.started(cases, CORES[:1], None, run) as ready:
        assert ready == []
    assert [entry["system"] for entry in run.missing] == [case.system for case in cases]
    assert all("environment is not there" in entry["reason"] for entry in run.missing)


def test_reasons_name_no_folder() -> None:
    assert without_paths("cannot read /some/where/deep/thing.so: no") == "cannot read thing.so: no"
    assert without_paths("a/b is relative, 3/4 a fraction") == "a/b is relative, 3/4 a fraction"


def test_every_system_gets_the_same_settings_but_its_own_interpreter() -> None:
    plain, preloaded = environment(2, CORES, None), environment(1, CORES, Path("lib.so"))
    assert plain["OMP_NUM_THREADS"] == "2" and "mmap_max=0" in plain["GLIBC_TUNABLES"]
    assert preloaded["LD_PRELOAD"] == "lib.so" and "GLIBC_TUNABLES" not in preloaded
    assert interpreter("myelin").parts[-4:-3] != ("benchmarks",)
    assert interpreter("jax").parts[-4:-3] == ("benchmarks",)


def test_what_is_left_out_is_a_case_with_a_reason() -> None:
    for (workload, system, mode), reason in LEFT_OUT.items():
        assert Case(workload, system, mode, 1) in cases_of(workload, 1)
        assert len(reason) > 20


def test_one_run_names_every_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "interpreter", lambda system: process.ROOT / tmp_path.name / "python")
    monkeypatch.setattr(harness.machine, "fma_gflops", lambda threads, use: 50.0 * threads)
    run = harness.measure("lstm", harness.QUICK, Console(quiet=True))
    named = {(entry["system"], entry["mode"], entry["threads"]) for entry in run.missing}
    cases = [case for threads in (1, 2) for case in cases_of("lstm", threads)]
    assert named == {(case.system, case.mode, case.threads) for case in cases}
    assert len(run.missing) == len(cases)
    assert run.records == []
