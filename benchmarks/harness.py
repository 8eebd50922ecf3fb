"""Measure one workload: every system in a process of its own, in rounds that go from system to system.

Whatever disturbs the machine for a while then disturbs all systems alike. A process that fails becomes a gap
with its reason; it never vanishes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from . import machine
from .cases import LEFT_OUT, THREADS, Case, cases_of, describe_allocator, find_preload
from .process import Gap, Measured
from .results import Run

READY_TIMEOUT_S = 900
"""Long enough to compile a workload that was never compiled on this machine."""
BLOCK_TIMEOUT_S = 120
SETTLE_S = 0.02
"""Between two blocks, so that threads of the last system that spin for work have gone to sleep."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds until ``seconds`` have passed, but so many at least and at most.

    A block, one system's turn in a round, lasts about ``block_s`` or one step.
    """

    seconds: float
    rounds_min: int
    rounds_max: int = 20
    block_s: float = 0.15


QUICK = Effort(seconds=5, rounds_min=3)
THOROUGH = Effort(seconds=15, rounds_min=5)
"""Of one workload asked for by name, and of all."""


def start(case: Case, cores: list[int], preload: Path | None, born: list[Measured]) -> Measured:
    """A process that is warm, or :class:`Gap`; it joins ``born`` as soon as it exists."""
    measured = Measured(case, cores, preload)
    born.append(measured)
    measured.wait_until_ready(READY_TIMEOUT_S)
    return measured


@contextmanager
def started(cases: list[Case], cores: list[int], preload: Path | None, run: Run) -> Iterator[list[Measured]]:
    """All processes that could be started, warm and waiting; they are ended at the end.

    As many get ready at once as there are cores. A process of one thread gets ready on one core, so that a
    library that counts cores counts one.
    """
    threads = cases[0].threads
    slots = [[core] for core in cores] if threads == 1 else [cores[-threads:]] * len(cores)
    ready: list[Measured] = []
    born: list[Measured] = []
    with ThreadPoolExecutor(len(slots)) as pool:
        futures = [pool.submit(start, c, slots[i % len(slots)], preload, born) for i, c in enumerate(cases)]
        try:
            for case, future in zip(cases, futures, strict=True):
                try:
                    ready.append(future.result())
                    run.versions |= ready[-1].ready["versions"]
                except Gap as reason:
                    run.miss(case, str(reason))
            yield ready
        finally:
            for future in futures:
                future.cancel()
            # Also those that were still getting ready when a person interrupted.
            for measured in born:
                measured.end()


def alternate(ready: list[Measured], cores: list[int], effort: Effort, run: Run) -> int:
    """Rounds over all processes until the effort is spent. Returns how many rounds there were."""
    begun = time.perf_counter()
    rounds = 0
    while rounds < effort.rounds_max:
        if rounds >= effort.rounds_min and time.perf_counter() - begun > effort.seconds:
            break
        for measured in list(ready):
            time.sleep(SETTLE_S)
            try:
                measured.block(effort.block_s, cores, BLOCK_TIMEOUT_S)
            except Gap as reason:
                run.miss(measured.case, str(reason))
                ready.remove(measured)
                measured.end()
        rounds += 1
    return rounds


def measure(workload: str, effort: Effort, console: Console) -> Run:
    """Everything of one workload, at each number of threads that the machine has cores for."""
    run = Run(fma_gflops={workload: {}}, rounds={workload: {}})
    preload, cores = find_preload(), machine.cores()
    run.machine = machine.describe(describe_allocator(preload))
    for threads in THREADS:
        cases = cases_of(workload, threads)
        if threads > len(cores):
            for case in cases:
                run.miss(case, f"this machine has {len(cores)} core")
            continue
        for case in cases:
            if reason := LEFT_OUT.get((case.workload, case.system, case.mode)):
                run.miss(case, reason)
        cases = [case for case in cases if (case.workload, case.system, case.mode) not in LEFT_OUT]
        use = cores[-threads:]
        with (
            console.status(f"{workload}, {threads} thread(s): {len(cases)} processes get ready") as status,
            started(cases, cores, preload, run) as ready,
        ):
            status.update(f"{workload}, {threads} thread(s): {len(ready)} systems in rounds")
            rate = machine.fma_gflops(threads, use)
            run.rounds[workload][str(threads)] = alternate(ready, use, effort, run)
            run.fma_gflops[workload][str(threads)] = max(rate, machine.fma_gflops(threads, use))
            for measured in ready:
                run.add(measured.case, measured.step_ms, measured.peak_rss_mb)
                if measured.facts:
                    run.facts.append(asdict(measured.case) | measured.facts)
        show(run, workload, threads, console)
    return run


def show(run: Run, workload: str, threads: int, console: Console) -> None:
    """What was just measured, on the terminal."""
    rate = run.fma_gflops[workload][str(threads)]
    console.print(f"[bold]{workload}[/], {threads} thread(s), {rate:.0f} GFLOP/s of registers")
    for record in run.records:
        if record["threads"] == threads:
            name = f"{record['system']} {record['mode']}"
            spread = f"{record['min_ms']:.2f} to {record['max_ms']:.2f}"
            memory = f"{record['peak_rss_mb']:.0f} MiB"
            console.print(
                f"  {name:28} {record['median_ms']:10.2f} ms   ({spread}), {memory}", highlight=False
            )
    for entry in run.missing:
        if entry["threads"] == threads:
            console.print(f"  {entry['system']} {entry['mode']}: missing, {entry['reason']}", style="dim")
