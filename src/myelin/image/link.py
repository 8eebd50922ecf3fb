"""Linking: runtime, kernels and the generated object become one static file."""

from __future__ import annotations

import shutil
from pathlib import Path

from .runtime import enclave_source, run_tool

__all__ = ["link_image"]

_LD_FLAGS = (
    "-static",
    "-nostdlib",
    "--no-undefined",
    "--gc-sections",
    "--build-id=none",
    "--hash-style=gnu",
    "-z",
    "noexecstack",
    "-z",
    "max-page-size=4096",
    "-z",
    "norelro",
    "--orphan-handling=error",
)


def link_image(folder: Path, kernels: Path, runtime: Path) -> Path:
    """Assemble a folder's ``generated.s``, link it with kernels and runtime, strip; answers ``image.elf``.

    Paths on the command line are relative to the folder, so none of this machine's can get into the file.

    Raises:
        BuildError: a tool is missing, a symbol undefined, or the image does not end below 2 GiB.
    """
    purpose = "link the image"
    shutil.copyfile(runtime, folder / "runtime.a")
    run_tool(["cc", "-c", "generated.s", "-o", "generated.o"], "assemble the image's tables", folder)
    script = enclave_source() / "image" / "image.ld"
    inputs = ["generated.o", kernels.name, "runtime.a"]
    run_tool(["ld", "-T", script, *_LD_FLAGS, "-o", "image.elf", *inputs], purpose, folder)
    run_tool(["strip", "--strip-all", "image.elf"], purpose, folder)
    return folder / "image.elf"
