"""Which pages an enclave has, in the order in which they are added: trampoline, slots, then the image's own.

The enclave's range is [0, 2 GiB): an image's addresses are absolute and below 2 GiB, a range must be a power
of two and lie at a multiple of itself, and no smaller one holds every image. What is not listed is not there.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ...errors import InputError

__all__ = ["ENCLAVE_BYTES", "PAGE_BYTES", "SSA_FRAME_PAGES", "PageRun", "enclave_pages", "trampoline_page"]

PAGE_BYTES = 4096

ENCLAVE_BYTES = 0x8000_0000
"""Size of the enclave's range, which begins at address 0; so an offset in it is an address."""

SSA_FRAME_PAGES = 1
"""Pages of a save area: registers up to AVX-512 take 2,872 bytes."""

READ, WRITE, EXECUTE, TCS, REGULAR = 1, 2, 4, 0x100, 0x200
"""SECINFO's flags: permissions and page types."""

_TRAMPOLINE = 0x0800_0000
_ENTRY_AT, _REPORT_DATA_AT = 0xFF0, 0xFF8
_SLOTS, _SLOT_BYTES, _SLOT_COUNT = 0x0801_0000, 0x4000, 16
_SSA_AT, _STACK_AT = 0x1000, 0x3000
_IMAGE_BASE = 0x1000_0000
_REPORT_DATA_BYTES = 64
_MOST_SEGMENTS = 32
_PF_EXECUTE, _PF_WRITE, _PF_READ = 1, 2, 4


@dataclass(frozen=True)
class PageRun:
    """Pages that follow each other with the same SECINFO flags.

    ``address`` and ``size`` are multiples of a page; ``content`` may be shorter than ``size``: the rest is
    zero, and measured as zero. A page that were not measured would hold what the host likes.
    """

    address: int
    size: int
    flags: int
    content: bytes


@cache
def _assembled() -> bytes:
    """The trampoline's page as it is assembled, without the addresses that differ from image to image."""
    return Path(__file__).with_name("trampoline.bin").read_bytes()


def trampoline_page(entry: int, report_data: int) -> bytes:
    """The trampoline's page for an image whose entry point and whose 64 bytes of report data lie there."""
    page = bytearray(_assembled())
    struct.pack_into("<QQ", page, _ENTRY_AT, entry, report_data)
    return bytes(page)


def _thread_control(slot: int) -> PageRun:
    """A slot's TCS: one save area, entry at the trampoline, no debugging.

    FSLIMIT and GSLIMIT are zero, with which the processor adds no TCS to an enclave of 32-bit mode, which
    MRENCLAVE would not tell from one of 64.
    """
    address = _SLOTS + slot * _SLOT_BYTES
    fields = struct.pack(
        "<QQQIIQQQQII", 0, 0, address + _SSA_AT, 0, SSA_FRAME_PAGES, _TRAMPOLINE, 0, 0, 0, 0, 0
    )
    return PageRun(address, PAGE_BYTES, TCS, fields)


def enclave_pages(image: bytes) -> tuple[PageRun, ...]:
    """The pages of the enclave that an image file becomes, in ascending order.

    Raises:
        InputError: the file has not the form of an image, or has no writable data.
    """
    segments, entry = _segments(image)
    writable = [run for run in segments if run.flags & WRITE]
    if not writable or len(writable[0].content) < _REPORT_DATA_BYTES:
        raise InputError(
            f"image: expected {_REPORT_DATA_BYTES} bytes of report data where its writable data begins "
            "(docs/abi.md), got none"
        )
    page = trampoline_page(entry, writable[0].address)
    runs = [PageRun(_TRAMPOLINE, PAGE_BYTES, REGULAR | READ | EXECUTE, page)]
    for slot in range(_SLOT_COUNT):
        control = _thread_control(slot)
        runs.append(control)
        for at in (_SSA_AT, _STACK_AT):
            runs.append(PageRun(control.address + at, PAGE_BYTES, REGULAR | READ | WRITE, b""))
    return (*runs, *segments)


def _segments(image: bytes) -> tuple[list[PageRun], int]:
    try:
        elf = ELFFile(io.BytesIO(image))
        entry: int = elf.header["e_entry"]
        if elf.num_segments() > _MOST_SEGMENTS:
            raise InputError(f"image: {elf.num_segments()} segments, expected at most {_MOST_SEGMENTS}")
        loaded = [segment.header for segment in elf.iter_segments() if segment.header["p_type"] == "PT_LOAD"]
    except (ELFError, ValueError, KeyError, IndexError, UnicodeDecodeError, struct.error) as error:
        raise InputError(f"image: expected an image, got no readable ELF file: {error}") from None
    runs: list[PageRun] = []
    end = _IMAGE_BASE
    for header in loaded:
        run = _run(header, image)
        if run.address < end or run.address + run.size > ENCLAVE_BYTES:
            raise InputError(
                f"image: the segment at {run.address:#x} overlaps the one before, or is outside "
                f"{_IMAGE_BASE:#x} to {ENCLAVE_BYTES:#x}"
            )
        end = run.address + run.size
        runs.append(run)
    if not any(run.flags & EXECUTE and 0 <= entry - run.address < len(run.content) for run in runs):
        raise InputError(f"image: the entry {entry:#x} is not in executable bytes of the file")
    return runs, entry


def _run(header: Any, image: bytes) -> PageRun:
    address, size, flags = header["p_vaddr"], header["p_memsz"], header["p_flags"]
    begin, kept = header["p_offset"], header["p_filesz"]
    if address % PAGE_BYTES or not size or kept > size or begin + kept > len(image):
        raise InputError(f"image: the segment at {address:#x} has not the form that docs/abi.md describes")
    if flags & _PF_WRITE and flags & _PF_EXECUTE:
        raise InputError(f"image: the segment at {address:#x} is writable and executable at once")
    rights = READ | (WRITE if flags & _PF_WRITE else 0) | (EXECUTE if flags & _PF_EXECUTE else 0)
    return PageRun(
        address, -(-size // PAGE_BYTES) * PAGE_BYTES, REGULAR | rights, image[begin : begin + kept]
    )
