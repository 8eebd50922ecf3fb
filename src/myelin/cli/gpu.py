"""``myelin gpu-reference``: NVIDIA's signed manifests of a driver and a VBIOS, made a reference value."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from myelin.attest import Measurement, check_tree
from myelin.attest.rim import RimFile, check_rim, gpu_reference
from myelin.attest.xml_signature import MOST_XML_BYTES
from myelin.cli import trust
from myelin.cli.progress import console
from myelin.contract import read_bounded, write_whole
from myelin.errors import InputError, ProtocolError

__all__ = ["gpu_reference_command"]


def gpu_reference_command(
    rims: Annotated[list[Path], typer.Argument(help="the RIM files of the driver and of the VBIOS")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the file of reference values to write")],
    policy: Annotated[str, typer.Option(help=trust.POLICY_HELP)] = "production",
    endorsements: Annotated[list[Path] | None, typer.Option(help=trust.ENDORSEMENTS_HELP)] = None,
    at: Annotated[str | None, typer.Option(help=trust.AT_HELP)] = None,
) -> None:
    """Check NVIDIA's RIM files and write what they measure to; exit code 0 written, 1 not trusted.

    Whoever runs this decides that this driver and this VBIOS are good: NVIDIA signs old ones, too.

    Example:

      myelin gpu-reference nvidia/driver.swidtag nvidia/vbios.swidtag --endorsements nvidia -o gpu.toml
    """
    if len(rims) != 2:
        raise InputError(f"expected two RIM files, a driver's and a VBIOS's, got {len(rims)}")
    accepted, given, now_s = trust.policy(policy), trust.endorsements(endorsements), trust.time_of(at)
    files = []
    for path in rims:
        try:
            files.append(RimFile.read(read_bounded(path, MOST_XML_BYTES)))
        except ProtocolError as error:
            raise InputError(f"{path}: {error.detail}") from None
    checks = [check_rim(rim, given, accepted, now_s) for rim in files]
    failed = [failure for check in checks for failure in check.failures()]
    for failure in failed:
        console.print(check_tree(failure))
    if failed:
        console.print(f"[bold red]NOT TRUSTED[/] failed: {escape(', '.join(one.name for one in failed))}")
        raise typer.Exit(1)
    try:
        reference = gpu_reference(files[0], files[1])
    except ProtocolError as error:
        raise InputError(error.detail) from None
    write_whole(out, _toml(reference).encode())
    versions = " and ".join(("VBIOS " if rim.is_vbios else "driver ") + rim.version for rim in files)
    console.print(
        f"[bold green]TRUSTED[/] {escape(files[0].product)}, {escape(versions)}, in {escape(str(out))}"
    )


def _toml(reference: Measurement) -> str:
    """One table of measurements; a name with alternatives has a list."""
    rows: dict[str, list[str]] = {}
    for name, value in reference.registers:
        rows.setdefault(name, []).append(f'"{value.hex()}"')
    lines = [f"{name} = {v[0] if len(v) == 1 else '[' + ', '.join(v) + ']'}" for name, v in rows.items()]
    head = ["version = 1", "", "[[measurements]]", f'kind = "{reference.kind.value}"']
    return "\n".join([*head, "[measurements.registers]", *lines, ""])
