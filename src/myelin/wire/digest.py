"""Digests and context strings, as ``docs/protocol.md`` defines them."""

from __future__ import annotations

import hashlib

from myelin.wire.cbor import encode

__all__ = ["DIGEST_BYTES", "boot_id", "digest", "info", "report_data"]

DIGEST_BYTES = 32
"""Length of every digest (SHA-256)."""


def digest(data: bytes) -> bytes:
    """SHA-256 of ``data``; for a value, of its deterministic CBOR."""
    return hashlib.sha256(data).digest()


def info(label: str, *fields: object) -> bytes:
    """Deterministic CBOR of ``[label, fields…]``: what separates one use of a primitive from another."""
    return encode([label, *fields])


def boot_id(hpke_key: bytes, signing_key: bytes) -> bytes:
    """Name of one start of an enclave, from the two public keys that it drew then (32 bytes)."""
    return digest(info("myelin/boot/v1", hpke_key, signing_key))


def report_data(
    purpose: int,
    *,
    nonce: bytes,
    hpke_key: bytes,
    signing_key: bytes,
    measurement: bytes,
    contract: bytes,
    policy: bytes,
) -> bytes:
    """The 64 bytes that evidence must carry (protocol section 3).

    ``purpose`` 0 is key release, 1 is a certificate. ``contract`` and ``policy`` are digests.
    """
    fields = ["myelin/report/v1", purpose, nonce, hpke_key, signing_key, measurement, contract, policy]
    return hashlib.sha512(encode(fields)).digest()
