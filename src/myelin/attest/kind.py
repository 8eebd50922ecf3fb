"""What all kinds of hardware evidence have in common: names, claims, and the signature of a verifier.

There is one file per kind (``intel.py``, ``snp.py``, …). Its verifier reads the evidence, checks the
vendor's signatures and whatever only this vendor has, and gives :class:`Claims`. What the relying party
wants of every kind alike (measurement, report data, no debugging, TCB, platform, ages) is compared with
the claims in ``appraise.py``, once.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from myelin.attest.check import Check
from myelin.attest.roots import PINNED_ROOTS, Roots
from myelin.errors import ProtocolError

if TYPE_CHECKING:
    from myelin.attest.policy import Policy

__all__ = [
    "MEDIA_TYPES",
    "REGISTERS",
    "Claims",
    "HexBytes",
    "KindVerifier",
    "Measurement",
    "RealEvidence",
    "ReferenceValues",
    "unreadable",
]


class RealEvidence(enum.Enum):
    """Kinds of evidence that hardware signs. Simulated evidence is not one of them and cannot become
    one."""

    AZURE_SNP = "azure-snp"
    NITRO = "nitro"
    NVIDIA = "nvidia"
    SEV_SNP = "sev-snp"
    SGX = "sgx"
    TDX = "tdx"
    TPM = "tpm"


MEDIA_TYPES: Mapping[RealEvidence, str] = MappingProxyType(
    {
        RealEvidence.AZURE_SNP: "application/vnd.myelin.azure-snp-vtpm+json",
        RealEvidence.NITRO: "application/vnd.myelin.nitro-document+cbor",
        RealEvidence.NVIDIA: "application/vnd.myelin.nvidia-gpu-report",
        RealEvidence.SEV_SNP: "application/vnd.myelin.sev-snp-report",
        RealEvidence.SGX: "application/vnd.myelin.sgx-quote",
        RealEvidence.TDX: "application/vnd.myelin.tdx-quote",
        RealEvidence.TPM: "application/vnd.myelin.tpm-quote+cbor",
    }
)
"""The media type that each kind's evidence has in its envelope."""

REGISTERS: Mapping[RealEvidence, tuple[str, ...]] = MappingProxyType(
    {
        RealEvidence.AZURE_SNP: ("measurement", "pcr4", "pcr9"),
        RealEvidence.NITRO: ("pcr0", "pcr1", "pcr2"),
        RealEvidence.NVIDIA: ("driver_version", "vbios_version"),
        RealEvidence.SEV_SNP: ("measurement",),
        RealEvidence.SGX: ("mrenclave",),
        RealEvidence.TDX: ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"),
        RealEvidence.TPM: ("pcr0", "pcr4", "pcr9"),
    }
)
"""The registers that a reference value of each kind must name. Without one of them, something that runs
beside or under the image would be anybody's choice. A reference value may name more."""


_MOST_REGISTERS = 256


def _from_hex(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"(?:[0-9a-f]{2})+", value):
        raise ValueError("expected bytes in lower-case hex")
    return bytes.fromhex(value)


HexBytes = Annotated[bytes, BeforeValidator(_from_hex), Field(strict=True, min_length=1, max_length=512)]
"""Bytes, which a TOML file writes in lower-case hex."""

_RegisterName = Annotated[str, Field(strict=True, pattern="^[a-z][a-z0-9_]{0,31}$")]


def _from_table(value: object) -> object:
    """Rows of a table; a name with a list of values becomes as many rows."""
    if not isinstance(value, Mapping):
        return value
    return tuple(
        (name, one)
        for name, many in sorted(value.items())
        for one in (many if isinstance(many, list | tuple) else [many])
    )


class Measurement(BaseModel):
    """A reference value: the registers of one build, in full, and the least security version it may have.

    ``registers`` may be given as a mapping. A GPU's block may be named several times, as NVIDIA gives
    alternatives: any of the values will do. No other kind may, since one build has one value. ``image`` is
    the digest of the Myelin image that this build runs, as a contract names it; a GPU's report has none,
    since it stands beside the evidence of the machine that runs the image, and never for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: RealEvidence
    registers: Annotated[
        tuple[tuple[_RegisterName, HexBytes], ...],
        BeforeValidator(_from_table),
        Field(max_length=_MOST_REGISTERS),
    ]
    minimum_security_version: Annotated[int, Field(strict=True, ge=0, le=0xFFFFFFFF)] = 0
    image: Annotated[HexBytes, Field(min_length=32, max_length=32)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Measurement:
        names = [name for name, _ in self.registers]
        missing = [name for name in REGISTERS[self.kind] if name not in names]
        if missing:
            raise ValueError(f"a {self.kind.value} measurement needs the register {missing[0]!r}")
        if self.image is not None and self.kind is RealEvidence.NVIDIA:
            raise ValueError(
                "a GPU's report says nothing about an image: anybody on its host can ask for one"
            )
        single = [
            name for name in names if self.kind is not RealEvidence.NVIDIA or not name.startswith("block")
        ]
        if len(set(single)) != len(single) or len(set(self.registers)) != len(self.registers):
            raise ValueError("a register is named twice")
        return self

    def differing(self, got: Mapping[str, bytes]) -> list[str]:
        """The names of the registers that have none of this build's values."""
        wanted: dict[str, set[bytes]] = {}
        for name, value in self.registers:
            wanted.setdefault(name, set()).add(value)
        return [name for name, values in wanted.items() if got.get(name) not in values]


@dataclass(frozen=True)
class ReferenceValues:
    """What the relying party expects: images that it accepts, and bytes that the evidence must be bound to.

    Several ``report_data`` are given only where the relying party cannot know which of its own policies
    the evidence was asked for under; each is computed by the relying party itself. ``measurements`` holds
    digests of Myelin images; ``None`` says that hardware registers alone decide. ``known`` adds to the
    policy's own reference values for hardware registers.
    """

    measurements: frozenset[bytes] | None
    report_data: tuple[bytes, ...]
    known: tuple[Measurement, ...] = ()


@dataclass(frozen=True)
class Claims:
    """What hardware evidence says, once its kind's verifier has read it. No field has a default: a kind
    that has no such thing says so with ``None`` or an empty tuple, and never by leaving it out.

    Args:
        kind: the kind of evidence.
        trust_anchor: whose word all of this is, for people (``"AMD ARK-Milan"``).
        registers: every measurement in the evidence, by its name in :data:`REGISTERS` or any other.
        report_data: what the attester bound, by the name of the slot (``report_data``, ``user_data``,
            ``nonce``); only slots that the measured code chooses.
        debug: whether anybody may look inside or change the state (a debug bit, PCRs of zero).
        platform_id: what names the one machine (PPID, chip id, digest of the attestation key), or ``None``.
        security_version: the build's own version (ISVSVN, guest SVN), or ``None`` if the kind has none.
        product: the vendor's product line (``milan``), which minimum TCB versions go by, or empty.
        tcb: the versions of the platform's components, by name; empty if the kind has none.
        tcb_status: the vendor's own judgement (``UpToDate``), or ``None`` if the vendor gives none.
        advisories: the vendor's open advisories about this platform.
        issued_s: when the evidence says that it was made, or ``None``: then only the nonce shows freshness.
        collateral_issued_s: when the oldest of the dated endorsements (TCB info, identities, revocation
            lists) was issued, or ``None`` if the vendor issues none.
    """

    kind: RealEvidence
    trust_anchor: str
    registers: tuple[tuple[str, bytes], ...]
    report_data: tuple[tuple[str, bytes], ...]
    debug: bool
    platform_id: bytes | None
    security_version: int | None
    product: str
    tcb: tuple[tuple[str, int], ...]
    tcb_status: str | None
    advisories: tuple[str, ...]
    issued_s: int | None
    collateral_issued_s: int | None


class KindVerifier(Protocol):
    """The signature of every kind's verifier, a pure function: no network, no clock, no file.

    Gives the claims and the kind's own checks. Raises ``evidence_unreadable`` (:func:`unreadable`) if
    ``evidence`` has not its form, and nothing else whatever the bytes are. All else that is wrong,
    endorsements missing, unreadable or out of date among it, is a failed check; the claims are ``None``
    only when they cannot be known. ``danger_roots`` replaces the pinned roots, for tests with roots of
    their own; nothing in the package passes it but
    :func:`myelin.attest.appraise.danger_appraise_with_roots`.
    """

    def __call__(
        self,
        evidence: bytes,
        endorsements: tuple[bytes, ...],
        reference_values: ReferenceValues,
        policy: Policy,
        now_s: int,
        *,
        danger_roots: Roots = PINNED_ROOTS,
    ) -> tuple[Claims | None, tuple[Check, ...]]:
        """Read the evidence and check what only its vendor has."""
        ...  # pragma: no cover


def unreadable(what: str, expected: str, got: str) -> ProtocolError:
    """Make the error for evidence that has not its form: the field, what was expected, what was got."""
    return ProtocolError.named("evidence_unreadable", f"{what}: expected {expected}, got {got}")
