"""Programs under valgrind's memcheck, whose reports are the branches and addresses that depend on secrets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from benchmarks.myelin_build import link

from myelin.graph import differentiate
from myelin.image.hiding import hide_tokens
from myelin.image.plan import encode_plan, pack_parameters
from myelin.model import Job
from myelin.privacy import make_private
from myelin.schedule import schedule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TARGET = "x86-64-v3"
"""Valgrind knows neither AVX-512 nor AES on wide registers, so it cannot run the other targets' code."""
_FOUND = 99
_FLAGS = (
    "-Ctarget-cpu=x86-64-v3",
    *tomllib.loads((ROOT / "enclave" / ".cargo" / "config.toml").read_text())["build"]["rustflags"],
)
"""As an image's, for the lower target."""
_TOOLCHAIN = re.findall(r'channel = "(.+)"', (ROOT / "enclave" / "rust-toolchain.toml").read_text())[0]

HEADER = Path("/usr/include/valgrind/memcheck.h")
MISSING = [tool for tool in ("cargo", "cc", "valgrind") if shutil.which(tool) is None]
MISSING += [] if HEADER.is_file() else ["valgrind/memcheck.h"]
needs_valgrind = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@dataclass(frozen=True)
class Watched:
    """What memcheck saw of a run.

    Attributes:
        reports: one for each place in the code that depends on a secret, as valgrind prints them.
        output: what the program said.
    """

    reports: tuple[str, ...]
    output: str

    @property
    def places(self) -> set[str]:
        """The innermost function of each report."""
        return {match[1] for report in self.reports if (match := re.search(r"at 0x\w+: (\S+)", report))}


def watch(*command: str | Path) -> Watched:
    """Run a program to its end under memcheck."""
    done = subprocess.run(
        [
            "valgrind",
            "--quiet",
            "--tool=memcheck",
            "--leak-check=no",
            f"--error-exitcode={_FOUND}",
            "--expensive-definedness-checks=yes",
            "--num-callers=20",
            f"--suppressions={HERE / 'public.supp'}",
            *map(str, command),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        env={"PATH": os.environ["PATH"]},
    )
    lines = [re.sub(r"^==\d+== ?", "", line) for line in done.stderr.splitlines()]
    reports = tuple(
        report.strip()
        for report in re.split(r"\n(?=\S)|\n\n", "\n".join(lines))
        if re.match(r"Conditional jump|Use of uninit|Syscall param|Invalid|Jump to", report.strip())
    )
    assert done.returncode in (0, _FOUND), f"{command[0]} ended with {done.returncode}:\n{done.stderr}"
    assert (done.returncode == _FOUND) == bool(reports), f"reports that are not understood:\n{done.stderr}"
    return Watched(reports, done.stdout)


def _cargo(folder: Path, *words: str) -> Path:
    """Build with line numbers, as an image is built otherwise; the folder of what was made."""
    target = ROOT / "build" / "sidechannel"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("CARGO_PROFILE", "RUSTFLAGS"))},
        "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(_FLAGS),
        "CARGO_TARGET_DIR": str(target),
        "RUSTUP_TOOLCHAIN": _TOOLCHAIN,
        "CARGO_PROFILE_RELEASE_DEBUG": "line-tables-only",
        "CARGO_PROFILE_RELEASE_STRIP": "none",
    }
    command = ["cargo", "build", "--release", "--quiet", "--locked", "--features", "memcheck", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target / "release"


@lru_cache(maxsize=1)
def engine() -> Path:
    """The image's engine as a library, which marks its keys as secret."""
    return _cargo(ROOT / "benchmarks" / "native") / "libmyelin_native.so"


@lru_cache(maxsize=1)
def units() -> Path:
    """Parts of the enclave, one by one: enclave/engine/examples/secrets.rs."""
    return _cargo(ROOT / "enclave", "-p", "myelin-engine", "--example", "secrets") / "examples" / "secrets"


@lru_cache(maxsize=1)
def driver() -> Path:
    """The program that runs steps, compiled."""
    program = ROOT / "build" / "sidechannel" / "steps"
    program.parent.mkdir(parents=True, exist_ok=True)
    made = program.with_suffix(f".{os.getpid()}")
    subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-o", made, HERE / "steps.c", "-ldl"], check=True)
    return made.replace(program)


def records_of(job: Job, count: int) -> bytes:
    """Records that fit the job's schema, whose values do not matter."""
    schema: Any = job.schema
    random = np.random.default_rng(5)
    lower, upper = np.asarray(schema.lower_bounds), np.asarray(schema.upper_bounds)
    values = random.uniform(lower, upper, (count, schema.feature_count))
    if schema.dtype == "uint8" or schema.normalize == "none":
        values = np.floor(values)
    features = values.astype(np.uint8 if schema.dtype == "uint8" else "<f4")
    if schema.class_count:
        labels = random.integers(0, schema.class_count, (count, 1)).astype("<i4")
    else:
        labels = random.uniform(schema.label.lower, schema.label.upper, (count, 1)).astype("<f4")
    return np.hstack([features.view(np.uint8).reshape(count, -1), labels.view(np.uint8)]).tobytes()


def compile_job(job: Job, folder: Path) -> tuple[str, ...]:
    """Write what the driver opens into ``folder``: plan, parameters, kernels, records; the kernels' names."""
    private = hide_tokens(job, make_private(differentiate(job), job.plan))
    scheduled = schedule(private, TARGET)
    (folder / "plan.cbor").write_bytes(encode_plan(scheduled, private, job))
    (folder / "params.bin").write_bytes(
        pack_parameters((*scheduled.parameter_values, *scheduled.frozen_values))
    )
    link(scheduled.object, scheduled.kernels, folder / "kernels.so")
    (folder / "records.bin").write_bytes(records_of(job, job.plan.dataset_size))
    return scheduled.kernels


def set_oblivious(folder: Path, oblivious: bool) -> None:
    """Change how the plan in ``folder`` has records gathered."""
    plan = cbor2.loads((folder / "plan.cbor").read_bytes())
    plan["data"]["oblivious"] = int(oblivious)
    (folder / "plan.cbor").write_bytes(cbor2.dumps(plan))


def run_steps(job: Job, folder: Path, steps: int = 2) -> Watched:
    """Steps of what :func:`compile_job` wrote. The second one has secret parameters too."""
    kernels = folder / "kernels.so"
    return watch(driver(), engine(), kernels, folder, str(job.plan.dataset_size), str(steps))
