"""Time a job's compiled private step: ``python benchmarks/schedule_step.py JOB.py [TARGET]``.

Set ``TVM_NUM_THREADS`` for the number of threads. Prints milliseconds of one microbatch (wall and
processor time, the least of several runs), and per kernel microseconds, share and, where the work is known,
GFLOP/s, zeros beyond the border of an image counted as if they were multiplied.
"""

from __future__ import annotations

import math
import re
import sys
import time

import numpy as np

from myelin.graph import differentiate
from myelin.model import load_job
from myelin.privacy import make_private
from myelin.schedule import NativeProgram, schedule

REPEATS = 10


def flops(name: str, shapes: list[tuple[int, ...]]) -> int:
    """Twice the multiply-adds of a convolution, those with the border's zeros included; 0 for others.

    ``shapes`` are those of the kernel's arguments.
    """
    kind = re.sub(r"^k\d+_|\d+$", "", name)
    if kind == "conv2d":
        return 2 * math.prod(shapes[-1][:3]) * math.prod(shapes[1])
    if kind == "conv2d_data_gradient":
        return 2 * math.prod(shapes[0][:3]) * math.prod(shapes[1])
    if kind == "conv2d_weight_gradient":
        return 2 * math.prod(shapes[1][:3]) * math.prod(shapes[2][1:])
    if kind == "conv2d_weight_gradient_sum":
        return 2 * math.prod(shapes[1][:3]) * math.prod(shapes[-1])
    return 0


def least(run, clock) -> float:
    """Seconds of the quickest of several runs."""
    best = math.inf
    for _ in range(REPEATS):
        start = clock()
        run()
        best = min(best, clock() - start)
    return best


def main() -> None:
    job = load_job(sys.argv[1])
    target = sys.argv[2] if len(sys.argv) > 2 else "x86-64-v4"
    graph = make_private(differentiate(job), job.plan)
    start = time.perf_counter(), time.process_time()
    scheduled = schedule(graph, target)
    built = time.perf_counter() - start[0], time.process_time() - start[1]
    program = NativeProgram(scheduled)
    rng = np.random.default_rng(0)
    features = rng.uniform(-1, 1, scheduled.tensors[scheduled.roles.features].shape).astype(np.float32)
    program.run_step(features, np.zeros(graph.microbatch, np.int32), np.ones(graph.microbatch, np.float32))
    calls = program.step_calls()

    def step() -> None:
        for function, arguments in calls:
            function(*arguments)

    print(f"build {built[0]:.1f} s ({built[1]:.1f} s of processor), object {len(scheduled.object)} bytes,")
    print(
        f"{len(scheduled.kernels)} kernels, arena {scheduled.arena_bytes()} bytes, "
        f"{graph.microbatch} examples"
    )
    wall, processor = least(step, time.perf_counter), least(step, time.process_time)
    print(f"step {wall * 1e3:.3f} ms wall, {processor * 1e3:.3f} ms of processor")
    rows = []
    for (function, arguments), call in zip(calls, scheduled.step, strict=True):
        seconds = least(lambda f=function, a=arguments: f(*a), time.perf_counter)
        name = scheduled.kernels[call.kernel].removeprefix("__tvm_ffi_")
        shapes = [scheduled.tensors[i].shape for i in (*call.inputs, *call.outputs)]
        rows.append((seconds, name, flops(name, shapes)))
    total = sum(seconds for seconds, _, _ in rows)
    work = sum(count for _, _, count in rows)
    print(f"sum of kernels {total * 1e3:.3f} ms, {work / total / 1e9:.1f} GFLOP/s over all")
    for seconds, name, count in sorted(rows, reverse=True)[:20]:
        rate = f"{count / seconds / 1e9:6.1f} GFLOP/s" if count else ""
        print(f"{seconds * 1e6:9.1f} us {seconds / total:6.1%} {name:48} {rate}")


if __name__ == "__main__":
    main()
