"""The report says all that was measured, names who is missing, and nothing of the machine's names."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from benchmarks.cases import Case
from benchmarks.report import figure, text, write
from benchmarks.results import Run, merge
from recorded import recorded


def lines_with(report: str, *parts: str) -> list[str]:
    return [line for line in report.splitlines() if all(part in line for part in parts)]


def test_a_target_line_has_both_numbers_and_the_verdict() -> None:
    (line,) = lines_with(text(recorded(), []), "Myelin private ÷ Myelin plain", "`vgg9`")
    assert line == "| Myelin private ÷ Myelin plain | `vgg9` | ≤ 1.05 | 1.04 | 1.04 | met |"


def test_a_number_that_misses_its_target_stands_out() -> None:
    run = recorded()
    run.find("vgg9", "myelin", "private", 2)["median_ms"] = 54.0  # type: ignore[index]
    (line,) = lines_with(text(run, []), "Myelin private ÷ Myelin plain", "`vgg9`")
    assert line.endswith("| 1.04 | **1.08** | not met |")


def test_medians_stand_with_their_spread_and_memory() -> None:
    (line,) = lines_with(text(recorded(), []), "| opacus | `private_ghost`")
    assert line == (
        "| opacus | `private_ghost` | 260.0 | 234.0 – 312.0 | 2,000 | 130.0 | 117.0 – 156.0 | 2,000 |"
    )


def test_what_a_private_step_has_more_stands_in_shares_of_the_plain_one() -> None:
    run = recorded()
    for mode, norms, noise in (("plain", 0.0, {}), ("private", 2.0, {"noise_mdraws": 1000.0})):
        kernels = {"products_ms": 90.0, "norms_ms": norms, "sums_ms": 1.0, "other_ms": 3.0, "once_ms": 1.0}
        run.facts.append(asdict(Case("vgg9", "myelin", mode, 1)) | kernels | noise)
    report = text(run, [])
    assert lines_with(report, "`vgg9`", "per-example norms")[0].endswith("| 0.000 | 2.00 | +2.0 % |")
    # 2,786,890 draws; and 100 and 104 ms are the whole steps.
    assert lines_with(report, "`vgg9`", "noise, at")[0].endswith("| 0.000 | 2.79 | +2.8 % |")
    assert lines_with(report, "`vgg9`", "sampling")[0].endswith("| 5.00 | 4.21 | -0.8 % |")


def test_parts_that_were_not_all_measured_are_not_shown() -> None:
    report = text(recorded(), [])
    assert "Nothing was measured yet" in report.split("## Where a step's time goes")[1]


def test_who_is_missing_is_named_with_the_reason() -> None:
    (line,) = lines_with(text(recorded(), []), "FastDP is in no package index")
    assert line == "| fastdp `private` | vgg9 at 1, vgg9 at 2 | FastDP is in no package index |"


def test_the_machine_in_words() -> None:
    report = text(merge(recorded("mlp"), recorded("vgg9")), [])
    assert "a machine with 2 cores, Some Processor (family 1 model 2), AVX2, 8 GiB" in report
    assert "1 thread 100 GFLOP/s, 2 threads 200 GFLOP/s" in report
    assert "torch 2.0" in report
    assert "libtcmalloc_minimal.so.4" in report


def test_counts_of_verdicts_add_up() -> None:
    report = text(recorded(), [])
    summary = next(line for line in report.splitlines() if "targets:" in line)
    total, met, not_met, not_measured = (int(word) for word in summary.split() if word.isdigit())
    table = report.split("## Targets")[1].split("## Milliseconds")[0]
    verdicts = [line.split(" | ")[-1].rstrip(" |") for line in table.splitlines() if line.startswith("|")][2:]
    assert total == len(verdicts) == met + not_met + not_measured
    assert (verdicts.count("met"), verdicts.count("not met")) == (met, not_met)


def test_plots_are_shown_and_without_any_there_is_no_heading() -> None:
    assert "![vgg9](plots/vgg9.png)" in text(recorded(), ["plots/vgg9.png"])
    assert "## Plots" not in text(recorded(), [])


def test_an_empty_run_still_makes_a_report(tmp_path: Path) -> None:
    write(Run(), tmp_path, [])
    report = (tmp_path / "RESULTS.md").read_text()
    assert "Nothing was measured yet." in report
    assert "Nothing is missing." in report


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (None, "–"),
        (0.0523, "0.052"),
        (1.0449, "1.04"),
        (26.31, "26.31"),
        (388.27, "388.3"),
        (1234.5, "1,234"),
    ],
)
def test_figures(number: float | None, shown: str) -> None:
    assert figure(number) == shown
