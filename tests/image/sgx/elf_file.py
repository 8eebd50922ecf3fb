"""A static ELF file with the form of an image, made byte by byte: the same on every machine."""

from __future__ import annotations

import struct

BASE = 0x1000_0000
READ, WRITE, EXECUTE = 4, 2, 1
NAMES = b"\0.myelin.manifest\0.shstrtab\0"
MANIFEST = b"\xa1\x66target\x69x86-64-v3"

Segment = tuple[int, int, int, bytes]
"""Address, size in memory, flags, bytes of the file."""

SEGMENTS: tuple[Segment, ...] = (
    (BASE, 0x1800, READ | EXECUTE, bytes(range(256)) * 24),
    (BASE + 0x2000, 0x1000, READ, b"constants"),
    (BASE + 0x3000, 0x1000, READ | WRITE, b"r" * 64 + b"data"),
    (BASE + 0x4000, 0x80_0000, READ | WRITE, b""),
    (BASE + 0x90_0000, 0x3000, READ | WRITE, b""),
)


def elf_file(
    segments: tuple[Segment, ...] = SEGMENTS, entry: int = BASE + 0x10, manifest: bytes = MANIFEST
) -> bytes:
    """An image file with these segments."""
    at = 64 + 56 * len(segments)
    rows, body = b"", b""
    for address, size, flags, content in segments:
        row = (1, flags, at + len(body), address, address, len(content), size, 4096)
        rows += struct.pack("<IIQQQQQQ", *row)
        body += content
    names_at = at + len(body) + len(manifest)
    sections_at = names_at + len(NAMES)
    fields = (2, 62, 1, entry, 64, sections_at, 0, 64, 56, len(segments), 64, 3, 2)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", *fields)
    sections = bytes(64)
    for name, begin, size in ((1, names_at - len(manifest), len(manifest)), (18, names_at, len(NAMES))):
        kind = 1 if name == 1 else 3
        sections += struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, begin, size, 0, 0, 1, 0)
    return head + rows + body + manifest + NAMES + sections
