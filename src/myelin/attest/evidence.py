"""The envelope that all evidence comes in: a CMW record (RFC 9999), a CBOR array ``[media type, bytes]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from myelin.attest.kind import MEDIA_TYPES, RealEvidence, unreadable
from myelin.attest.wrapping import unwrapped
from myelin.errors import ProtocolError
from myelin.wire import Shape, decode, encode

__all__ = ["MOST_EVIDENCE_BYTES", "Evidence"]

MOST_EVIDENCE_BYTES = 256 << 10
"""Longest envelope that is looked at."""

_REFUSAL = "evidence_unreadable"


@dataclass(frozen=True)
class Evidence:
    """An attester's claim about itself, not yet believed: its media type and its bytes."""

    media_type: str
    body: bytes

    @classmethod
    def from_cmw(cls, data: bytes) -> Evidence:
        """Open an envelope; raises ``evidence_unreadable`` or ``oversized_message``."""
        shape = Shape(_REFUSAL, _REFUSAL)
        value = decode(data, most_bytes=MOST_EVIDENCE_BYTES, refusal=_REFUSAL, what="evidence")
        array = shape.array(value, "evidence", size=2)
        return cls(
            shape.text(array[0], "evidence, media type", most=128),
            shape.bytes(array[1], "evidence, body", most=MOST_EVIDENCE_BYTES),
        )

    @classmethod
    def from_file(cls, data: bytes, kind: RealEvidence | None = None) -> Evidence:
        """Take a file as it comes: an envelope, or what a vendor's tool wrote, of ``kind`` or by its shape.

        Raises ``evidence_unreadable`` or ``oversized_message``. A guess is no more than that: the kind's
        verifier reads the bytes strictly, and each kind's bytes are refused by every other.
        """
        try:
            envelope = cls.from_cmw(data)
        except ProtocolError as error:
            if error.name != _REFUSAL:
                raise
            guessed = kind or _guess(data)
            if guessed is None:
                raise unreadable("evidence", "an envelope, or a known vendor's file", "neither") from None
            return cls(MEDIA_TYPES[guessed], unwrapped(guessed, data))
        if kind is not None and envelope.media_type != MEDIA_TYPES[kind]:
            raise unreadable("evidence, media type", MEDIA_TYPES[kind], envelope.media_type)
        return envelope

    def to_cmw(self) -> bytes:
        """The envelope's bytes."""
        return encode([self.media_type, self.body])


def _guess(data: bytes) -> RealEvidence | None:
    """The kind that a file looks like, by its first bytes and its length."""
    head = data[:8]
    if head[2:4] == b"\x02\0" and head[:2] in (b"\x03\0", b"\x04\0", b"\x05\0"):
        return {b"\0\0\0\0": RealEvidence.SGX, b"\x81\0\0\0": RealEvidence.TDX}.get(head[4:8])
    if len(data) == 1184 and head[1:4] == bytes(3):
        return RealEvidence.SEV_SNP
    if re.match(rb"(?s)(?:.{4})?(?:\xd2)?\x84\x44\xa1\x01\x38\x22", data[:16]):
        return RealEvidence.NITRO
    if head[:1] == b"{" and b'"quote"' in data and b'"report"' in data:
        return RealEvidence.AZURE_SNP
    if head[:2] == b"\x11\xe0" or re.match(rb"(?i)\s*11e0[0-9a-f]+", data[:64]):
        return RealEvidence.NVIDIA
    return None
