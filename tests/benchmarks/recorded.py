"""Small results, as a run would have recorded them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.cases import Case
from benchmarks.results import Run

MACHINE: dict[str, Any] = {
    "processor": "Some Processor (family 1 model 2)",
    "vectors": "AVX2",
    "virtual": False,
    "cores": 2,
    "memory_gib": 8.0,
    "kernel": "6.1",
    "python": "3.12.0",
    "allocator": "libtcmalloc_minimal.so.4, preloaded into every process",
}

TIMES = {
    ("myelin", "plain"): 100.0,
    ("myelin", "private"): 104.0,
    ("myelin", "private_enclave"): 105.0,
    ("pytorch", "plain"): 140.0,
    ("pytorch", "plain_compiled"): 120.0,
    ("opacus", "private_hooks"): 300.0,
    ("opacus", "private_ghost"): 260.0,
}
"""Milliseconds at one thread; two threads take half."""


def recorded(workload: str = "vgg9", scale: float = 1.0) -> Run:
    """A run of one workload; every time is multiplied by ``scale``."""
    run = Run(
        versions={"torch": "2.0"},
        fma_gflops={workload: {"1": 100.0, "2": 200.0}},
        rounds={workload: {"1": 3, "2": 4}},
        machine=dict(MACHINE),
    )
    for threads in (1, 2):
        for (system, mode), milliseconds in TIMES.items():
            middle = scale * milliseconds / threads
            memory = 2000.0 if system == "opacus" else 100.0
            run.add(Case(workload, system, mode, threads), [middle * 0.9, middle, middle * 1.2], memory)
        run.facts.append(
            asdict(Case(workload, "myelin", "private", threads)) | {"product_gflops": 90.0 * threads}
        )
        run.miss(Case(workload, "fastdp", "private", threads), "FastDP is in no package index")
    return run
