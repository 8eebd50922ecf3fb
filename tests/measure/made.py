"""Firmware, kernels and logs of no machine: small, the same in every run, and shaped like the real ones."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence

from myelin.measure.blob import guid

FOOTER = guid("96b582de-1fb2-45f7-baea-a366c55a082d")
TDX = guid("e47a6535-984a-4798-865e-4685a7bf8ec2")
SEV = guid("dc886566-984a-4798-a75e-5585a7bf67cc")
HASHES = guid("7255371f-3a3b-4b04-927b-1da6efa8d454")
RESET = guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SIZE, VARIABLES = 0x20000, 0x8000
FIRST = (1 << 32) - SIZE
HASHES_AT, RESET_AT = 0x810C00, 0x80B004
TDVF_SECTIONS = (
    (VARIABLES, SIZE - VARIABLES, FIRST + VARIABLES, SIZE - VARIABLES, 0, 1),
    (0, VARIABLES, FIRST, VARIABLES, 1, 0),
    (0, 0, 0x810000, 0x10000, 3, 0),
    (0, 0, 0x80B000, 0x2000, 3, 0),
    (0, 0, 0x809000, 0x2000, 2, 0),
    (0, 0, 0x800000, 0x6000, 3, 0),
)
"""Data offset, bytes in the file, address, bytes in memory, type, attributes."""
SEV_SECTIONS = (
    (0x800000, 0x9000, 1), (0x80A000, 0x3000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3),
    (0x80F000, 0x1000, 4), (0x811000, 0xF000, 1), (0x810000, 0x1000, 0x10),
)  # fmt: skip


def pattern(size: int, seed: bytes = b"firmware") -> bytes:
    """Bytes that look like code: digests of a counter."""
    blocks = (hashlib.sha256(seed + place.to_bytes(8, "little")).digest() for place in range(-(-size // 32)))
    return b"".join(blocks)[:size]


def variables(first: bytes = b"\xff" * 16) -> bytes:
    """A volume of UEFI variables, which begin with ``first``."""
    header = bytes(40) + b"_FVH" + bytes(4) + struct.pack("<H", 72) + bytes(22)
    return (header + bytes(28) + first).ljust(VARIABLES, b"\xff")


def firmware(
    tdvf: Sequence[tuple[int, ...]] | None = TDVF_SECTIONS,
    sev: Sequence[tuple[int, ...]] | None = SEV_SECTIONS,
    *,
    volume: bytes | None = None,
    others: Iterable[tuple[bytes, bytes]] = (
        (HASHES, struct.pack("<II", HASHES_AT, 1024)),
        (RESET, struct.pack("<I", RESET_AT)),
    ),
) -> bytes:
    """An OVMF of 128 KiB with these sections of TDX and SEV metadata."""
    image = bytearray(variables() if volume is None else volume)
    image += pattern(SIZE - len(image))
    entries = list(others)
    for name, at, data in ((TDX, 0x1800, _tdvf(tdvf)), (SEV, 0x1000, _sev(sev))):
        if data:
            image[SIZE - at : SIZE - at + len(data)] = data
            entries.append((name, struct.pack("<I", at)))
    table = b"".join(data + struct.pack("<H", len(data) + 18) + name for name, data in entries)
    table += struct.pack("<H", len(table) + 18) + FOOTER
    image[SIZE - 32 - len(table) : SIZE - 32] = table
    return bytes(image)


def _tdvf(sections: Sequence[tuple[int, ...]] | None) -> bytes:
    if sections is None:
        return b""
    return struct.pack("<4sIII", b"TDVF", 16 + 32 * len(sections), 1, len(sections)) + b"".join(
        struct.pack("<IIQQII", *section) for section in sections
    )


def _sev(sections: Sequence[tuple[int, ...]] | None) -> bytes:
    if sections is None:
        return b""
    return struct.pack("<4sIII", b"ASEV", 16 + 12 * len(sections), 1, len(sections)) + b"".join(
        struct.pack("<III", *section) for section in sections
    )


def kernel(*, signed: int = 0, protocol: int = 0x20F, sections: int = 3) -> bytes:
    """A bzImage that is a UEFI program: 16 KiB, three sections, and ``signed`` bytes of certificates."""
    image = bytearray(pattern(0x4000, b"kernel"))
    image[:0x1000] = bytes(0x1000)
    image[:2], image[0x3C:0x40] = b"MZ", struct.pack("<I", 0x40)
    image[0x1F1], image[0x202:0x208] = 7, b"HdrS" + struct.pack("<H", protocol)
    image[0x211], image[0x22C:0x230], image[0x236] = 1, struct.pack("<I", 0x7FFF_FFFF), 2
    struct.pack_into("<4sHHIIIHH", image, 0x40, b"PE\0\0", 0x8664, sections, 0, 0, 0, 160, 0x206)
    struct.pack_into("<H", image, 0x58, 0x20B)
    struct.pack_into("<II", image, 0x58 + 56, 0x4000, 0x1000)
    struct.pack_into("<I", image, 0x58 + 64, 0xC4EC_5000)
    struct.pack_into("<I", image, 0x58 + 108, 6)
    struct.pack_into("<II", image, 0x58 + 112 + 32, 0x4000 if signed else 0, signed)
    for place, (start, size) in enumerate(((0x3000, 0x1000), (0x1000, 0x2000), (0, 0))[:sections]):
        name = f".s{place}".encode()
        struct.pack_into("<8sIIII16x", image, 0xF8 + 40 * place, name, size, start, size, start)
    return bytes(image) + pattern(signed, b"certificates")


def ccel(events: Iterable[tuple[int, bytes]], *, padding: int = 512, data: bytes = b"an event") -> bytes:
    """A log of SHA-384 events (RTMR, digest), padded as firmware pads it."""
    header = b"Spec ID Event03\0" + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, 12, 48, 0)
    log = struct.pack("<II20sI", 1, 3, bytes(20), len(header)) + header
    for rtmr, digest in events:
        log += struct.pack("<IIIH", rtmr + 1, 13, 1, 12) + digest + struct.pack("<I", len(data)) + data
    return log + b"\xff" * padding
