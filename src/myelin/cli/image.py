"""``myelin image``: an image as the files that a confidential virtual machine boots from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from myelin.cli.progress import console, emit_json, plain
from myelin.errors import InputError

__all__ = ["image_command"]


def image_command(
    image: Annotated[Path, typer.Argument(help="an image, built with `--attester platform`")],
    tee: Annotated[str, typer.Option(help="what protects the machine: tdx or snp")],
    kernel: Annotated[Path, typer.Option(help="a Debian linux-image package, or a vmlinuz")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the folder to write")],
    modules: Annotated[Path | None, typer.Option(help="folder of the vmlinuz's modules")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="end with one JSON object")] = False,
) -> None:
    """Make a bootable machine of an image: kernel, initrd, command line, and a manifest of all in them.

    The initrd holds the image, the loader, a first process that starts it and has the hardware vouch for it,
    and the kernel's modules for that. The same inputs and compiler give the same bytes, in any folder.

    Example:

      myelin image hospitals.myelin --tee tdx --kernel linux-image-6.12.deb -o hospitals.tdx
    """
    from myelin.boot import BootKind, make_boot_files

    kinds = [kind.value for kind in BootKind]
    if tee not in kinds:
        raise InputError(f"--tee is {tee!r}; expected {' or '.join(kinds)}")
    boot = make_boot_files(image, BootKind(tee), kernel, out, modules=modules)
    files = boot.manifest["files"]
    for name, facts in files.items():
        place = plain(str(out / facts["file"]))
        console.print(f"{name:<13} {place} ({facts['bytes']:,} bytes) {facts['sha256']}", soft_wrap=True)
    console.print(f"measurement   {boot.measurement.hex()}")
    if json_output:
        emit_json({"folder": str(out), "measurement": boot.measurement, "tee": tee, "files": files})
