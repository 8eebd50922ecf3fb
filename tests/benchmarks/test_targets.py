"""Each target's ratio is of the right numbers, and its verdict is never better than what was measured."""

from __future__ import annotations

import pytest
from benchmarks.results import Run
from benchmarks.targets import BUILD, LARGEST, SCALING, Row, rows
from benchmarks.workloads import WORKLOADS
from recorded import recorded


def row(run: Run, what: str, workload: str = "vgg9") -> Row:
    (found,) = [r for r in rows(run) if r.what == what and r.workload == workload]
    return found


@pytest.mark.parametrize(
    ("what", "ratio", "verdict"),
    [
        ("Myelin private ÷ Myelin plain", 1.04, "met"),
        ("Myelin private in the enclave ÷ best PyTorch plain", 105 / 120, "met"),
        ("best other private ÷ Myelin private", 260 / 104, "met"),
        ("in the enclave ÷ outside", 105 / 104, "met"),
        ("peak memory, private ÷ plain", 1.0, "met"),
        ("peak memory, Myelin private ÷ Opacus (its smallest mode)", 0.05, "met"),
    ],
)
def test_ratios(what: str, ratio: float, verdict: str) -> None:
    found = row(recorded(), what)
    assert found.measured == pytest.approx({1: ratio, 2: ratio})
    assert found.verdict == verdict


def test_the_rate_of_kernels_is_asked_of_one_thread() -> None:
    found = row(recorded(), "rate of convolutions and products ÷ register-only FMA loop")
    assert (found.measured, found.verdict) == ({1: pytest.approx(0.9)}, "met")


def test_the_best_of_the_others_is_named() -> None:
    assert row(recorded(), "best other private ÷ Myelin private").note == "opacus private_ghost"
    assert (
        row(recorded(), "Myelin private in the enclave ÷ best PyTorch plain").note == "pytorch plain_compiled"
    )


def test_scaling_is_a_speed_and_asked_of_the_largest_only() -> None:
    assert row(recorded(), SCALING).measured == {2: 2.0}
    assert row(recorded(), SCALING).verdict == "met"
    assert [r.workload for r in rows(recorded()) if r.what == SCALING] == list(LARGEST)


def test_one_thread_count_over_the_limit_is_not_met() -> None:
    run = recorded()
    run.find("vgg9", "myelin", "private", 2)["median_ms"] = 54.0  # type: ignore[index]
    found = row(run, "Myelin private ÷ Myelin plain")
    assert (found.holds(1), found.holds(2), found.verdict) == (True, False, "not met")


def test_one_thread_count_without_a_number_is_not_measured() -> None:
    run = recorded()
    run.records = [r for r in run.records if r["threads"] == 1]
    found = row(run, "Myelin private ÷ Myelin plain")
    assert (found.measured, found.verdict) == ({1: pytest.approx(1.04)}, "not measured")


def test_without_results_every_target_is_there_and_none_is_met() -> None:
    found = rows(Run())
    assert {r.verdict for r in found} == {"not measured"}
    assert {r.what for r in found} == {r.what for r in rows(recorded())}
    assert len([r for r in found if r.what == "in the enclave ÷ outside"]) == len(WORKLOADS)


def test_limits_that_differ_from_workload_to_workload() -> None:
    limits = {r.workload: r.limit for r in rows(Run()) if r.what == "Myelin private ÷ Myelin plain"}
    assert (limits["mnist_cnn"], limits["mlp"], limits["mlp_2048"], limits["lstm"]) == (
        1.10,
        1.25,
        1.05,
        1.05,
    )
    limits = {r.workload: r.limit for r in rows(Run()) if r.what.startswith("Myelin private in the enclave")}
    assert (limits["mnist_cnn"], limits["vgg9"], len(limits)) == (0.7, 1.0, 6)


def test_two_workloads_must_reach_the_larger_factor() -> None:
    what = "best other private ÷ Myelin private, the second largest"
    assert row(recorded("vgg9"), what, "two of the six").verdict == "not measured"
    run = recorded("vgg9")
    run.records += recorded("lstm").records
    assert row(run, what, "two of the six").measured == {1: 2.5, 2: 2.5}
    run.find("lstm", "opacus", "private_ghost", 1)["median_ms"] = 200.0  # type: ignore[index]
    assert row(run, what, "two of the six").verdict == "not met"


def test_build_times_are_what_myelin_says() -> None:
    run = recorded("resnet20")
    assert row(run, BUILD, "resnet20").verdict == "not measured"
    run.facts[-1]["build_s"] = 61.0
    assert row(run, BUILD, "resnet20").verdict == "not met"
