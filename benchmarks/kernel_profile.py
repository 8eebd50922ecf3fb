"""Where a step's time goes: ``python -m benchmarks.kernel_profile NAME [MODE [TARGET [BATCH [VIEWS]]]]``.

Compiles a workload or a job file (``JOB.py``), private or plain (the mode; private if not given), for this
machine's processor if no target is given; with several views of a record, a microbatch of one. Runs one
microbatch on one thread, and prints how each layer is clipped, for every kernel its calls, milliseconds (each
call's least of several runs, within the step) and share, and the rate of all products together
(:mod:`benchmarks.product_rate`).
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("TVM_NUM_THREADS", "1")

from rich.console import Console
from rich.table import Table

from myelin.graph import TrainingGraph, differentiate
from myelin.model import Job, load_job
from myelin.privacy import RandomCrop, RandomFlip, format_table, make_plain, make_private
from myelin.schedule import NativeProgram, ScheduledModule, schedule

from .myelin_build import TARGET, job_of
from .product_rate import fill, measure, product_gflops
from .workloads import WORKLOADS


@dataclass
class Row:
    """All calls of one kernel."""

    calls: int = 0
    seconds: float = 0.0


def job_named(name: str, mode: str, microbatch: int | None, views: int = 1) -> Job:
    """The job of a workload or of a file, with its own microbatch or the one given, and views of records."""
    job = load_job(name) if name.endswith(".py") else job_of(WORKLOADS[name], mode)
    changes: dict[str, Any] = {"microbatch": microbatch} if microbatch else {}
    if views > 1:
        changes = {"microbatch": 1, "views": views, "augment": (RandomFlip(), RandomCrop(4))}
    plan: Any = job.plan
    return replace(job, plan=replace(plan, **changes)) if changes else job


def compiled(job: Job, mode: str, target: str) -> tuple[TrainingGraph, ScheduledModule]:
    """The job's graph and its compiled step; prints the table of strategies."""
    graph = differentiate(job)
    if mode == "plain":
        return graph, schedule(make_plain(graph), target)
    private = make_private(graph, job.plan)
    print(format_table(private.table))
    return graph, schedule(private, target)


def main() -> None:
    """See the module."""
    name, *rest = sys.argv[1:]
    mode = rest[0] if rest else "private"
    target = rest[1] if len(rest) > 1 else TARGET
    microbatch = int(rest[2]) if len(rest) > 2 else None
    job = job_named(name, mode, microbatch, int(rest[3]) if len(rest) > 3 else 1)
    graph, scheduled = compiled(job, mode, target)
    program = NativeProgram(scheduled)
    fill(program, job)
    seconds = measure(program)
    rows: dict[tuple[str, str], Row] = defaultdict(Row)
    for call, spent in zip(scheduled.step, seconds, strict=True):
        kernel = scheduled.kernels[call.kernel].removeprefix("__tvm_ffi_")
        shapes = " ".join("×".join(map(str, scheduled.tensors[i].shape)) for i in call.outputs[:2])
        row = rows[(kernel, shapes)]
        row.calls, row.seconds = row.calls + 1, row.seconds + spent
    total = sum(seconds)
    batch = scheduled.tensors[scheduled.roles.features].shape[0]
    table = Table(
        "kernel", "writes", "calls", "ms", "share", title=_title(job.name, mode, target, batch, total)
    )
    for (kernel, shapes), row in sorted(rows.items(), key=lambda item: -item[1].seconds)[:40]:
        share = f"{100 * row.seconds / total:.1f} %"
        table.add_row(kernel, shapes, str(row.calls), f"{row.seconds * 1e3:.3f}", share)
    Console(width=150).print(table)
    print(f"convolutions and products: {product_gflops(graph, program, seconds):.1f} GFLOP/s")


def _title(name: str, mode: str, target: str, batch: int, seconds: float) -> str:
    each = seconds / batch * 1e6
    return f"{name}, {mode}, {target}, {batch} examples: {seconds * 1e3:.2f} ms, {each:.0f} µs an example"


if __name__ == "__main__":
    main()
