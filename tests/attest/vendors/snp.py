"""SEV-SNP reports and AMD-shaped certificates under an ARK of the tests' own."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from myelin.attest.roots import Roots
from vendors import der
from vendors.authority import Holder, authority_extensions, issue
from vendors.revocation import revocation_list

AMD = "1.3.6.1.4.1.3704.1."
CPUS = {
    "milan": (0x19, 0x01, 1),
    "genoa": (0x19, 0x11, 1),
    "genoa-x": (0x19, 0x11, 2),
    "turin": (0x1A, 0x02, 1),
}
TCB = {"fmc": 1, "bootloader": 9, "tee": 1, "snp": 30, "microcode": 90}
GOOD_POLICY = 1 << 17
LISTED_S = 1_789_500_000
ALIAS_CHECK = 1 << 5


@cache
def key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def ark(generation: str) -> Holder:
    return issue(f"ARK-{generation.title()}", key(f"ark {generation}"), None, authority_extensions())


@cache
def ask(generation: str, name: str = "SEV") -> Holder:
    """The intermediate: ASK, or with ``SEV-VLEK`` the ASVK."""
    extensions = authority_extensions(0)
    return issue(f"{name}-{generation.title()}", key(f"{name} {generation}"), ark(generation), extensions)


def roots() -> Roots:
    generations = ("milan", "genoa", "turin")
    return Roots(
        tuple(ark(generation).pinned("amd", generation) for generation in generations),
        tuple(ask(generation).pinned("amd", generation) for generation in generations),
    )


def tcb_bytes(generation: str, tcb: dict[str, int]) -> bytes:
    if generation == "turin":
        return bytes([tcb["fmc"], tcb["bootloader"], tcb["tee"], tcb["snp"], 0, 0, 0, tcb["microcode"]])
    return bytes([tcb["bootloader"], tcb["tee"], 0, 0, 0, 0, tcb["snp"], tcb["microcode"]])


@dataclass
class Machine:
    """One chip with its firmware, which signs any report."""

    product: str = "genoa"
    tcb: dict[str, int] = field(default_factory=lambda: dict(TCB))
    certified: dict[str, int] = field(default_factory=dict)
    certified_product: str | None = None
    certified_chip: bytes | None = None
    vlek: bool = False
    issuer: Holder | None = None
    serial: int = 0

    def __post_init__(self) -> None:
        self.generation = {"genoa-x": "genoa"}.get(self.product, self.product)
        short = self.generation == "turin"
        self.chip_id = bytes(range(1, 9 if short else 65)).ljust(64, b"\0")
        self.key = ec.generate_private_key(ec.SECP384R1())

    def certificate(self) -> bytes:
        names = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
        certified = {**self.tcb, **self.certified}
        extensions = {
            AMD + oid: (False, der.integer(certified[component]))
            for component, oid in names.items()
            if component != "fmc" or self.generation == "turin"
        }
        product = self.certified_product or self.generation.title()
        extensions[AMD + "2"] = (False, der.ia5(product))
        if self.vlek:
            extensions[AMD + "5"] = (False, der.ia5("a cloud"))
        else:
            chip = self.chip_id[:8] if self.generation == "turin" else self.chip_id
            extensions[AMD + "4"] = (False, chip if self.certified_chip is None else self.certified_chip)
        issuer = self.issuer or ask(self.generation, "SEV-VLEK" if self.vlek else "SEV")
        name = "SEV-VLEK" if self.vlek else "SEV-VCEK"
        return issue(name, self.key, issuer, extensions, serial=self.serial).certificate

    def endorsements(self, *, listed_s: int = LISTED_S) -> tuple[bytes, ...]:
        """The key's certificate, its issuer's where the package has none, and the root's revocation list."""
        asvk = (ask(self.generation, "SEV-VLEK").pem(),) if self.vlek else ()
        return (self.certificate(), *asvk, self.revocation_list(listed_s=listed_s))

    def revocation_list(self, *revoked: int, listed_s: int = LISTED_S) -> bytes:
        return revocation_list(ark(self.generation), revoked, listed_s)

    def report(
        self,
        *,
        version: int = 5,
        policy: int = GOOD_POLICY,
        platform_info: int = ALIAS_CHECK,
        vmpl: int = 0,
        report_data: bytes = bytes(range(64)),
        measurement: bytes = b"m" * 48,
        guest_svn: int = 7,
        key_info: int | None = None,
        mitigations: tuple[int, int] = (0, 0),
        **other_tcbs: dict[str, int],
    ) -> bytes:
        """A signed report; ``current``, ``committed`` and ``launch`` may be other TCB versions."""
        tcbs = dict.fromkeys(("current", "reported", "committed", "launch"), self.tcb)
        packed = {name: tcb_bytes(self.generation, other_tcbs.get(name, tcb)) for name, tcb in tcbs.items()}
        data = bytearray(1184)
        struct.pack_into("<IIQ", data, 0, version, guest_svn, policy)
        struct.pack_into("<II8sQI", data, 0x30, vmpl, 1, packed["current"], platform_info,
                         (4 if self.vlek else 0) if key_info is None else key_info)  # fmt: skip
        data[0x50:0x90] = report_data
        data[0x90:0xC0] = measurement
        data[0x160:0x180] = b"\xff" * 32
        data[0x180:0x188] = packed["reported"]
        if version >= 3:
            data[0x188:0x18B] = bytes(CPUS[self.product])
        data[0x1A0:0x1E0] = self.chip_id
        data[0x1E0:0x1E8] = packed["committed"]
        data[0x1F0:0x1F8] = packed["launch"]
        if version >= 4:
            struct.pack_into("<QQ", data, 0x1F8, *mitigations)
        return self.signed(bytes(data))

    def signed(self, report: bytes) -> bytes:
        """Sign a report, whatever is in it."""
        r, s = decode_dss_signature(self.key.sign(report[:672], ec.ECDSA(hashes.SHA384())))
        return report[:672] + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)
