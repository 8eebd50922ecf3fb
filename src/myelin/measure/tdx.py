"""MRTD and RTMR0 to RTMR3 of a trust domain that QEMU starts with a kernel, from its files.

MRTD is firmware's alone. The others are what firmware and kernel measure on their way up, event after event;
which events those are differs between versions of edk2. Here it is done for those before edk2-stable202505
(from 202211) and Linux 6.9 or later; for others, give the log of a boot: what it says is replayed, and
compared with the files.

What else counts: RTMR0 has the VM's memory size (in the hand-off block), and through QEMU's ACPI tables its
processors, devices and machine options. RTMR1 has, below 2.75 GiB of memory, the memory size, since the
initrd's place is in the kernel's header. Nothing extends RTMR3 before user space does.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from myelin.attest import RealEvidence
from myelin.errors import CheckError, InputError
from myelin.measure.blob import guid
from myelin.measure.ccel import CcelEvent, extended, replayed
from myelin.measure.kernel import authenticode, patched_kernel
from myelin.measure.measured import Measured, Part
from myelin.measure.tdvf import PageOrder, Tdvf

__all__ = ["Step", "TdxBoot", "initrd_steps", "kernel_steps", "measure_tdx", "platform_steps"]

_GLOBAL = guid("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_SECURITY = guid("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_SECURE_BOOT = (
    (_GLOBAL, "SecureBoot"),
    (_GLOBAL, "PK"),
    (_GLOBAL, "KEK"),
    (_SECURITY, "db"),
    (_SECURITY, "dbx"),
)
_FIRMWARE_VOLUME = guid("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
_SETUP_PROGRAM = guid("462caa21-7614-4503-836e-8ab6f4662331")
_CALLING = b"Calling EFI Application from Boot Option"
_LEAVING = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")
_MOST_LINE_CHARACTERS = 2048
_VOLUME_SIGNATURE_AT, _VOLUME_LENGTH_AT, _STORE_BYTES = 0x28, 0x30, 28


@dataclass(frozen=True)
class Step:
    """One event: the RTMR that it extends, what it is, and its digest (SHA-384)."""

    rtmr: int
    what: str
    digest: bytes


@dataclass(frozen=True)
class TdxBoot:
    """What is known of a boot; ``None`` for what is not.

    Args:
        firmware: the file that QEMU's ``-bios`` names.
        kernel: the file of ``-kernel``.
        initrd: the file of ``-initrd``.
        command_line: ``-append``.
        memory_bytes: ``-m``.
        acpi: what QEMU's ``fw_cfg`` has as ``etc/table-loader``, ``etc/acpi/rsdp`` and ``etc/acpi/tables``.
        order: how the host adds pages.
    """

    firmware: bytes
    kernel: bytes | None = None
    initrd: bytes | None = None
    command_line: str | None = None
    memory_bytes: int | None = None
    acpi: tuple[bytes, bytes, bytes] | None = None
    order: PageOrder = PageOrder.PAGE


def measure_tdx(boot: TdxBoot, log: tuple[CcelEvent, ...] | None = None) -> Measured:
    """Compute the registers of a boot.

    With a ``log``, RTMRs are replayed from it. Each of its events that is what the given files make is
    computed; the others are assumed (:attr:`~myelin.measure.measured.Measured.assumed`).

    Raises:
        InputError: a file that cannot be read, or without a log, something that a register depends on and
            that is not given.
        CheckError: a file that was given is not in the log.
    """
    tdvf = Tdvf.read(boot.firmware)
    mrtd = tdvf.mrtd(boot.order)
    first = Part("mrtd", "firmware, as its metadata say", hashlib.sha384(boot.firmware).digest())
    if log is None:
        steps = _predicted(boot, tdvf)
        parts = [Part(f"rtmr{step.rtmr}", step.what, step.digest) for step in steps]
        values: Sequence[bytes] = [
            extended(step.digest for step in steps if step.rtmr == rtmr) for rtmr in range(4)
        ]
    else:
        parts = _explained(log, boot, tdvf)
        values = replayed(log)
    registers = (("mrtd", mrtd), *((f"rtmr{rtmr}", value) for rtmr, value in enumerate(values)))
    return Measured(RealEvidence.TDX, registers, (first, *parts))


def platform_steps(hand_off: bytes, variables: bytes, acpi: Sequence[bytes]) -> list[Step]:
    """RTMR0, in order, of digests: the hand-off block, the volume of variables, and the three of ACPI.

    No secure boot: the volume of variables is empty (:func:`measure_tdx` sees to it).
    """
    load_option = _load_option()
    return [
        Step(0, "hand-off block (memory size)", hand_off),
        Step(0, "volume of UEFI variables", variables),
        *(Step(0, f"variable {name}, absent", _absent(vendor, name)) for vendor, name in _SECURE_BOOT),
        Step(0, "separator", _sha384(bytes(4))),
        *(
            Step(0, f"ACPI: {name}", digest)
            for name, digest in zip(
                ("etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables"), acpi, strict=True
            )
        ),
        Step(0, "variable BootOrder", _sha384(bytes(2))),
        Step(0, "variable Boot0000 (setup program)", _sha384(load_option)),
    ]


def kernel_steps(kernel: bytes) -> list[Step]:
    """RTMR1, in order, for the Authenticode digest of a kernel."""
    return [
        Step(1, "kernel, as QEMU hands it over", kernel),
        Step(1, _CALLING.decode(), _sha384(_CALLING)),
        Step(1, "separator", _sha384(bytes(4))),
        *(Step(1, action.decode(), _sha384(action)) for action in _LEAVING),
    ]


def initrd_steps(command_line: bytes, initrd: bytes) -> list[Step]:
    """RTMR2, in order, for the digests of the command line and of the initrd."""
    return [
        Step(2, "command line, as firmware hands it over", command_line),
        Step(2, "initrd", initrd),
    ]


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def _absent(vendor: bytes, name: str) -> bytes:
    """Digest of UEFI_VARIABLE_DATA for a variable that is not there."""
    return _sha384(vendor + struct.pack("<QQ", len(name), 0) + name.encode("utf-16-le"))


def _load_option() -> bytes:
    """EFI_LOAD_OPTION of OVMF's own setup program: the one entry that it makes for itself."""
    path = struct.pack("<BBH", 4, 7, 20) + _FIRMWARE_VOLUME + struct.pack("<BBH", 4, 6, 20) + _SETUP_PROGRAM
    path += struct.pack("<BBH", 0x7F, 0xFF, 4)
    active_hidden_application = 0x109
    name = "UiApp\0".encode("utf-16-le")
    return struct.pack("<IH", active_hidden_application, len(path)) + name + path


def _load_options(command_line: str, *, initrd_first: bool) -> bytes:
    """What firmware makes of a command line for the kernel's EFI stub, which measures it."""
    if not command_line.isascii() or not command_line.isprintable():
        raise InputError("command line: expected printable ASCII")
    if not 1 <= len(command_line) <= _MOST_LINE_CHARACTERS or "vga=" in command_line:
        wanted = f"1 to {_MOST_LINE_CHARACTERS} characters without vga=, which QEMU acts upon"
        raise InputError(f"command line: expected {wanted}, got {command_line[:80]!r}")
    text = f"initrd=initrd {command_line}" if initrd_first else f"{command_line} initrd=initrd"
    return (text + "\0").encode("utf-16-le")


def _predicted(boot: TdxBoot, tdvf: Tdvf) -> list[Step]:
    if (
        boot.kernel is None
        or boot.initrd is None
        or boot.command_line is None
        or boot.memory_bytes is None
        or boot.acpi is None
    ):
        raise InputError(f"without an event log, expected also: {'; '.join(_absent_inputs(boot))}")
    _check_no_variables(tdvf.variables)
    return [
        *platform_steps(
            _sha384(tdvf.hand_off_block(boot.memory_bytes)),
            _sha384(tdvf.variables),
            [_sha384(blob) for blob in boot.acpi],
        ),
        *kernel_steps(authenticode(patched_kernel(boot.kernel, len(boot.initrd), boot.memory_bytes))),
        *initrd_steps(_sha384(_load_options(boot.command_line, initrd_first=False)), _sha384(boot.initrd)),
    ]


def _absent_inputs(boot: TdxBoot) -> list[str]:
    """What is not known of a boot, and which registers wait for it."""
    inputs = (
        ("the kernel (RTMR1)", boot.kernel),
        ("the initrd (RTMR1 has its place, RTMR2 its contents)", boot.initrd),
        ("the command line (RTMR2)", boot.command_line),
        ("the VM's memory size (RTMR0 has it, RTMR1 where the initrd lies)", boot.memory_bytes),
        ("QEMU's ACPI tables (RTMR0; they have processors, devices, machine)", boot.acpi),
    )
    return [what for what, value in inputs if value is None]


def _check_no_variables(volume: bytes) -> None:
    """Variables in firmware's file, secure boot's keys above all, would be measured as well."""
    header = int.from_bytes(volume[_VOLUME_LENGTH_AT : _VOLUME_LENGTH_AT + 2], "little")
    first = header + _STORE_BYTES
    signed = volume[_VOLUME_SIGNATURE_AT : _VOLUME_SIGNATURE_AT + 4] == b"_FVH"
    if not signed or volume[first : first + 2] != b"\xff\xff":
        raise InputError(
            "firmware, volume of UEFI variables: expected an empty one, got variables (secure boot?); "
            "give an event log"
        )


def _explained(log: tuple[CcelEvent, ...], boot: TdxBoot, tdvf: Tdvf) -> list[Part]:
    """The log's events, each with what it is if the files make the same digest; and every file must."""
    wanted, constant = _candidates(boot, tdvf), _constants()
    parts, found = [], set()
    for event in log:
        step = next((s for s in wanted if (s.rtmr, s.digest) == (event.rtmr, event.digest)), None)
        known = step or constant.get((event.rtmr, event.digest))
        found |= {step.what.partition(":")[0]} if step else set()
        what = known.what if known else _described(event)
        parts.append(Part(f"rtmr{event.rtmr}", what, event.digest, known is not None))
    missing = sorted({step.what.partition(":")[0] for step in wanted} - found)
    if missing:
        raise CheckError(f"event log: expected an event of the given {', '.join(missing)}, got none like it")
    return parts


def _candidates(boot: TdxBoot, tdvf: Tdvf) -> list[Step]:
    """What the files make; where versions differ, every form, named ``what: form``."""
    steps = [Step(0, "volume of UEFI variables", _sha384(tdvf.variables))]
    if boot.memory_bytes is not None:
        steps.append(Step(0, "hand-off block (memory size)", _sha384(tdvf.hand_off_block(boot.memory_bytes))))
    for name, blob in zip(("loader", "rsdp", "tables"), boot.acpi or (), strict=False):
        steps.append(Step(0, f"ACPI {name}", _sha384(blob)))
    if boot.kernel is not None:
        steps.append(Step(1, "kernel: as it is", authenticode(boot.kernel)))
        if boot.initrd is not None and boot.memory_bytes is not None:
            handed = patched_kernel(boot.kernel, len(boot.initrd), boot.memory_bytes)
            steps.append(Step(1, "kernel: as QEMU hands it over", authenticode(handed)))
    if boot.initrd is not None:
        steps.append(Step(2, "initrd", _sha384(boot.initrd)))
    if boot.command_line is not None:
        for place in (False, True):
            form = f"initrd= {'before' if place else 'after'} it"
            options = _load_options(boot.command_line, initrd_first=place)
            steps.append(Step(2, f"command line: {form}", _sha384(options)))
    return steps


def _constants() -> dict[tuple[int, bytes], Step]:
    """Events that are the same in every boot."""
    empty = bytes(48)
    steps = [*platform_steps(empty, empty, (empty,) * 3), *kernel_steps(empty)]
    return {(step.rtmr, step.digest): step for step in steps if step.digest != empty}


def _described(event: CcelEvent) -> str:
    """What the log calls an event, which nothing vouches for."""
    text = event.data[:64].decode("ascii", "replace").rstrip("\0")
    label = f" {text!r}" if text and text.isprintable() and text.isascii() else ""
    return f"event {event.type:#x}{label}"
