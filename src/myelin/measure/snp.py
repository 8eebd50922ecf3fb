"""The launch digest of an SEV-SNP guest: a chain over every page that its hypervisor puts in before it runs.

"SEV Secure Nested Paging Firmware ABI Specification" (AMD publication 56860), 8.17.2, has the chain; edk2's
``OvmfSevMetadata`` has the list of pages; QEMU's ``sev-guest`` has the page with the digests of kernel,
initrd and command line.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass

from myelin.attest import RealEvidence
from myelin.errors import InputError
from myelin.measure.blob import Blob, guid
from myelin.measure.firmware import FOUR_GIB, PAGE_BYTES, firmware_blob, firmware_table
from myelin.measure.measured import Measured, Part
from myelin.measure.vmsa import BOOT_ADDRESS, Vmm, processor_page

__all__ = [
    "GUEST_FEATURES",
    "MOST_PROCESSORS",
    "BootHashes",
    "SnpFirmware",
    "SnpPages",
    "SnpSection",
    "launch_digest",
    "measure_snp",
]

MOST_PROCESSORS = 512
GUEST_FEATURES = 1
"""SEV_FEATURES of a guest with nothing but SNP, as QEMU sets them unless it is told otherwise."""

_DIGEST_BYTES, _HOST_DATA_BYTES = 48, 32
_VMSA_ADDRESS = 0xFFFF_FFFF_F000
_METADATA = guid("dc886566-984a-4798-a75e-5585a7bf67cc")
_RESET = guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
_HASHES = guid("7255371f-3a3b-4b04-927b-1da6efa8d454")
_HASHES_TABLE = guid("9438d606-4f22-4cc9-b479-a793d411fd21")
_COMMAND_LINE = guid("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
_INITRD = guid("44baf731-3a2f-4bd7-9af1-41e29169781d")
_KERNEL = guid("4de79437-abd2-427f-b835-d5b172d2045b")
_MOST_SECTIONS = 64
_MOST_SECTION_BYTES = 64 << 20
_NORMAL, _VMSA, _ZERO, _UNMEASURED, _SECRETS, _CPUID = range(1, 7)


class SnpPages(enum.Enum):
    """What a hypervisor puts where firmware's metadata say so."""

    MEMORY = 1
    SECRETS = 2
    CPUID = 3
    SERVICE_AREA = 4
    HASHES = 0x10


@dataclass(frozen=True)
class SnpSection:
    """One range of the metadata, whole pages."""

    pages: SnpPages
    address: int
    size: int


@dataclass(frozen=True)
class SnpFirmware:
    """What a launch needs to know of a firmware.

    Args:
        digest: the launch digest after the firmware's own pages (48 bytes); it stands for the file.
        sections: what else is to be put in, in this order.
        hashes_address: where the table of digests of kernel, initrd and command line lies; 0 for nowhere.
        reset_address: where processors but the first begin; 0 if firmware does not say.
    """

    digest: bytes
    sections: tuple[SnpSection, ...]
    hashes_address: int
    reset_address: int

    @classmethod
    def read(cls, data: bytes) -> SnpFirmware:
        """Read a firmware file; :class:`~myelin.errors.InputError` if it has no SEV metadata."""
        blob = firmware_blob(data)
        table = firmware_table(blob)
        sections = _sections(blob, table.get(_METADATA, b""))
        digest, first = bytes(_DIGEST_BYTES), FOUR_GIB - len(data)
        for at in range(0, len(data), PAGE_BYTES):
            contents = hashlib.sha384(data[at : at + PAGE_BYTES]).digest()
            digest = _extended(digest, _NORMAL, first + at, contents)
        return cls(digest, sections, _address(table, _HASHES), _address(table, _RESET))


@dataclass(frozen=True)
class BootHashes:
    """SHA-256 of what a hypervisor boots directly: kernel and initrd as files, command line with its NUL."""

    kernel: bytes
    initrd: bytes
    command_line: bytes

    @classmethod
    def of(cls, kernel: bytes, initrd: bytes, command_line: str) -> BootHashes:
        """Hash the files; an absent initrd is empty."""
        line = command_line.encode() + b"\0"
        return cls(*(hashlib.sha256(data).digest() for data in (kernel, initrd, line)))

    def page(self, offset: int) -> bytes:
        """The page with QEMU's table of these digests at ``offset``."""
        entries = b"".join(
            name + struct.pack("<H", 16 + 2 + len(digest)) + digest
            for name, digest in (
                (_COMMAND_LINE, self.command_line),
                (_INITRD, self.initrd),
                (_KERNEL, self.kernel),
            )
        )
        table = _HASHES_TABLE + struct.pack("<H", 16 + 2 + len(entries)) + entries
        if offset + len(table) > PAGE_BYTES:
            raise InputError(
                f"firmware, table of hashes: expected room inside of a page, got offset {offset:#x}"
            )
        return (bytes(offset) + table).ljust(PAGE_BYTES, b"\0")


def launch_digest(
    firmware: SnpFirmware,
    boot: BootHashes | None,
    *,
    processors: int,
    signature: int,
    features: int = GUEST_FEATURES,
    vmm: Vmm = Vmm.QEMU,
) -> bytes:
    """MEASUREMENT in the report of a guest so launched, 48 bytes.

    Args:
        firmware: what :meth:`SnpFirmware.read` gave.
        boot: the digests of kernel, initrd and command line, if the hypervisor passes them on
            (``kernel-hashes=on``); ``None`` if firmware finds by itself what to boot.
        processors: how many virtual processors.
        signature: their CPUID signature (:func:`~myelin.measure.vmsa.cpu_signature`); QEMU's only.
        features: SEV_FEATURES: 1 for SNP alone.
        vmm: the hypervisor, since they begin processors differently.
    """
    if not 1 <= processors <= MOST_PROCESSORS:
        raise InputError(f"processors: expected 1 to {MOST_PROCESSORS}, got {processors}")
    if not 0 <= features < 1 << 64 or not features & 1:
        raise InputError(f"guest features: expected SEV_FEATURES with bit 0 (SNP), got {features:#x}")
    if boot is not None and SnpPages.HASHES not in [section.pages for section in firmware.sections]:
        raise InputError("firmware: expected a page for kernel hashes (edk2's AmdSev build), got none")
    if processors > 1 and not firmware.reset_address:
        raise InputError("firmware: expected the address where further processors begin, got none")
    digest = firmware.digest
    later = []
    for section in firmware.sections:
        if section.pages is SnpPages.CPUID and vmm is Vmm.EC2:
            later.append(section)
        else:
            digest = _section_extended(digest, section, firmware, boot, vmm)
    for section in later:
        digest = _section_extended(digest, section, firmware, boot, vmm)
    for place in range(processors):
        begins = firmware.reset_address if place else BOOT_ADDRESS
        page = processor_page(begins, signature, features, vmm)
        digest = _extended(digest, _VMSA, _VMSA_ADDRESS, hashlib.sha384(page).digest())
    return digest


def measure_snp(
    firmware: bytes,
    boot: BootHashes | None,
    *,
    processors: int,
    signature: int,
    features: int = GUEST_FEATURES,
    vmm: Vmm = Vmm.QEMU,
    host_data: bytes | None = None,
) -> Measured:
    """The registers of a guest with this firmware file; arguments as for :func:`launch_digest`.

    ``host_data`` is what the hypervisor is told to put into the report beside the measurement, 32 bytes; it
    is in no digest.
    """
    if host_data is not None and len(host_data) != _HOST_DATA_BYTES:
        raise InputError(f"host data: expected {_HOST_DATA_BYTES} bytes, got {len(host_data)}")
    read = SnpFirmware.read(firmware)
    digest = launch_digest(read, boot, processors=processors, signature=signature, features=features, vmm=vmm)
    parts = [Part("measurement", "firmware: launch digest after its own pages", read.digest)]
    if boot is not None:
        parts += [
            Part("measurement", "kernel (SHA-256)", boot.kernel),
            Part("measurement", "initrd (SHA-256)", boot.initrd),
            Part("measurement", "command line (SHA-256)", boot.command_line),
        ]
    what = f"{processors} processors of signature {signature:#x}, features {features:#x}, on {vmm.value}"
    registers = [("measurement", digest)]
    parts.append(Part("measurement", what, None))
    if host_data is not None:
        registers.append(("host_data", host_data))
        parts.append(Part("host_data", "as the hypervisor is told", None))
    return Measured(RealEvidence.SEV_SNP, tuple(registers), tuple(parts))


def _extended(digest: bytes, kind: int, address: int, contents: bytes) -> bytes:
    """One page: the digest before, that of its contents, and how it is put in (PAGE_INFO)."""
    return hashlib.sha384(digest + contents + struct.pack("<HBBIQ", 0x70, kind, 0, 0, address)).digest()


def _section_extended(
    digest: bytes, section: SnpSection, firmware: SnpFirmware, boot: BootHashes | None, vmm: Vmm
) -> bytes:
    contents = bytes(_DIGEST_BYTES)
    if section.pages is SnpPages.HASHES and boot is not None:
        if firmware.hashes_address & -PAGE_BYTES != section.address or section.size != PAGE_BYTES:
            raise InputError("firmware, table of hashes: expected it in the one page for it, got elsewhere")
        page = boot.page(firmware.hashes_address % PAGE_BYTES)
        return _extended(digest, _NORMAL, section.address, hashlib.sha384(page).digest())
    kind = {SnpPages.SECRETS: _SECRETS, SnpPages.CPUID: _CPUID}.get(section.pages, _ZERO)
    if section.pages is SnpPages.MEMORY and vmm is Vmm.GCE:
        kind = _UNMEASURED
    for address in range(section.address, section.address + section.size, PAGE_BYTES):
        digest = _extended(digest, kind, address, contents)
    return digest


def _sections(blob: Blob, entry: bytes) -> tuple[SnpSection, ...]:
    what = "SEV metadata"
    if len(entry) != 4:
        raise blob.wrong(what, "an entry for them in its table (OVMF with SEV-SNP)", "none")
    at = len(blob.data) - int.from_bytes(entry, "little")
    blob.constant(at, b"ASEV", f"{what}, signature")
    blob.uint(at + 8, 4, f"{what}, version", least=1, most=1)
    count = blob.uint(at + 12, 4, f"{what}, number of sections", least=1, most=_MOST_SECTIONS)
    length = 16 + 12 * count
    blob.uint(at + 4, 4, f"{what}, length", least=length, most=length)
    known = {pages.value: pages for pages in SnpPages}
    sections = []
    for place in range(at + 16, at + length, 12):
        address, size, kind = struct.unpack("<III", blob.take(place, 12, f"{what}, a section"))
        if kind not in known:
            raise blob.wrong(f"{what}, type of a section", "1 to 4, or 16", str(kind))
        whole = address % PAGE_BYTES == size % PAGE_BYTES == 0 and 0 < size <= _MOST_SECTION_BYTES
        if not whole or address + size > FOUR_GIB:
            raise blob.wrong(f"{what}, a section", "whole pages below 4 GiB", f"{size:#x} at {address:#x}")
        one = known[kind] in (SnpPages.SECRETS, SnpPages.CPUID, SnpPages.HASHES)
        if one and size != PAGE_BYTES:
            raise blob.wrong(f"{what}, section of {known[kind].name.lower()}", "one page", f"{size:#x} bytes")
        sections.append(SnpSection(known[kind], address, size))
    return tuple(sections)


def _address(table: dict[bytes, bytes], name: bytes) -> int:
    return int.from_bytes(table.get(name, b"")[:4], "little")
