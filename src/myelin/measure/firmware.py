"""The table of GUIDs at the end of OVMF's image: where firmware tells a hypervisor what it needs.

It ends 32 bytes before the end of the file and is read backwards: data, 16-bit size, GUID, and so on; the
first entry that is met gives the size of the whole (``OvmfPkg/ResetVector`` of edk2).
"""

from __future__ import annotations

from myelin.errors import InputError
from myelin.measure.blob import Blob, guid

__all__ = ["FOUR_GIB", "MOST_FIRMWARE_BYTES", "PAGE_BYTES", "firmware_blob", "firmware_table"]

MOST_FIRMWARE_BYTES = 16 << 20
"""Longest firmware that is looked at."""
PAGE_BYTES = 4096
FOUR_GIB = 1 << 32
"""Where firmware ends in a guest's memory."""

_FOOTER = guid("96b582de-1fb2-45f7-baea-a366c55a082d")
_AFTER_TABLE_BYTES = 32
_ENTRY_BYTES = 18
_MOST_ENTRIES = 64


def firmware_blob(data: bytes) -> Blob:
    """Firmware to be read; its length must be whole pages, since it is measured in pages."""
    if not 0 < len(data) <= MOST_FIRMWARE_BYTES or len(data) % PAGE_BYTES:
        raise InputError(
            f"firmware: expected whole pages, up to {MOST_FIRMWARE_BYTES} bytes, got {len(data)}"
        )
    return Blob(data, "firmware")


def firmware_table(blob: Blob) -> dict[bytes, bytes]:
    """The entries, by the bytes of their GUID. Without such a table, it is not a firmware for a TEE."""
    end = len(blob.data) - _AFTER_TABLE_BYTES
    if blob.take(end - 16, 16, "GUID of its table") != _FOOTER:
        raise blob.wrong("table of GUIDs", "one at its end (OVMF built for confidential VMs)", "none")
    size = blob.uint(end - _ENTRY_BYTES, 2, "size of its table", least=_ENTRY_BYTES)
    start, at = end - size, end - _ENTRY_BYTES
    blob.take(start, size, "its table")
    entries: dict[bytes, bytes] = {}
    while at > start:
        length = blob.uint(at - _ENTRY_BYTES, 2, "size of an entry", least=_ENTRY_BYTES, most=at - start)
        name = blob.take(at - 16, 16, "GUID of an entry")
        if name in entries or len(entries) == _MOST_ENTRIES:
            raise blob.wrong("its table", f"up to {_MOST_ENTRIES} entries, each once", "more")
        entries[name] = blob.take(at - length, length - _ENTRY_BYTES, "an entry")
        at -= length
    return entries
