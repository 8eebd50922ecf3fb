"""The loader with a stand-in for the SGX driver and processor, which no program that is installed has."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def stand_in_loader() -> Path:
    """Build it, unless it is up to date, and answer where it is."""
    target = ROOT / "build" / "loader-stand-in"
    command = ["cargo", "build", "--quiet", "--release", "--locked", "--features", "sgx-stand-in"]
    subprocess.run([*command, "--target-dir", target], cwd=ROOT / "loader", check=True)
    return target / "release" / "myelin-loader"
