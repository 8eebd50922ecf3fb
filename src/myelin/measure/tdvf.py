"""TDX virtual firmware: what of it a hypervisor puts into a trust domain, so MRTD, and the hand-off block.

Intel's "TDX Virtual Firmware Design Guide" has the metadata; the TDX module specification has how MRTD grows:
128 bytes for a page that is added, 128 for each 256 bytes that are measured, followed by these. The hand-off
block (TD HOB) is QEMU's list of memory, which firmware measures into RTMR0 before it reads it. Read are the
types of section that QEMU takes; td-shim's others (payload, permanent memory) are refused.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import struct
from dataclasses import dataclass

from myelin.errors import InputError
from myelin.measure.blob import Blob, guid
from myelin.measure.firmware import (
    FOUR_GIB,
    MOST_FIRMWARE_BYTES,
    PAGE_BYTES,
    firmware_blob,
    firmware_table,
)

__all__ = ["PageOrder", "Tdvf", "TdvfSection", "below_4g_bytes"]

_METADATA = guid("e47a6535-984a-4798-865e-4685a7bf8ec2")
_MOST_SECTIONS = 16
_MOST_MEMORY_BYTES = 1 << 46
_LEAST_MEMORY_BYTES = 16 << 20
_CHUNK_BYTES = 256
_EXTEND = 1
_BFV, _CFV, _HOB, _TEMPORARY = range(4)
_NAMES = ("BFV", "CFV", "TD HOB", "temporary memory")
_SYSTEM_MEMORY, _UNACCEPTED_MEMORY = 0, 7
_PRESENT_INITIALIZED_TESTED = 7


class PageOrder(enum.Enum):
    """In which order a hypervisor adds and measures the pages of a section.

    ``page`` is Linux's since TDX is in it (6.16): each page is added, then measured. ``section`` is what
    hosts did before, with QEMU 8 and Intel's kernels: all pages are added, then all are measured.
    """

    PAGE = "page"
    SECTION = "section"


@dataclass(frozen=True)
class TdvfSection:
    """One section of the metadata. ``data`` is empty where memory begins as zeros."""

    kind: int
    address: int
    size: int
    attributes: int
    data: bytes


@dataclass(frozen=True)
class Tdvf:
    """What a firmware file tells a hypervisor about itself."""

    sections: tuple[TdvfSection, ...]

    @classmethod
    def read(cls, data: bytes) -> Tdvf:
        """Read the metadata of a firmware file; :class:`~myelin.errors.InputError` if there are none."""
        blob = firmware_blob(data)
        entry = firmware_table(blob).get(_METADATA)
        if entry is None or len(entry) != 4:
            raise blob.wrong("TDX metadata", "an entry for them in its table (OVMF with TDX)", "none")
        at = len(data) - int.from_bytes(entry, "little")
        blob.constant(at, b"TDVF", "TDX metadata, signature")
        count = blob.uint(at + 12, 4, "TDX metadata, number of sections", least=1, most=_MOST_SECTIONS)
        length = 16 + 32 * count
        blob.uint(at + 4, 4, "TDX metadata, length", least=length, most=length)
        blob.uint(at + 8, 4, "TDX metadata, version", least=1, most=1)
        sections = tuple(_section(blob, at + 16 + 32 * place) for place in range(count))
        if [section.kind for section in sections].count(_HOB) != 1:
            raise blob.wrong("TDX metadata", "one section for the hand-off block", "none or several")
        ordered = sorted(sections, key=lambda section: section.address)
        for below, above in itertools.pairwise(ordered):
            if below.address + below.size > above.address:
                raise blob.wrong("TDX metadata", "sections that do not overlap", f"{above.address:#x} twice")
        return cls(sections)

    def mrtd(self, order: PageOrder = PageOrder.PAGE) -> bytes:
        """MRTD: the measurement of all that is in the domain before its first instruction, 48 bytes."""
        digest = hashlib.sha384()
        for section in self.sections:
            pages = range(section.address, section.address + section.size, PAGE_BYTES)
            if order is PageOrder.SECTION:
                for address in pages:
                    digest.update(_operation(b"MEM.PAGE.ADD", address))
            for address in pages:
                if order is PageOrder.PAGE:
                    digest.update(_operation(b"MEM.PAGE.ADD", address))
                if section.attributes & _EXTEND:
                    for chunk in range(address, address + PAGE_BYTES, _CHUNK_BYTES):
                        start = chunk - section.address
                        digest.update(_operation(b"MR.EXTEND", chunk))
                        digest.update(section.data[start : start + _CHUNK_BYTES].ljust(_CHUNK_BYTES, b"\0"))
        return digest.digest()

    @property
    def variables(self) -> bytes:
        """The configuration volume (CFV), where UEFI variables are kept."""
        volumes = [section.data for section in self.sections if section.kind == _CFV]
        if len(volumes) != 1:
            raise InputError(f"firmware: expected one section of UEFI variables (CFV), got {len(volumes)}")
        return volumes[0]

    def hand_off_block(self, memory_bytes: int) -> bytes:
        """The part of QEMU's hand-off block that firmware measures: everything but its end mark."""
        if memory_bytes % PAGE_BYTES or not _LEAST_MEMORY_BYTES <= memory_bytes <= _MOST_MEMORY_BYTES:
            wanted = f"whole pages, {_LEAST_MEMORY_BYTES} to {_MOST_MEMORY_BYTES} bytes"
            raise InputError(f"memory of the VM: expected {wanted}, got {memory_bytes}")
        resources = b"".join(
            struct.pack("<HHI16sIIQQ", 3, 48, 0, b"", kind, _PRESENT_INITIALIZED_TESTED, start, end - start)
            for kind, start, end in self._memory(memory_bytes)
        )
        base = next(section.address for section in self.sections if section.kind == _HOB)
        end = base + 56 + len(resources) + 8
        return struct.pack("<HHIII4QQ", 1, 56, 0, 9, 0, 0, 0, 0, 0, end) + resources

    def _memory(self, memory_bytes: int) -> list[tuple[int, int, int]]:
        """Ranges of memory: those of the sections are the domain's already, the others to be accepted."""
        below = below_4g_bytes(memory_bytes)
        ram = [(0, below), (FOUR_GIB, FOUR_GIB + memory_bytes - below)]
        ours = sorted(
            (section.address, section.address + section.size)
            for section in self.sections
            if section.kind in (_HOB, _TEMPORARY)
        )
        if ours[-1][1] > below:
            raise InputError(f"memory of the VM: expected enough for the firmware's own, got {memory_bytes}")
        ranges = []
        for first, last in ram:
            at = first
            for start, end in ours:
                if not first <= start < last:
                    continue
                ranges += [(_UNACCEPTED_MEMORY, at, start)] if start > at else []
                ranges.append((_SYSTEM_MEMORY, start, end))
                at = end
            ranges += [(_UNACCEPTED_MEMORY, at, last)] if last > at else []
        return ranges


def below_4g_bytes(memory_bytes: int) -> int:
    """How much of a VM's memory QEMU's q35 puts below 4 GiB."""
    return min(memory_bytes, 0x8000_0000 if memory_bytes >= 0xB000_0000 else 0xB000_0000)


def _operation(name: bytes, address: int) -> bytes:
    return struct.pack("<16sQ104x", name, address)


def _section(blob: Blob, at: int) -> TdvfSection:
    offset, raw, address, size, kind, attributes = struct.unpack(
        "<IIQQII", blob.take(at, 32, "TDX metadata, a section")
    )
    if kind >= len(_NAMES):
        raise blob.wrong("TDX metadata, type of a section", f"0 to {len(_NAMES) - 1}", str(kind))
    name = f"TDX metadata, section {_NAMES[kind]}"
    whole = address % PAGE_BYTES == size % PAGE_BYTES == 0 and 0 < size <= MOST_FIRMWARE_BYTES
    if not whole or address + size > FOUR_GIB:
        wanted = f"whole pages below 4 GiB, up to {MOST_FIRMWARE_BYTES} bytes"
        raise blob.wrong(name, wanted, f"{size:#x} bytes at {address:#x}")
    if attributes & ~_EXTEND:
        raise blob.wrong(f"{name}, attributes", "0, or 1 (measured)", f"{attributes:#x}")
    if kind in (_BFV, _CFV):
        if raw != size:
            raise blob.wrong(name, f"as many bytes in the file as in memory ({size:#x})", f"{raw:#x}")
        return TdvfSection(kind, address, size, attributes, blob.take(offset, raw, name))
    if raw or offset:
        raise blob.wrong(name, "no bytes in the file", f"{raw:#x} at {offset:#x}")
    return TdvfSection(kind, address, size, attributes, b"")
