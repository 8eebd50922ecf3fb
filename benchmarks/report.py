"""RESULTS.md: the machine, the targets, every median with its spread, and who is missing and why."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .cases import THREADS
from .results import Run, write_whole
from .targets import Row, rows
from .workloads import CLIPPING_NORM, NOISE_MULTIPLIER, WORKLOADS, Workload


def table(head: list[str], body: Iterable[list[str]]) -> str:
    """A Markdown table; numbers stand to the right."""
    marks = ["---" if index < 2 else "--:" for index in range(len(head))]
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, marks, *body]]
    return "\n".join(lines) + "\n"


def figure(number: float | None) -> str:
    """Three figures, more before the point where there are more."""
    if number is None:
        return "–"
    digits = 0 if number >= 1000 else 1 if number >= 100 else 2 if number >= 1 else 3
    return f"{number:,.{digits}f}"


def machine_section(run: Run) -> str:
    machine = run.machine
    if not machine:
        return "Nothing was measured yet.\n"
    kind = "a virtual machine" if machine["virtual"] else "a machine"
    versions = ", ".join(f"{name} {number}" for name, number in sorted(run.versions.items()))
    rates = [
        f"{threads} thread{'s'[: threads - 1]} {max(found):.0f} GFLOP/s"
        for threads in THREADS
        if (found := [rate[str(threads)] for rate in run.fma_gflops.values() if str(threads) in rate])
    ]
    return (
        f"Measured on {kind} with {machine['cores']} cores, {machine['processor']}, {machine['vectors']}, "
        f"{machine['memory_gib']:g} GiB, Linux {machine['kernel']}, Python {machine['python']}. "
        f"Fused multiply-adds that never leave the registers: {', '.join(rates)}.\n\n"
        f"Versions: {versions}.\n\n"
        f"Allocator of every process: {machine['allocator']}.\n"
    )


def target_line(row: Row) -> list[str]:
    numbers = [figure(row.measured.get(threads)) for threads in THREADS]
    marked = [
        f"**{number}**" if row.holds(threads) is False else number
        for number, threads in zip(numbers, THREADS, strict=True)
    ]
    what = f"{row.what} ({row.note})" if row.note else row.what
    return [
        what,
        f"`{row.workload}`" if row.workload in WORKLOADS else row.workload,
        row.target,
        *marked,
        row.verdict,
    ]


def target_section(run: Run) -> str:
    found = rows(run)
    counts = {
        verdict: sum(row.verdict == verdict for row in found)
        for verdict in ("met", "not met", "not measured")
    }
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    head = ["what", "workload", "target", "1 thread", "2 threads", "verdict"]
    return f"{len(found)} targets: {summary}. Ratios are of medians.\n\n" + table(
        head, map(target_line, found)
    )


def workload_section(run: Run, workload: Workload) -> str:
    """Every median of one workload: a line for each system and mode."""
    pairs = dict.fromkeys((r["system"], r["mode"]) for r in run.records if r["workload"] == workload.name)
    body = []
    for system, mode in pairs:
        cells = []
        for threads in THREADS:
            record = run.find(workload.name, system, mode, threads)
            if record is None:
                cells += ["–", "–", "–"]
            else:
                spread = f"{figure(record['min_ms'])} – {figure(record['max_ms'])}"
                cells += [figure(record["median_ms"]), spread, f"{record['peak_rss_mb']:,.0f}"]
        body.append([system, f"`{mode}`", *cells])
    head = ["system", "mode"]
    for threads in THREADS:
        head += [f"ms, {threads} thread{'s'[: threads - 1]}", "least – most", "MiB"]
    rounds = run.rounds.get(workload.name, {})
    turns = ", ".join(f"{count} rounds at {threads}" for threads, count in sorted(rounds.items()))
    title = (
        f"### {workload.name}\n\nBatch {workload.batch:,}, {workload.parameters:,} parameters; {turns}.\n\n"
    )
    return title + table(head, body)


def missing_section(run: Run) -> str:
    """Gaps, those with the same reason in one line."""
    if not run.missing:
        return "Nothing is missing.\n"
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in run.missing:
        key = (f"{entry['system']} `{entry['mode']}`", entry["reason"])
        groups.setdefault(key, []).append(f"{entry['workload']} at {entry['threads']}")
    everything = {f"{workload} at {threads}" for workload in WORKLOADS for threads in THREADS}
    body = [
        [who, "all" if set(where) == everything else ", ".join(where), reason]
        for (who, reason), where in groups.items()
    ]
    lines = [
        "| " + " | ".join(cells) + " |" for cells in [["who", "where, threads", "why"], ["---"] * 3, *body]
    ]
    return "\n".join(lines) + "\n"


HOW = f"""\
Each row is a process of its own, and a round goes from system to system, so that what disturbs the machine
disturbs all alike. A time is a whole step: sampling, gather, forward, loss, backward, and where private
per-example norms, clipping to {CLIPPING_NORM:g}, noise {NOISE_MULTIPLIER:g}, then the update by SGD without
momentum. A plain step draws exactly the batch; a private one draws by Poisson sampling, and systems with
static shapes keep at most the batch. Peers are given their batches by index, without a loader's loop over
records, and their noise is not from a cryptographic generator; both make them quicker. Memory is the most
that the process ever had resident. Models and settings are in [workloads.py](workloads.py), the protocol in
[protocol.py](protocol.py).
"""


def text(run: Run, plots: list[str]) -> str:
    """The whole report; ``plots`` are paths beside it."""
    measured = [w for w in WORKLOADS.values() if any(r["workload"] == w.name for r in run.records)]
    parts = ["# Benchmarks\n", "Written by `make bench`. Do not edit.\n", machine_section(run), HOW]
    parts += ["## Targets\n", target_section(run)]
    parts += ["## Plots\n", *(f"![{Path(plot).stem}]({plot})\n" for plot in plots)] if plots else []
    parts += ["## Milliseconds a step\n", *(workload_section(run, workload) for workload in measured)]
    parts += ["## Missing\n", missing_section(run)]
    return "\n".join(parts)


def write(run: Run, folder: Path, plots: list[Path]) -> None:
    """RESULTS.md in a folder."""
    write_whole(folder / "RESULTS.md", text(run, [plot.relative_to(folder).as_posix() for plot in plots]))
