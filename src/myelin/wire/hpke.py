"""HPKE base mode (RFC 9180) with X-Wing, HKDF-SHA256 and ChaCha20-Poly1305: sealing to a public key.

One message is ``enc (1120 bytes) ‖ ciphertext``; everything that it is bound to goes into ``info``.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from myelin.errors import ProtocolError

__all__ = [
    "SEALING_KEY_BYTES",
    "SEALING_OVERHEAD_BYTES",
    "SealingKey",
    "open_sealed",
    "seal_to",
    "sealing_key",
]

SealingKey = MLKEM768X25519PrivateKey
"""Private half of an X-Wing key pair."""

SEALING_KEY_BYTES = 1216
"""``ML-KEM-768 (1184) ‖ X25519 (32)``."""

SEALING_OVERHEAD_BYTES = 1120 + 16
"""What sealing adds to the length of a plaintext."""

_MLKEM_BYTES = 1184
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def sealing_key(public_key: bytes, *, refusal: str, what: str) -> MLKEM768X25519PublicKey:
    """Read a 1,216-byte X-Wing public key; raises the protocol error named ``refusal`` if it is none."""
    try:
        if len(public_key) != SEALING_KEY_BYTES:
            raise ValueError("length")
        mlkem = MLKEM768PublicKey.from_public_bytes(public_key[:_MLKEM_BYTES])
        x25519 = X25519PublicKey.from_public_bytes(public_key[_MLKEM_BYTES:])
    except ValueError:
        raise ProtocolError.named(
            refusal, f"{what} is no X-Wing public key of {SEALING_KEY_BYTES} bytes"
        ) from None
    return MLKEM768X25519PublicKey(mlkem, x25519)


def seal_to(public_key: bytes, plaintext: bytes, info: bytes, *, what: str = "recipient's key") -> bytes:
    """Seal ``plaintext`` to a public key, bound to ``info``."""
    key = sealing_key(public_key, refusal="malformed_message", what=what)
    try:
        return _SUITE.encrypt(plaintext, key, info)
    except ValueError:  # an X25519 point of small order
        raise ProtocolError.named("malformed_message", f"{what} cannot be sealed to") from None


def open_sealed(key: SealingKey, sealed: bytes, info: bytes, *, refusal: str, what: str) -> bytes:
    """Open what was sealed to ``key`` and bound to ``info``; raises the protocol error named ``refusal``."""
    try:
        if len(sealed) < SEALING_OVERHEAD_BYTES:
            raise InvalidTag
        return _SUITE.decrypt(sealed, key, info)
    except (InvalidTag, ValueError):
        raise ProtocolError.named(
            refusal, f"{what} does not open with this key (another key, another place, or altered bytes)"
        ) from None
