"""Finds the loader, the program that runs an image in a process that has locked itself down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from myelin.errors import BuildError, InputError

__all__ = ["find_loader"]

_NAME = "myelin-loader"
_PACKAGE = Path(__file__).resolve().parents[1]
_MOST_SHOWN = 4000


def find_loader() -> Path:
    """Return the loader's path: the first there is of these.

    1. what the environment variable ``MYELIN_LOADER`` names;
    2. the one installed beside this package (``myelin/bin``) or among the scripts of this Python;
    3. in a source tree, ``build/loader``, built with cargo when its sources are newer.

    Raises:
        InputError: ``MYELIN_LOADER`` names no program.
        BuildError: there is none and it cannot be built; says what is missing.
    """
    named = os.environ.get("MYELIN_LOADER")
    if named:
        if not os.access(named, os.X_OK) or not Path(named).is_file():
            raise InputError(f"MYELIN_LOADER is {named!r}, which is not a program; unset it or correct it")
        return Path(named)
    for folder in (_PACKAGE / "bin", Path(sysconfig.get_path("scripts"))):
        if os.access(folder / _NAME, os.X_OK):
            return folder / _NAME
    root = _PACKAGE.parents[1]
    if (root / "loader" / "Cargo.toml").is_file():
        return _built(root)
    raise BuildError(
        f"no {_NAME} beside the package or among its scripts, and this is not a source tree to build it in; "
        "install Myelin with its loader, or set MYELIN_LOADER to one"
    )


def _sources(root: Path) -> Iterator[Path]:
    for folder in (root / "loader", root / "enclave" / "abi"):
        yield from (folder / name for name in ("Cargo.toml", "Cargo.lock") if (folder / name).is_file())
        yield from (folder / "src").rglob("*.rs")
    yield root / "src" / "myelin" / "image" / "sgx" / "trampoline.bin"


def _built(root: Path) -> Path:
    """Build the loader in a source tree, unless the last build is newer than every source."""
    target = root / "build" / "loader"
    program = target / "release" / _NAME
    if program.is_file() and program.stat().st_mtime > max(path.stat().st_mtime for path in _sources(root)):
        return program
    cargo = shutil.which("cargo")
    if cargo is None:
        raise BuildError(
            f"{_NAME} is not built and there is no cargo to build it with; install a Rust toolchain (1.88 or "
            "newer), or set MYELIN_LOADER to a built one"
        )
    command = [cargo, "build", "--quiet", "--release", "--locked", "--target-dir", str(target)]
    # Run from its own folder, so that no other workspace's cargo configuration applies.
    folder = root / "loader"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0 or not program.is_file():
        raise BuildError(f"{_NAME} does not build ({' '.join(command)}):\n{done.stderr[-_MOST_SHOWN:]}")
    # Cargo leaves a program that is up to date untouched, whatever the sources' dates say.
    program.touch()
    return program
