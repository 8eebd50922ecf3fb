"""The enclave's Rust runtime, built to a static library that every image is linked with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import BuildError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["TARGETS", "TARGET_FLAGS", "Runtime", "build_runtime", "enclave_source", "run_tool"]

#: What an image can be built for, and the flags for it: processor levels, all with AES, which the enclave's
#: own flags name; the second and third with AES on wide registers, which all processors with AVX-512 have but
#: the first generation, and many without it.
TARGET_FLAGS = {
    "x86-64-v3": ["-Ctarget-cpu=x86-64-v3"],
    "x86-64-v3-vaes": ["-Ctarget-cpu=x86-64-v3", "-Ctarget-feature=+vaes"],
    "x86-64-v4": ["-Ctarget-cpu=x86-64-v4", "-Ctarget-feature=+vaes"],
}
TARGETS = tuple(TARGET_FLAGS)

_TRIPLE = "x86_64-unknown-linux-gnu"
_MESSAGE_LINES = 30


@dataclass(frozen=True)
class Runtime:
    """The static library of one target, and the compiler that made it."""

    library: Path
    rustc: str


def enclave_source() -> Path:
    """The folder of the enclave's Rust sources; BuildError where this installation has none."""
    source = Path(__file__).resolve().parents[3] / "enclave"
    if not (source / "Cargo.lock").is_file():
        raise BuildError(
            f"{source}: the enclave's sources are not there. Images are built from a checkout of Myelin's "
            "repository: clone it and install it with `pip install -e .[build]`"
        )
    return source


def run_tool(
    command: Sequence[str | Path], purpose: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    """Run a build tool and answer its output; BuildError names the tool, what for, and what it said."""
    tool = str(command[0])
    found = shutil.which(tool)
    if found is None:
        raise BuildError(
            f"{tool} is not on the PATH; it is needed to {purpose}. {_ADVICE.get(tool, '')}".rstrip()
        )
    done = subprocess.run(  # noqa: S603 (fixed commands, no shell)
        [found, *map(str, command[1:])], cwd=cwd, env=env, capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[-_MESSAGE_LINES:])
        raise BuildError(f"{tool} failed to {purpose} (exit code {done.returncode}):\n{said}")
    return done.stdout


_ADVICE = {
    "cargo": "Install Rust (rustup, or the distribution's package).",
    "rustc": "Install Rust (rustup, or the distribution's package).",
    "cc": "Install a C compiler (gcc or clang).",
    "ld": "Install GNU binutils.",
    "strip": "Install GNU binutils.",
}


@lru_cache(maxsize=8)
def build_runtime(target: str, simulated: bool = True, source: Path | None = None) -> Runtime:
    """Build the runtime for a target, or answer the one that is up to date (cargo decides).

    Args:
        target: one of :data:`TARGETS`.
        simulated: with the simulated attester. Without, the crate is not in the library.
        source: another copy of the enclave's sources, for checks of reproducibility.

    Raises:
        BuildError: unknown target, a tool is missing, or the build fails.
    """
    if target not in TARGETS:
        raise BuildError(f"target {target!r}: expected one of {', '.join(TARGETS)}")
    source = source or enclave_source()
    rustc = run_tool(["rustc", "--version"], "compile the enclave's runtime", source).strip()
    folder = source / "target" / "images" / (target if simulated else f"{target}-bare")
    command: list[str | Path] = ["cargo", "build", "--release", "--locked", "--package", "myelin-image"]
    command += ["--target", _TRIPLE, "--target-dir", folder]
    if not simulated:
        command.append("--no-default-features")
    environment = _environment(source, folder, target)
    purpose = "compile the enclave's runtime"
    try:
        run_tool([*command, "--offline"], purpose, source, environment)
    except BuildError:
        # The crates may not have been fetched yet.
        run_tool(command, purpose, source, environment)
    return Runtime(folder / _TRIPLE / "release" / "libmyelin_image.a", rustc)


def rust_flags(source: Path, folder: Path, target: str) -> list[str]:
    """All compiler flags: the list in ``enclave/.cargo/config.toml``, the target's, and what hides paths."""
    with (source / ".cargo" / "config.toml").open("rb") as file:
        flags = list(tomllib.load(file)["build"]["rustflags"])
    flags += ["--cfg", "myelin_image", *TARGET_FLAGS[target], "-Crelocation-model=static"]
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    # The last prefix that matches counts, so the longer ones come later.
    hidden = [(home, "/cargo"), (source, "/enclave"), (folder, "/build")]
    hidden += [(registry, "/crates") for registry in sorted((home / "registry" / "src").glob("*"))]
    return flags + [f"--remap-path-prefix={path}={name}" for path, name in hidden]


def _environment(source: Path, folder: Path, target: str) -> dict[str, str]:
    """The caller's environment without what would change the library's bytes."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CARGO_PROFILE_", "CARGO_BUILD_", "CARGO_TARGET_"))
        and name not in ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_INCREMENTAL", "RUSTC_BOOTSTRAP")
    }
    flags = "\x1f".join(rust_flags(source, folder, target))
    return kept | {"CARGO_ENCODED_RUSTFLAGS": flags, "CARGO_TERM_COLOR": "never", "LC_ALL": "C"}


def cargo_metadata(source: Path, simulated: bool = True) -> dict[str, object]:
    """What cargo knows of the packages that the image's library is made of."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", _TRIPLE]
    if not simulated:
        command.append("--no-default-features")
    purpose = "list the enclave's crates"
    try:
        text = run_tool([*command, "--offline"], purpose, source)
    except BuildError:
        text = run_tool(command, purpose, source)
    metadata: dict[str, object] = json.loads(text)
    return metadata
