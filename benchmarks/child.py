"""One measured process: ``python -m benchmarks.child SYSTEM WORKLOAD MODE THREADS``; see protocol.py."""

from __future__ import annotations

import os
import sys

from .protocol import pin, serve
from .workloads import WORKLOADS


def main() -> None:
    system, workload, mode, threads = sys.argv[1:]
    if cores := os.environ.get("BENCH_CORES"):
        # Before any library counts the cores that it may use.
        pin(int(core) for core in cores.split(","))
    # The protocol keeps the real standard output; whatever prints goes where errors go.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(system, WORKLOADS[workload], mode, int(threads), replies)


if __name__ == "__main__":
    main()
