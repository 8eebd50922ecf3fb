"""``myelin measure``: the name of an image, or what a TEE's evidence must say of a build."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer
from rich.markup import escape

from myelin.cli.progress import console, emit_json
from myelin.contract import read_bounded, write_whole
from myelin.errors import InputError
from myelin.image.sgx import SIGSTRUCT_BYTES, read_sigstruct
from myelin.measure import (
    MOST_CCEL_BYTES,
    MOST_EIF_BYTES,
    MOST_FIRMWARE_BYTES,
    MOST_KERNEL_BYTES,
    BootHashes,
    Measured,
    PageOrder,
    TdxBoot,
    Vmm,
    cpu_type_signature,
    measure_nitro,
    measure_nitro_parts,
    measure_sgx,
    measure_snp,
    measure_tdx,
    read_ccel,
    reference_toml,
)

__all__ = ["measure_command"]

_MOST_INITRD_BYTES = 2 << 30
_MOST_ACPI_BYTES = 4 << 20
_MIB = 1 << 20


class Tee(enum.Enum):
    """TEEs whose registers are computed."""

    TDX = "tdx"
    SNP = "snp"
    SGX = "sgx"
    NITRO = "nitro"


_TAKES: Mapping[Tee, frozenset[str]] = MappingProxyType(
    {
        Tee.TDX: frozenset({
            "kernel", "initrd", "append", "memory_mib", "acpi_loader", "acpi_rsdp", "acpi_tables",
            "event_log", "page_order",
        }),
        Tee.SNP: frozenset({
            "kernel", "initrd", "append", "processors", "processor_type", "guest_features", "vmm",
            "host_data",
        }),
        Tee.SGX: frozenset({"sigstruct"}),
        Tee.NITRO: frozenset({"kernel", "initrd", "append"}),
    }
)  # fmt: skip
"""Which options belong to which TEE; another is refused rather than ignored."""

_Path = Path | None


def measure_command(
    file: Annotated[
        _Path,
        typer.Argument(
            help="an image; with --tee: firmware (tdx, snp), an image (sgx) or an enclave image file (nitro)"
        ),
    ] = None,
    tee: Annotated[Tee | None, typer.Option(help="compute what this TEE's evidence must say")] = None,
    kernel: Annotated[_Path, typer.Option(help="the kernel that the VM boots directly")] = None,
    initrd: Annotated[list[Path] | None, typer.Option(help="its initrd; nitro: may be repeated")] = None,
    append: Annotated[str | None, typer.Option(help="its command line")] = None,
    memory_mib: Annotated[int | None, typer.Option(min=16, help="tdx: the VM's memory")] = None,
    acpi_loader: Annotated[_Path, typer.Option(help="tdx: QEMU's etc/table-loader")] = None,
    acpi_rsdp: Annotated[_Path, typer.Option(help="tdx: QEMU's etc/acpi/rsdp")] = None,
    acpi_tables: Annotated[_Path, typer.Option(help="tdx: QEMU's etc/acpi/tables")] = None,
    event_log: Annotated[_Path, typer.Option(help="tdx: the CCEL of a boot, to replay and compare")] = None,
    page_order: Annotated[
        PageOrder | None, typer.Option(help="tdx: page (Linux 6.16 and later), section (hosts before)")
    ] = None,
    processors: Annotated[int | None, typer.Option(min=1, help="snp: virtual processors")] = None,
    processor_type: Annotated[
        str | None, typer.Option(help="snp: QEMU's model (EPYC-Genoa), or FAMILY/MODEL/STEPPING")
    ] = None,
    guest_features: Annotated[str | None, typer.Option(help="snp: SEV_FEATURES in hex; default 1")] = None,
    vmm: Annotated[Vmm | None, typer.Option(help="snp: the hypervisor; default qemu")] = None,
    host_data: Annotated[
        str | None, typer.Option(help="snp: HOST_DATA of the report, 32 bytes in hex")
    ] = None,
    sigstruct: Annotated[
        _Path, typer.Option(help="sgx: what `myelin sign-sgx` made, for its signer's name")
    ] = None,
    image: Annotated[_Path, typer.Option(help="with --policy: the Myelin image that the build runs")] = None,
    security_version: Annotated[int, typer.Option(min=0, help="with --policy: the least guest version")] = 0,
    policy: Annotated[
        _Path, typer.Option(help="write the reference value, for `myelin attest --reference` or a policy")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="answer with one JSON object")] = False,
) -> None:
    """Print an image's measurement: the SHA-256 that contracts and evidence carry. With --tee, compute the
    registers that a TEE's evidence must show for a build, offline (docs/measure.md).

    Examples:

      myelin measure hospitals.myelin

      myelin measure --tee snp OVMF.fd --kernel vmlinuz --initrd init.cpio --append "console=ttyS0"
      --processors 4 --processor-type EPYC-Genoa --policy reference.toml

      myelin measure --tee tdx OVMF.fd --kernel vmlinuz --initrd init.cpio --append "" --event-log CCEL

      myelin measure --tee sgx hospitals.myelin --policy reference.toml

      myelin measure --tee nitro hospitals.eif --image hospitals.myelin --policy reference.toml
    """
    given = {name: value for name, value in locals().items() if value not in (None, [])}
    if tee is None:
        _image(given)
        return
    allowed = _TAKES[tee] | {"file", "tee", "image", "security_version", "policy", "json_output"}
    for name in given:
        if name not in allowed:
            raise InputError(f"--{name.replace('_', '-')}: not for {tee.value}; leave it out")
    measured = {Tee.TDX: _tdx, Tee.SNP: _snp, Tee.SGX: _sgx, Tee.NITRO: _nitro}[tee](given)
    image = file if tee is Tee.SGX else image
    if policy is not None:
        text = reference_toml(measured, image=_image_digest(image), minimum_security_version=security_version)
        write_whole(policy, text.encode())
    elif "image" in given or security_version:
        raise InputError("--image, --security-version: expected --policy, which they are written to")
    _show(measured, json_output, policy)


def _image(given: Mapping[str, Any]) -> None:
    """Without a TEE: the measurement of an image."""
    from myelin.image import measure, read_manifest

    other = sorted(set(given) - {"file", "json_output", "security_version"})
    if other or given["security_version"]:
        name = (other or ["security_version"])[0].replace("_", "-")
        raise InputError(f"--{name}: expected --tee tdx, snp, sgx or nitro with it")
    file = _needed(given, "file", "an image")
    read_manifest(file)
    value = measure(file)
    if given["json_output"]:
        emit_json({"image": str(file), "measurement": value})
    else:
        typer.echo(value.hex())


def _image_digest(image: Path | None) -> bytes | None:
    from myelin.image import measure, read_manifest

    if image is None:
        return None
    read_manifest(image)
    return measure(image)


def _tdx(given: Mapping[str, Any]) -> Measured:
    memory = given.get("memory_mib")
    blobs = [given.get(name) for name in ("acpi_loader", "acpi_rsdp", "acpi_tables")]
    if any(blobs) and not all(blobs):
        raise InputError("--acpi-loader, --acpi-rsdp, --acpi-tables: expected all three, or none")
    boot = TdxBoot(
        firmware=read_bounded(_needed(given, "file", "a firmware file"), MOST_FIRMWARE_BYTES),
        kernel=_read(given.get("kernel"), MOST_KERNEL_BYTES),
        initrd=_one_initrd(given),
        command_line=given.get("append"),
        memory_bytes=None if memory is None else memory * _MIB,
        acpi=None if not all(blobs) else _three([read_bounded(b, _MOST_ACPI_BYTES) for b in blobs if b]),
        order=given.get("page_order", PageOrder.PAGE),
    )
    log = _read(given.get("event_log"), MOST_CCEL_BYTES)
    return measure_tdx(boot, None if log is None else read_ccel(log))


def _three(blobs: list[bytes]) -> tuple[bytes, bytes, bytes]:
    loader, rsdp, tables = blobs
    return loader, rsdp, tables


def _snp(given: Mapping[str, Any]) -> Measured:
    boot = None
    if "kernel" in given:
        kernel = read_bounded(given["kernel"], MOST_KERNEL_BYTES)
        boot = BootHashes.of(kernel, _one_initrd(given) or b"", given.get("append", ""))
    elif "initrd" in given or "append" in given:
        raise InputError("--initrd, --append: expected --kernel with them")
    return measure_snp(
        read_bounded(_needed(given, "file", "a firmware file"), MOST_FIRMWARE_BYTES),
        boot,
        processors=_needed(given, "processors", "--processors"),
        signature=cpu_type_signature(_needed(given, "processor_type", "--processor-type")),
        features=int.from_bytes(_hex("--guest-features", given.get("guest_features", "01")), "big"),
        vmm=given.get("vmm", Vmm.QEMU),
        host_data=_hex("--host-data", given["host_data"]) if "host_data" in given else None,
    )


def _sgx(given: Mapping[str, Any]) -> Measured:
    _check_sgx(given)
    structure = _read(given.get("sigstruct"), SIGSTRUCT_BYTES)
    file = _needed(given, "file", "an image")
    return measure_sgx(file, None if structure is None else read_sigstruct(structure))


def _check_sgx(given: Mapping[str, Any]) -> None:
    """What goes into an SGX reference value: the image is the file that was measured, and a security version
    is its signer's word."""
    if "image" in given:
        raise InputError("--image: the image of an SGX enclave is the file itself; leave it out")
    if given["security_version"] and "sigstruct" not in given:
        raise InputError("--security-version: expected --sigstruct with it, since a signer says the version")


def _nitro(given: Mapping[str, Any]) -> Measured:
    if "file" in given:
        if set(given) & _TAKES[Tee.NITRO]:
            raise InputError("--kernel, --initrd, --append: expected them or an image file, not both")
        return measure_nitro(read_bounded(given["file"], MOST_EIF_BYTES))
    kernel = read_bounded(_needed(given, "kernel", "an enclave image file, or --kernel"), MOST_KERNEL_BYTES)
    initrds = [read_bounded(path, _MOST_INITRD_BYTES) for path in _needed(given, "initrd", "--initrd")]
    return measure_nitro_parts(kernel, initrds, _needed(given, "append", "--append"))


def _one_initrd(given: Mapping[str, Any]) -> bytes | None:
    paths = given.get("initrd", [])
    if len(paths) > 1:
        raise InputError("--initrd: expected one, since QEMU hands over one")
    return read_bounded(paths[0], _MOST_INITRD_BYTES) if paths else None


def _needed(given: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in given:
        raise InputError(f"expected {what}, got none; `myelin measure --help` has examples")
    return given[name]


def _read(path: Path | None, most_bytes: int) -> bytes | None:
    return None if path is None else read_bounded(path, most_bytes)


def _hex(option: str, text: str) -> bytes:
    digits = text.removeprefix("0x")
    if not re.fullmatch("[0-9a-fA-F]{1,64}", digits):
        raise InputError(f"{option}: expected bytes in hex, got {text[:80]!r}")
    return bytes.fromhex(digits if len(digits) % 2 == 0 else f"0{digits}")


def _show(measured: Measured, as_json: bool, policy: Path | None) -> None:
    """Registers for programs on standard output, what they are made of for people."""
    if as_json:
        parts = [
            {"register": part.register, "what": part.what, "digest": part.digest, "computed": part.computed}
            for part in measured.parts
        ]
        emit_json({"kind": measured.kind.value, "registers": dict(measured.registers), "parts": parts})
    for name, value in () if as_json else measured.registers:
        typer.echo(f"{name:<12} {value.hex()}")
    for part in measured.parts:
        mark = "computed" if part.computed else "[yellow]assumed[/] "
        digest = "" if part.digest is None else part.digest.hex()[:16]
        console.print(f"{part.register:<12} {mark} {digest:<16} {escape(part.what)}", soft_wrap=True)
    if measured.assumed:
        count = len(measured.assumed)
        console.print(f"{count} events stand on the event log's word alone: is it of a boot that you trust?")
    if policy is not None:
        console.print(f"reference value written to {escape(str(policy))}", soft_wrap=True)
