"""How a measured process and the harness talk: one line of JSON each way over pipes.

Each (workload, system, mode, threads) is a process of its own, in the system's environment:
``python -m benchmarks.child SYSTEM WORKLOAD MODE THREADS``. It imports the system's module
(:data:`MODULES`), which has

``prepare(workload: Workload, mode: str, threads: int) -> Prepared``

and raises :class:`Unavailable` with a reason, a sentence for a reader of the report, when it has no such
mode. Standard input and output are the protocol's; what libraries print goes to standard error.

The process begins, when it is warm, with
``{"event": "ready", "parameters": N, "versions": {…}, "facts": {…}}``;
or with ``{"event": "unavailable", "reason": …}``, and ends. Then the harness asks
for blocks:

``{"seconds": s, "cores": […]}``
    One step not timed, then each step's time for about ``s`` seconds, at least one, on these cores. Answer:
    ``{"event": "block", "step_ms": […], "peak_rss_mb": …, "facts": {…}}``.

When its input ends, the process ends.

``facts`` are what only the system itself can tell, numbers by name. The report knows ``product_gflops`` (rate
of convolutions and products within the step), ``build_s`` and ``rebuild_s``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .workloads import Workload

MODULES = {
    "myelin": "benchmarks.myelin_steps",
    "pytorch": "benchmarks.peers.pytorch",
    "opacus": "benchmarks.peers.opacus",
    "fastdp": "benchmarks.peers.fastdp",
    "jax": "benchmarks.peers.jax",
    "jax-privacy": "benchmarks.peers.jax_privacy",
    "onnxruntime": "benchmarks.peers.onnxruntime",
}
"""Where each system's ``prepare`` is."""

WARM_STEPS = 2
WARM_SECONDS = 0.5
"""A process is ready after so many steps, and not before so much time: the memory that batches of different
sizes need is then mostly there."""

LONG_STEP_S = 0.4
"""A step of a block that takes longer needs no untimed one before it."""

BLOCK_STEPS_MAX = 500


class Unavailable(Exception):  # noqa: N818  (a state, not a mistake)
    """A system cannot run a workload in a mode; the text is the reason given in the report."""


@dataclass(frozen=True)
class Prepared:
    """A step ready to be timed.

    ``step`` does one whole step and returns when its result is there. ``parameters`` is the number of
    trainable numbers in the model as built. ``facts`` is called at the end of each block, so a system may
    measure there. ``process`` is the process that works, where it is not the one that was asked.
    """

    step: Callable[[], object]
    parameters: int
    versions: dict[str, str] = field(default_factory=dict)
    facts: Callable[[], dict[str, float]] = dict
    process: int | None = None


def _family(process: int) -> list[int]:
    """A process and those that it started."""
    children = (Path("/proc") / str(process) / "task" / str(process) / "children").read_text().split()
    return [process, *(member for child in children for member in _family(int(child)))]


def peak_rss_mb(process: int | None = None) -> float:
    """The most memory that this process ever had resident, in MiB; of another one with its children's."""
    # Not getrusage: its maximum includes what the process was before it became this program.
    total = 0
    for member in [os.getpid()] if process is None else _family(process):
        lines = Path(f"/proc/{member}/status").read_text().splitlines()
        total += int(next(line for line in lines if "VmHWM" in line).split()[1])
    return total / 1024


def pin(cores: Iterable[int], process: int | None = None) -> None:
    """Every thread of this process, or of another one and its children, runs on these cores from now on."""
    wanted = set(cores)
    tasks = os.listdir("/proc/self/task")
    if process is not None:
        tasks = [task for member in _family(process) for task in os.listdir(f"/proc/{member}/task")]
    for task in tasks:
        try:
            os.sched_setaffinity(int(task), wanted)
        except ProcessLookupError:
            continue


def prepare(system: str, workload: Workload, mode: str, threads: int) -> Prepared:
    """Build one step of a system, warm it, and check that it is the model that was asked for."""
    try:
        module = importlib.import_module(MODULES[system])
    except ModuleNotFoundError as error:
        raise Unavailable(f"cannot be imported: no module {error.name}") from error
    prepared: Prepared = module.prepare(workload, mode, threads)
    if not workload.accepts(prepared.parameters):
        raise Unavailable(
            f"built {prepared.parameters} parameters, but {workload.name} has {workload.parameters}"
        )
    start = time.perf_counter()
    steps = 0
    while steps < WARM_STEPS or time.perf_counter() - start < WARM_SECONDS:
        prepared.step()
        steps += 1
    return prepared


def time_block(step: Callable[[], object], seconds: float, last_ms: float) -> list[float]:
    """Milliseconds of each of the steps that fit in ``seconds``; at least one."""
    if last_ms < LONG_STEP_S * 1e3:
        step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < BLOCK_STEPS_MAX):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def serve(system: str, workload: Workload, mode: str, threads: int, replies: IO[str]) -> None:
    """The measured process: get ready, then time blocks until told to stop."""

    def reply(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        prepared = prepare(system, workload, mode, threads)
    except Unavailable as reason:
        reply(event="unavailable", reason=str(reason))
        return
    reply(event="ready", parameters=prepared.parameters, versions=prepared.versions, facts=prepared.facts())
    last_ms = 0.0
    for line in sys.stdin:
        message = json.loads(line)
        pin(message["cores"])
        if prepared.process is not None:
            pin(message["cores"], prepared.process)
        times = time_block(prepared.step, message["seconds"], last_ms)
        last_ms = times[-1]
        reply(
            event="block",
            step_ms=times,
            peak_rss_mb=round(peak_rss_mb(prepared.process), 1),
            facts=prepared.facts(),
        )
