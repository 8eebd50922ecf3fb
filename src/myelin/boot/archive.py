"""The initrd's form: a cpio archive, ``newc``, the same bytes for the same entries.

Documentation/driver-api/early-userspace/buffer-format.rst. Names are sorted, times and owners zero, inode
numbers counted; nothing is compressed, so that what is measured is what lies in memory.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Entry", "device", "file", "folder", "pack"]

_TRAILER = "TRAILER!!!"
_ALIGNMENT = 4
_MOST_FILE_BYTES = (1 << 32) - 1


@dataclass(frozen=True)
class Entry:
    """What is at a name: its mode with the file type, its content, and the numbers of a device."""

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder() -> Entry:
    """A folder."""
    return Entry(stat.S_IFDIR | 0o755)


def file(content: bytes, *, executable: bool = False) -> Entry:
    """A file."""
    return Entry(stat.S_IFREG | (0o755 if executable else 0o644), content)


def device(major: int, minor: int) -> Entry:
    """A character device, for root."""
    return Entry(stat.S_IFCHR | 0o600, b"", (major, minor))


def pack(entries: Mapping[str, Entry]) -> bytes:
    """The archive. Names are relative and sorted; a folder comes before what is in it."""
    parts: list[bytes] = []
    for inode, (name, entry) in enumerate(sorted(entries.items()), 1):
        parts += _record(name, entry, inode)
    parts += _record(_TRAILER, Entry(0), 0)
    return b"".join(parts)


def _record(name: str, entry: Entry, inode: int) -> list[bytes]:
    path = name.encode("ascii") + b"\0"
    size = len(entry.content)
    if size > _MOST_FILE_BYTES:
        raise ValueError(f"{name} has {size} bytes, more than the format can say")
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, size, 0, 0, *entry.device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return [_padded(head), _padded(entry.content)]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
