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


PARTS = {
    "products": "convolutions and products, forward and back",
    "norms": "per-example norms",
    "sums": "coefficients, and sums over examples beside products",
    "other": "activations, loss, normalisation, changes of order",
    "once": "once a step: order of weights, update",
    "noise": "noise, at the rate measured alone",
    "rest": "sampling, gathering, sums in float64, and what disturbed the step",
}
"""The kinds of :mod:`benchmarks.phases`, and what a step has beside kernels."""


def parts_of(run: Run, workload: Workload, mode: str) -> dict[str, float] | None:
    """Milliseconds of a step of Myelin on one thread by part; None where one is missing."""
    record = run.find(workload.name, "myelin", mode, 1)
    found = {
        kind: run.fact(workload.name, "myelin", mode, 1, f"{kind}_ms")
        for kind in PARTS
        if kind not in {"noise", "rest"}
    }
    rate = run.fact(workload.name, "myelin", mode, 1, "noise_mdraws") if mode == "private" else None
    parts = {kind: spent for kind, spent in found.items() if spent is not None}
    if record is None or len(parts) < len(found) or (mode == "private" and rate is None):
        return None
    if rate is not None:
        parts["noise"] = workload.parameters / rate / 1e3
    parts["rest"] = record["median_ms"] - sum(parts.values())
    return parts


def parts_section(run: Run) -> str:
    """What a private step has that a plain one has not, by workload: it is what bounds their ratio."""
    body = []
    for workload in WORKLOADS.values():
        plain, private = (parts_of(run, workload, mode) for mode in ("plain", "private"))
        if plain is None or private is None:
            continue
        for part, words in PARTS.items():
            numbers = plain.get(part, 0.0), private[part]
            share = (numbers[1] - numbers[0]) / sum(plain.values())
            cells = [figure(number) for number in numbers]
            body.append([f"`{workload.name}`", words, *cells, f"{100 * share:+.1f} %"])
    if not body:
        return "Nothing was measured yet.\n"
    head = ["workload", "what", "plain, ms", "private, ms", "difference ÷ plain step"]
    return table(head, body)


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

HOW_PARTS = """\
On one thread. Kernels were timed one by one when the workload was compiled, each call's least of many runs
within its step; the last part is what the median step took beyond all others, so a busy machine adds to it.
"""


def text(run: Run, plots: list[str]) -> str:
    """The whole report; ``plots`` are paths beside it."""
    measured = [w for w in WORKLOADS.values() if any(r["workload"] == w.name for r in run.records)]
    parts = ["# Benchmarks\n", "Written by `make bench`. Do not edit.\n", machine_section(run), HOW]
    parts += ["## Targets\n", target_section(run)]
    parts += ["## Plots\n", *(f"![{Path(plot).stem}]({plot})\n" for plot in plots)] if plots else []
    parts += ["## Milliseconds a step\n", *(workload_section(run, workload) for workload in measured)]
    parts += ["## Where a step's time goes\n", HOW_PARTS, parts_section(run)]
    parts += ["## Missing\n", missing_section(run)]
    return "\n".join(parts)


def write(run: Run, folder: Path, plots: list[Path]) -> None:
    """RESULTS.md in a folder."""
    write_whole(folder / "RESULTS.md", text(run, [plot.relative_to(folder).as_posix() for plot in plots]))
