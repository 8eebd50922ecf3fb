"""One private step on each backend: ``python -m benchmarks.backend_steps [WORKLOAD …] [--threads N]``.

The same image, contract, broker and data on every backend that this machine has, in turns, so that what else
the machine does meets all alike. Prints each backend's median and spread, and its ratio to the process.
Compiles the workload first, as ``make bench`` does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from myelin.host import survey_backends
from myelin.host.backends import LOADER_BACKENDS

from .enclave_steps import open_enclave
from .myelin_steps import built
from .workloads import WORKLOADS

_WARM_UP = 3


def measure(folder: Path, workload: str, threads: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each step by backend, one step of each in turn."""
    there = {backend.name for backend in survey_backends() if backend.available}
    steps = {
        name: open_enclave(folder, WORKLOADS[workload], threads, name)[0]
        for name in LOADER_BACKENDS
        if name in there
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(_WARM_UP + rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn >= _WARM_UP:
                times[name].append(time.perf_counter() - started)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backend_steps", description=__doc__)
    parser.add_argument("workloads", nargs="*", default=["mnist_cnn", "mlp"], choices=list(WORKLOADS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    words = parser.parse_args()
    for backend in survey_backends():
        if not backend.available and backend.name in LOADER_BACKENDS:
            print(backend)
    for workload in words.workloads:
        folder = built(WORKLOADS[workload], "private_enclave")
        times = measure(folder, workload, words.threads, words.rounds)
        base = statistics.median(times["process"])
        for name, values in times.items():
            low, _, high = statistics.quantiles(values, n=4)
            median = statistics.median(values)
            print(
                f"{workload:<12} {words.threads} thread(s)  {name:<8} {1e3 * median:8.3f} ms "
                f"(quartiles {1e3 * low:.3f} to {1e3 * high:.3f}), {median / base:.4f} of the process"
            )


if __name__ == "__main__":
    main()
