"""The two programs of the initrd, init and loader, as static files that are the same from any folder."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from myelin.errors import BuildError
from myelin.image.runtime import enclave_source, run_tool

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Programs", "build_programs"]

_TRIPLE = "x86_64-unknown-linux-gnu"
_FLAGS = ("-Ctarget-feature=+crt-static",)
_PURPOSE = "compile init and loader"
_WRAPPER = """\
#!/bin/sh
# Cargo tells crates apart by where they lie, unless that is below their workspace, and the compiler orders
# code by that. This repository's crates are told apart by their names instead: the folder does not count.
compiler=$1
shift
name= before=
for word do
  if [ "$before" = --crate-name ]; then name=$word; fi
  before=$word
done
for word do
  shift
  case $name:$word in myelin_*:metadata=*) word=metadata=$name ;; esac
  set -- "$@" "$word"
done
exec "$compiler" "$@"
"""


@dataclass(frozen=True)
class Programs:
    """The bytes of both, and the compiler that made them."""

    init: bytes
    loader: bytes
    rustc: str


def build_programs(source: Path | None = None) -> Programs:
    """Build both, or take those that are up to date (cargo decides). ``source`` is another checkout.

    Raises:
        BuildError: this is no source tree, a tool is missing, or the build fails.
    """
    root = enclave_source().parent if source is None else source
    target = root / "build" / "machine"
    rustc = run_tool(["rustc", "--version"], _PURPOSE, root / "enclave").strip()
    return Programs(_built(root, target, "init"), _built(root, target, "loader"), rustc)


def _built(root: Path, target: Path, name: str) -> bytes:
    folder = root / name
    if not (folder / "Cargo.lock").is_file():
        raise BuildError(f"{folder}: the sources of {name} are not there; use a checkout of Myelin")
    command: list[str | Path] = ["cargo", "build", "--release", "--locked", "--target", _TRIPLE]
    command += ["--target-dir", target / name]
    environment = _environment(root, target)
    try:
        run_tool([*command, "--offline"], _PURPOSE, folder, environment)
    except BuildError:
        # The crates may not have been fetched yet.
        run_tool(command, _PURPOSE, folder, environment)
    return (target / name / _TRIPLE / "release" / f"myelin-{name}").read_bytes()


def _environment(root: Path, target: Path) -> dict[str, str]:
    """The caller's environment without what would change the programs' bytes, and with what hides paths."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CARGO_PROFILE_", "CARGO_TARGET_"))
        and name not in ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_INCREMENTAL", "RUSTC_BOOTSTRAP")
    }
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    # The last prefix that matches counts, so the longer ones come later.
    hidden = [(home, "/cargo"), (root, "/myelin"), (target, "/build")]
    hidden += [(registry, "/crates") for registry in sorted((home / "registry" / "src").glob("*"))]
    flags = [*_FLAGS, *(f"--remap-path-prefix={path}={name}" for path, name in hidden)]
    own = {"CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags), "CARGO_TERM_COLOR": "never", "LC_ALL": "C"}
    # Measured as the enclave is, so compiled by the compiler that is pinned for it.
    with (root / "enclave" / "rust-toolchain.toml").open("rb") as file:
        own["RUSTUP_TOOLCHAIN"] = tomllib.load(file)["toolchain"]["channel"]
    own["RUSTC_WRAPPER"] = str(_wrapper(target))
    return kept | own


def _wrapper(target: Path) -> Path:
    """The script between cargo and compiler, written where it is not there."""
    target.mkdir(parents=True, exist_ok=True)
    script = target / "rustc-by-name"
    if not script.is_file() or script.read_text("ascii") != _WRAPPER:
        script.write_text(_WRAPPER, "ascii")
        script.chmod(0o755)
    return script
