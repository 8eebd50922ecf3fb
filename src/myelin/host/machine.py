"""What this machine's processor can run."""

from __future__ import annotations

from pathlib import Path

__all__ = ["best_target"]

_WIDE = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "vaes"}


def best_target(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The highest of an image's targets that this machine has: ``x86-64-v4`` or ``x86-64-v3``."""
    flags = cpuinfo.read_text().partition("flags")[2].partition("\n")[0].split()
    return "x86-64-v4" if set(flags) >= _WIDE else "x86-64-v3"
