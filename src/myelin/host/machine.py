"""What this machine's processor can run."""

from __future__ import annotations

from pathlib import Path

__all__ = ["best_target"]

_WIDE = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "vaes"}


def best_target(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The highest of an image's targets that this machine has: ``x86-64-v4``, ``-v3-vaes`` or ``-v3``."""
    flags = set(cpuinfo.read_text().partition("flags")[2].partition("\n")[0].split())
    if flags >= _WIDE:
        return "x86-64-v4"
    return "x86-64-v3-vaes" if "vaes" in flags else "x86-64-v3"
