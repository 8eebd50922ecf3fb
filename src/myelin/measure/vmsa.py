"""The first state of an SEV-SNP guest's virtual processors, whose pages are measured at launch.

The page is laid out as AMD's "Architecture Programmer's Manual", volume 2, table B-4, and its values are the
processor's reset state with what each hypervisor does otherwise.
"""

from __future__ import annotations

import enum
import re
import struct
from types import MappingProxyType

from myelin.errors import InputError

__all__ = ["BOOT_ADDRESS", "CPU_TYPES", "Vmm", "cpu_signature", "cpu_type_signature", "processor_page"]

BOOT_ADDRESS = 0xFFFF_FFF0
"""Where the first processor begins: x86's reset vector."""

_PAGE_BYTES = 4096
_SEGMENTS = {"es": 0x00, "ss": 0x20, "ds": 0x30, "fs": 0x40, "gs": 0x50}
_CS, _GDTR, _LDTR, _IDTR, _TR = 0x10, 0x60, 0x70, 0x80, 0x90
_DATA = 0x93


class Vmm(enum.Enum):
    """Hypervisors that are known to begin differently."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


def cpu_signature(family: int, model: int, stepping: int) -> int:
    """CPUID leaf 1, EAX, of a processor (AMD publication 25481), which QEMU's guests find in RDX."""
    if not (0 <= family <= 0xF + 0xFF and 0 <= model <= 0xFF and 0 <= stepping <= 0xF):
        raise InputError(f"processor: expected family, model and stepping, got {family}, {model}, {stepping}")
    extended = max(family - 0xF, 0)
    base = min(family, 0xF)
    return extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xF) << 4 | stepping


CPU_TYPES = MappingProxyType(
    {
        "EPYC": cpu_signature(23, 1, 2),
        "EPYC-IBPB": cpu_signature(23, 1, 2),
        "EPYC-Rome": cpu_signature(23, 49, 0),
        "EPYC-Milan": cpu_signature(25, 1, 1),
        "EPYC-Genoa": cpu_signature(25, 17, 0),
        "EPYC-Turin": cpu_signature(26, 0, 0),
    }
)
"""Signatures of QEMU's processor models; their versions (``EPYC-v4``) have the same."""


def cpu_type_signature(name: str) -> int:
    """The signature of a QEMU processor model, or of ``FAMILY/MODEL/STEPPING`` in decimal."""
    if re.fullmatch(r"\d{1,3}/\d{1,3}/\d{1,2}", name):
        family, model, stepping = (int(number) for number in name.split("/"))
        return cpu_signature(family, model, stepping)
    signature = CPU_TYPES.get(re.sub(r"-v\d{1,2}$", "", name))
    if signature is None:
        known = ", ".join(CPU_TYPES)
        raise InputError(f"processor type: expected {known}, or FAMILY/MODEL/STEPPING, got {name[:40]!r}")
    return signature


def processor_page(address: int, signature: int, features: int, vmm: Vmm) -> bytes:
    """The page of a processor that begins at ``address``; ``features`` are its SEV_FEATURES."""
    page = bytearray(_PAGE_BYTES)
    qemu, ec2 = vmm is Vmm.QEMU, vmm is Vmm.EC2
    for name, at in _SEGMENTS.items():
        struct.pack_into("<HHIQ", page, at, 0, 0x92 if ec2 and name == "ss" else _DATA, 0xFFFF, 0)
    code = 0x9A if ec2 and address == BOOT_ADDRESS else 0x9B
    struct.pack_into("<HHIQ", page, _CS, 0xF000, code, 0xFFFF, address & 0xFFFF_0000)
    for at, attributes in ((_GDTR, 0), (_LDTR, 0x82), (_IDTR, 0), (_TR, 0x83 if ec2 else 0x8B)):
        struct.pack_into("<HHIQ", page, at, 0, attributes, 0xFFFF, 0)
    words = {
        0x0D0: 0x1000,  # EFER: SVME
        0x148: 0x40,  # CR4: MCE
        0x158: 0x10,  # CR0: ET
        0x160: 0x400,  # DR7
        0x168: 0xFFFF_0FF0,  # DR6
        0x170: 0x2,  # RFLAGS
        0x178: address & 0xFFFF,  # RIP
        0x268: 0x0007_0106 if vmm is Vmm.GCE else 0x0007_0406_0007_0406,  # G_PAT
        0x310: signature if qemu else 0x600,  # RDX
        0x3B0: features,  # SEV_FEATURES
        0x3E8: 0x1,  # XCR0
    }
    for at, value in words.items():
        struct.pack_into("<Q", page, at, value)
    struct.pack_into("<I", page, 0x408, 0x1F80 if qemu else 0)  # MXCSR
    struct.pack_into("<H", page, 0x410, 0x37F if qemu else 0)  # X87_FCW
    return bytes(page)
