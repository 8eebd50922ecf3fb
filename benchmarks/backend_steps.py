"""One private step on each backend: ``python -m benchmarks.backend_steps [WORKLOAD …] [--threads N]``.

The same image, contract, broker and data on every backend that this machine has, in turns, so that what else
the machine does meets all alike. Prints each backend's median time of a step, and the processor time that it
took, which other work on the machine changes less, with their ratios to the process backend's. Compiles the
workload first, as ``make bench`` does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from myelin.host import survey_backends
from myelin.host.backends import LOADER_BACKENDS

from .enclave_steps import open_enclave
from .myelin_steps import built
from .workloads import WORKLOADS

_WARM_UP = 3


def _processor_s(supervisor: int) -> Callable[[], float]:
    """A clock of what the process that holds the image has computed, all its threads together."""
    (child,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    threads = Path(f"/proc/{child}/task")
    return lambda: 1e-9 * sum(int((t / "schedstat").read_text().split()[0]) for t in threads.iterdir())


def measure(folder: Path, workload: str, threads: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds, and seconds of processor, of each step by backend, one step of each in turn."""
    there = {backend.name for backend in survey_backends() if backend.available}
    opened = {}
    for name in LOADER_BACKENDS:
        if name in there:
            step, pid = open_enclave(folder, WORKLOADS[workload], threads, name)
            opened[name] = step, _processor_s(pid)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in opened}
    for turn in range(_WARM_UP + rounds):
        for name, (step, processor_s) in opened.items():
            started, used = time.perf_counter(), processor_s()
            step()
            if turn >= _WARM_UP:
                times[name].append((time.perf_counter() - started, processor_s() - used))
    return times


def _medians(values: list[tuple[float, float]]) -> tuple[float, float]:
    wall, processor = zip(*values, strict=True)
    return statistics.median(wall), statistics.median(processor)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backend_steps", description=__doc__)
    parser.add_argument("workloads", nargs="*", default=["mnist_cnn", "mlp"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    words = parser.parse_args()
    for backend in survey_backends():
        if not backend.available and backend.name in LOADER_BACKENDS:
            print(backend)
    for workload in words.workloads:
        folder = built(WORKLOADS[workload], "private_enclave")
        times = measure(folder, workload, words.threads, words.rounds)
        base = _medians(times["process"])
        for name, values in times.items():
            wall, processor = _medians(values)
            print(
                f"{workload:<12} {words.threads} thread(s)  {name:<8} {1e3 * wall:8.3f} ms, "
                f"{wall / base[0]:.3f} of the process; processor {1e3 * processor:8.3f} ms, "
                f"{processor / base[1]:.3f}"
            )


if __name__ == "__main__":
    main()
