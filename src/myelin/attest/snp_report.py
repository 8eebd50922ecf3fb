"""The SEV-SNP attestation report, read: versions 2 to 5 (AMD publication 56860, table 23)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from myelin.attest.kind import unreadable

__all__ = ["REPORT_BYTES", "SnpReport", "read_report", "tcb_components"]

REPORT_BYTES = 1184
"""Length of a report with its signature."""
SIGNED_BYTES = 672
"""Length of what is signed: everything before the signature."""

_VERSIONS = (2, 3, 4, 5)
_ECDSA_P384_SHA384 = 1
_POLICY_RESERVED_ONE, _POLICY_DEBUG = 1 << 17, 1 << 19
_SIGNING_KEYS = {0: "VCEK", 1: "VLEK"}


@dataclass(frozen=True)
class SnpReport:
    """A report, read but not believed. TCB versions are the eight bytes as they stand; see
    :func:`tcb_components`. ``signature`` is (r, s)."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    signing_key: str
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    mitigations: tuple[int, int] | None
    signed: bytes
    signature: tuple[int, int]

    @property
    def debug(self) -> bool:
        """Whether the guest's policy lets the host look inside."""
        return bool(self.policy & _POLICY_DEBUG)

    @property
    def product(self) -> str | None:
        """The product line by the processor's family, model and stepping; ``None`` before version 3."""
        if self.cpuid is None:
            return None
        family, model, stepping = self.cpuid
        if family == 0x19 and model <= 0x0F:
            return "milan"
        if family == 0x19 and 0x10 <= model <= 0x1F:
            return "genoa-x" if stepping == 2 else "genoa"
        if family == 0x19 and 0xA0 <= model <= 0xAF:
            return "bergamo"
        if family == 0x1A and model <= 0x0F:
            return "turin"
        if family == 0x1A and model <= 0x1F:
            return "turin-dense"
        return f"family {family:#x} model {model:#x}"


def tcb_components(tcb: bytes, generation: str) -> tuple[tuple[str, int], ...]:
    """The components of a TCB version, which Turin arranges otherwise than Milan and Genoa."""
    if generation == "turin":
        names: tuple[str | None, ...] = ("fmc", "bootloader", "tee", "snp", None, None, None, "microcode")
    else:
        names = ("bootloader", "tee", None, None, None, None, "snp", "microcode")
    return tuple((name, version) for name, version in zip(names, tcb, strict=True) if name)


def read_report(data: bytes) -> SnpReport:
    """Read a report; raises ``evidence_unreadable`` for everything that this version does not know, reserved
    bits included, since their meaning might be the one that matters."""
    if len(data) != REPORT_BYTES:
        raise unreadable("SEV-SNP report", f"{REPORT_BYTES} bytes", str(len(data)))
    version, guest_svn, policy = struct.unpack_from("<IIQ", data)
    if version not in _VERSIONS:
        raise unreadable("SEV-SNP report, version", "2 to 5", str(version))
    vmpl, algorithm = struct.unpack_from("<II", data, 0x30)
    if algorithm != _ECDSA_P384_SHA384:
        raise unreadable(
            "SEV-SNP report, signature algorithm", "1 (ECDSA P-384 with SHA-384)", str(algorithm)
        )
    (platform_info, key_info, reserved) = struct.unpack_from("<QII", data, 0x40)
    if key_info >> 5 or reserved:
        raise unreadable("SEV-SNP report, key information", "reserved bits of zero", f"{key_info:#x}")
    if key_info & 2 or key_info >> 2 & 7 not in _SIGNING_KEYS:
        raise unreadable("SEV-SNP report, signing key", "VCEK or VLEK", "none: the report is not signed")
    if not policy & _POLICY_RESERVED_ONE:
        raise unreadable("SEV-SNP report, guest policy", "bit 17 set", f"{policy:#x}")
    cpuid = (data[0x188], data[0x189], data[0x18A]) if version >= 3 else None
    _zero(data, 0x188 if cpuid is None else 0x18B, 0x1A0)
    _zero(data, 0x1EB, 0x1EC)
    _zero(data, 0x1EF, 0x1F0)
    mitigations = struct.unpack_from("<QQ", data, 0x1F8) if version >= 4 else None
    _zero(data, 0x1F8 if mitigations is None else 0x208, SIGNED_BYTES)
    _zero(data, SIGNED_BYTES + 48, SIGNED_BYTES + 72)
    _zero(data, SIGNED_BYTES + 120, REPORT_BYTES)
    return SnpReport(
        version,
        guest_svn,
        policy,
        data[0x10:0x20],
        data[0x20:0x30],
        vmpl,
        data[0x38:0x40],
        platform_info,
        _SIGNING_KEYS[key_info >> 2 & 7],
        data[0x50:0x90],
        data[0x90:0xC0],
        data[0xC0:0xE0],
        data[0xE0:0x110],
        data[0x110:0x140],
        data[0x160:0x180],
        data[0x180:0x188],
        cpuid,
        data[0x1A0:0x1E0],
        data[0x1E0:0x1E8],
        data[0x1F0:0x1F8],
        mitigations,
        data[:SIGNED_BYTES],
        (
            int.from_bytes(data[SIGNED_BYTES : SIGNED_BYTES + 48], "little"),
            int.from_bytes(data[SIGNED_BYTES + 72 : SIGNED_BYTES + 120], "little"),
        ),
    )


def _zero(data: bytes, start: int, end: int) -> None:
    if any(data[start:end]):
        raise unreadable(f"SEV-SNP report, bytes {start:#x} to {end:#x}", "zero (reserved)", "something else")
