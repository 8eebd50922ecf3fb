"""Sampler, noise and release leave the same trace for every key: instructions fetched and addresses touched.

Runs the enclave's code under valgrind, so for x86-64-v3 alone (valgrind knows no AVX-512).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ENCLAVE = Path(__file__).parents[2] / "enclave"
SHARED_LIBRARIES_START = 0x400_0000
"""Where valgrind puts the loader and libc, whose own work is not the subject."""


def _trace(program: Path, key: str) -> tuple[str, int]:
    """Digest and length of the program's own trace, libraries left out."""
    command = ["setarch", "-R", "valgrind", "--tool=lackey", "--trace-mem=yes", str(program), key]
    output = subprocess.run(command, check=True, stderr=subprocess.PIPE, env={"PATH": "/usr/bin:/bin"}).stderr
    digest, length, own = hashlib.sha256(), 0, False
    for line in output.splitlines():
        if line.startswith(b"I "):
            own = int(line.split()[1].split(b",")[0], 16) < SHARED_LIBRARIES_START
        elif not line.startswith((b" L ", b" S ", b" M ")):
            continue
        if own:
            digest.update(line)
            length += 1
    return digest.hexdigest(), length


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(shutil.which, ("cargo", "valgrind", "setarch"))), reason="needs cargo and valgrind"
)
def test_no_key_changes_the_trace(tmp_path: Path) -> None:
    build = [
        "cargo",
        "build",
        "--release",
        "--locked",
        "-p",
        "myelin-mechanism",
        "--example",
        "constant_time",
    ]
    flags = (
        "-Ctarget-cpu=x86-64-v3",
        "-Ctarget-feature=+aes",
        "-Cllvm-args=-disable-cgp-select2branch -x86-cmov-converter=0",
    )
    changes = {"CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags), "CARGO_TARGET_DIR": str(tmp_path)}
    environment = {**os.environ, **changes}
    subprocess.run(build, cwd=ENCLAVE, env=environment, check=True, capture_output=True)
    program = tmp_path / "release" / "examples" / "constant_time"
    traces = {_trace(program, key) for key in "1z"}
    assert len(traces) == 1
    assert next(iter(traces))[1] > 100_000
