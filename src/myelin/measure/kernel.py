"""A Linux kernel as QEMU hands it to firmware, and its Authenticode digest.

QEMU writes where kernel, command line and initrd shall lie into the kernel's own header ("The Linux/x86 Boot
Protocol") before firmware sees the file; firmware then measures it like any other UEFI program, by the rules
of "Windows Authenticode Portable Executable Signature Format": everything but the checksum, the entry for
certificates and the certificates.
"""

from __future__ import annotations

import hashlib
import struct

from myelin.errors import InputError
from myelin.measure.blob import Blob
from myelin.measure.tdvf import below_4g_bytes

__all__ = ["MOST_KERNEL_BYTES", "authenticode", "patched_kernel"]

MOST_KERNEL_BYTES = 256 << 20
"""Longest kernel that is looked at."""

_ACPI_BYTES = 0x28000
_HEADER_BYTES = 0x1000
_REAL_MODE, _COMMAND_LINE = 0x10000, 0x20000
_LOADED_HIGH, _CAN_USE_HEAP = 1, 0x80
_ABOVE_4G = 2
_LEAST_PROTOCOL = 0x20C
_QEMU = 0xB0
_MOST_SECTIONS = 96
_CERTIFICATES = 4


def patched_kernel(kernel: bytes, initrd_size: int, memory_bytes: int) -> bytes:
    """The kernel with QEMU's entries in its header, for a q35 machine with so much memory.

    Below 2.75 GiB of memory the initrd's place depends on how much there is; from then on it does not.
    """
    blob = _bounded(kernel)
    blob.constant(0x202, b"HdrS", "signature of its header")
    protocol = blob.uint(0x206, 2, "boot protocol", least=_LEAST_PROTOCOL, most=0x7FFF)
    if not blob.uint(0x211, 1, "load flags") & _LOADED_HIGH:
        raise blob.wrong("load flags", "a kernel that is loaded high (bzImage)", "an old one")
    highest = blob.uint(0x22C, 4, "highest address of an initrd")
    if protocol >= _LEAST_PROTOCOL and blob.uint(0x236, 2, "extended load flags") & _ABOVE_4G:
        highest = 0xFFFF_FFFF
    highest = min(highest, below_4g_bytes(memory_bytes) - _ACPI_BYTES - 1)
    if not 0 < initrd_size < highest:
        raise InputError(f"initrd: expected 1 to {highest - 1} bytes, got {initrd_size}")
    header = bytearray(blob.take(0, _HEADER_BYTES, "its header"))
    setup_size = (header[0x1F1] or 4) * 512 + 512
    header[0x210] = _QEMU
    header[0x211] |= _CAN_USE_HEAP
    struct.pack_into("<II", header, 0x218, (highest - initrd_size) & ~4095, initrd_size)
    struct.pack_into("<H", header, 0x224, _COMMAND_LINE - _REAL_MODE - 0x200)
    struct.pack_into("<I", header, 0x228, _COMMAND_LINE)
    kept = min(setup_size, _HEADER_BYTES)
    return bytes(header[:kept]) + kernel[kept:]


def authenticode(image: bytes, algorithm: str = "sha384") -> bytes:
    """The Authenticode digest of a UEFI program (PE32+), as edk2 computes it."""
    blob = _bounded(image)
    blob.constant(0, b"MZ", "signature 'MZ'")
    at = blob.uint(0x3C, 4, "place of the PE header", most=len(image))
    blob.constant(at, b"PE\0\0", "signature 'PE'")
    count = blob.uint(at + 6, 2, "number of sections", most=_MOST_SECTIONS)
    optional, optional_size = at + 24, blob.uint(at + 20, 2, "size of the optional header", least=112)
    blob.constant(optional, b"\x0b\x02", "kind of image (PE32+)")
    headers = blob.uint(optional + 60, 4, "size of the headers", least=optional + 112, most=len(image))
    directories = blob.uint(optional + 108, 4, "number of directories", most=16)
    checksum, entry = optional + 64, optional + 112 + 8 * _CERTIFICATES
    digest = hashlib.new(algorithm, image[:checksum])
    certificates = 0
    if directories > _CERTIFICATES:
        certificates = blob.uint(entry + 4, 4, "size of the certificates")
        digest.update(blob.take(checksum + 4, entry - checksum - 4, "headers"))
        digest.update(blob.take(entry + 8, headers - entry - 8, "headers"))
    else:
        digest.update(blob.take(checksum + 4, headers - checksum - 4, "headers"))
    table = optional + optional_size
    sections = [
        (
            blob.uint(table + 40 * place + 20, 4, "place of a section"),
            blob.uint(table + 40 * place + 16, 4, "size of a section"),
        )
        for place in range(count)
    ]
    hashed = headers
    for start, size in sorted(sections, key=lambda section: section[0]):
        if size:
            digest.update(blob.take(start, size, "a section"))
            hashed += size
    if hashed + certificates > len(image):
        raise blob.wrong("sections", f"at most {len(image)} bytes with headers and certificates", "more")
    digest.update(image[hashed : len(image) - certificates])
    return digest.digest()


def _bounded(kernel: bytes) -> Blob:
    if not _HEADER_BYTES <= len(kernel) <= MOST_KERNEL_BYTES:
        raise InputError(f"kernel: expected {_HEADER_BYTES} to {MOST_KERNEL_BYTES} bytes, got {len(kernel)}")
    return Blob(kernel, "kernel")
