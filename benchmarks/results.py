"""What a run leaves behind, and how a run of one workload joins what was there.

``results.json`` is a list of records with exactly :data:`FIELDS`. ``environment.json`` has all the rest: the
machine, versions, the allocator, who is missing and why, facts that systems tell about themselves, and the
rate of the register-only loop in the same run.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .cases import Case

FIELDS = ("workload", "system", "mode", "threads", "median_ms", "min_ms", "max_ms", "peak_rss_mb")

Record = dict[str, Any]


@dataclass
class Run:
    """All that is known: of one workload while it is measured, or of every one measured so far.

    ``missing``: case and reason. ``facts``: case and numbers by name. ``fma_gflops``: workload → threads (as
    text) → GFLOP/s. ``rounds``: workload → threads → how often the systems alternated.
    """

    records: list[Record] = field(default_factory=list)
    missing: list[Record] = field(default_factory=list)
    facts: list[Record] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    fma_gflops: dict[str, dict[str, float]] = field(default_factory=dict)
    rounds: dict[str, dict[str, int]] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    def add(self, case: Case, step_ms: list[float], peak_rss_mb: float) -> None:
        """One process's times of all rounds."""
        numbers = {
            "median_ms": round(statistics.median(step_ms), 4),
            "min_ms": round(min(step_ms), 4),
            "max_ms": round(max(step_ms), 4),
            "peak_rss_mb": round(peak_rss_mb, 1),
        }
        self.records.append(asdict(case) | numbers)

    def miss(self, case: Case, reason: str) -> None:
        """A process that gave no number."""
        self.missing.append(asdict(case) | {"reason": reason})

    def find(self, workload: str, system: str, mode: str, threads: int) -> Record | None:
        """The record of one case, if it was measured."""
        wanted = (workload, system, mode, threads)
        for record in self.records:
            if tuple(record[name] for name in FIELDS[:4]) == wanted:
                return record
        return None

    def fact(self, workload: str, system: str, mode: str, threads: int, name: str) -> float | None:
        """A number that a system told about itself."""
        for entry in self.facts:
            if tuple(entry[key] for key in FIELDS[:4]) == (workload, system, mode, threads) and name in entry:
                return float(entry[name])
        return None


def merge(before: Run, new: Run) -> Run:
    """What ``new`` measured replaces all that was known of the same workloads; the rest stays."""
    measured = set(new.rounds) | {entry["workload"] for entry in [*new.records, *new.missing]}

    def joined(old: list[Record], fresh: list[Record]) -> list[Record]:
        return [entry for entry in old if entry["workload"] not in measured] + fresh

    return Run(
        records=joined(before.records, new.records),
        missing=joined(before.missing, new.missing),
        facts=joined(before.facts, new.facts),
        versions=before.versions | new.versions,
        fma_gflops={k: v for k, v in before.fma_gflops.items() if k not in measured} | new.fma_gflops,
        rounds={k: v for k, v in before.rounds.items() if k not in measured} | new.rounds,
        machine=new.machine or before.machine,
    )


def load(folder: Path) -> Run:
    """The results in a folder; an empty run when there are none."""
    if not (folder / "results.json").exists():
        return Run()
    rest = json.loads((folder / "environment.json").read_text())
    return Run(records=json.loads((folder / "results.json").read_text()), **rest)


def save(run: Run, folder: Path, workloads: list[str]) -> None:
    """Write both files, in the order of ``workloads``, each at once or not at all."""

    def place(entry: Record) -> int:
        return workloads.index(entry["workload"]) if entry["workload"] in workloads else len(workloads)

    rest = asdict(run)
    for name in ("records", "missing", "facts"):
        rest[name] = sorted(rest[name], key=place)
    records = [{name: record[name] for name in FIELDS} for record in rest.pop("records")]
    write_whole(folder / "results.json", listed(records))
    write_whole(folder / "environment.json", json.dumps(rest, indent=1, sort_keys=True) + "\n")


def listed(records: list[Record]) -> str:
    """A JSON list, one record a line."""
    return "[\n" + ",\n".join(f" {json.dumps(record)}" for record in records) + "\n]\n"


def write_whole(path: Path, text: str) -> None:
    beside = path.with_suffix(path.suffix + ".new")
    beside.write_text(text)
    beside.replace(path)
