"""The envelope that all evidence comes in: a CMW record (RFC 9999), a CBOR array ``[media type, bytes]``."""

from __future__ import annotations

from dataclasses import dataclass

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

    def to_cmw(self) -> bytes:
        """The envelope's bytes."""
        return encode([self.media_type, self.body])
