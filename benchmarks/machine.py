"""The machine in words, and what its arithmetic units can do at most."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from .cases import CACHE, ROOT

SOURCE = ROOT / "benchmarks" / "fma_rate.c"


def cpu_facts(cpuinfo: str) -> dict[str, Any]:
    """Model, family and widest vectors from the text of /proc/cpuinfo."""
    facts = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    flags = set(facts.get("flags", "").split())
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "SSE"
    identity = f"family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
    return {
        "processor": f"{facts.get('model name', 'unknown')} ({identity})",
        "vectors": vectors,
        "virtual": "hypervisor" in flags,
    }


def cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def describe(allocator: str) -> dict[str, Any]:
    """All that a reader needs of the machine; no name of it."""
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return {
        **cpu_facts(Path("/proc/cpuinfo").read_text()),
        "cores": len(cores()),
        "memory_gib": round(memory, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "allocator": allocator,
    }


def fma_program() -> Path:
    """The register-only loop, compiled for this processor when it is not yet there."""
    program = CACHE / "fma_rate"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["cc", "-O2", "-march=native", "-ffp-contract=fast", "-pthread", SOURCE, "-o", program],
            check=True,
        )
    return program


def fma_gflops(threads: int, use: list[int], seconds: float = 0.2) -> float:
    """GFLOP/s of the register-only loop on so many threads."""
    words = [str(threads), str(seconds), *map(str, use[:threads])]
    answer = subprocess.run([fma_program(), *words], check=True, capture_output=True, text=True)
    return float(answer.stdout)
