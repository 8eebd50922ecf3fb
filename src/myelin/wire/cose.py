"""COSE_Sign1 with ES256 (RFC 9052, RFC 9053), in the one form that the protocol allows.

Protected header ``{1: -7, 3: content type}``, empty unprotected header, empty external data, an untagged
array of four. The content type is part of what is signed, so a signature for one kind of document is none
for another.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from myelin.errors import ProtocolError
from myelin.wire.cbor import MOST_BYTES, decode, encode
from myelin.wire.shape import Shape

__all__ = ["SIGNATURE_BYTES", "SIGNING_KEY_BYTES", "sign1", "signed_payload", "verify1"]

SIGNING_KEY_BYTES = 65
"""An uncompressed SEC1 P-256 public key."""

SIGNATURE_BYTES = 64
"""``r ‖ s``."""


def _protected(content_type: str) -> bytes:
    return encode({1: -7, 3: content_type})


def _signed_bytes(content_type: str, payload: bytes) -> bytes:
    return encode(["Signature1", _protected(content_type), b"", payload])


def sign1(
    payload: bytes, content_type: str, key: ec.EllipticCurvePrivateKey, *, detached: bool = False
) -> bytes:
    """Sign ``payload``; with ``detached`` the array holds ``nil`` in its place.

    The nonce of ECDSA is derived as in RFC 6979, so a poor random generator cannot give the key away.
    """
    der = key.sign(
        _signed_bytes(content_type, payload), ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    )
    r, s = decode_dss_signature(der)
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return encode([_protected(content_type), {}, None if detached else payload, signature])


def verify1(
    data: bytes,
    content_type: str,
    public_key: bytes,
    *,
    payload: bytes | None = None,
    most_bytes: int = MOST_BYTES,
    malformed: str = "malformed_message",
    invalid: str = "signature_invalid",
    what: str = "signature",
) -> bytes:
    """Check a COSE_Sign1 against a 65-byte P-256 key and give back the signed payload.

    With ``payload`` the signature must be detached. Raises the protocol error named ``malformed`` for a wrong
    form, ``invalid`` for a wrong content type, key or signature.
    """
    shape = Shape(malformed, malformed)
    array = shape.array(decode(data, most_bytes=most_bytes, refusal=malformed, what=what), what, size=4)
    protected = shape.bytes(array[0], f"{what}, protected header", most=128)
    shape.map(array[1], f"{what}, unprotected header", ())
    if payload is None:
        payload = shape.bytes(array[2], f"{what}, payload", most=most_bytes)
    elif array[2] is not None:
        raise shape.refuse(f"{what}, payload", "nil (detached)", "a payload")
    signature = shape.bytes(array[3], f"{what}, signature bytes", size=SIGNATURE_BYTES)
    if protected != _protected(content_type):
        raise ProtocolError.named(
            invalid, f"{what}: expected the protected header of ES256 and {content_type}"
        )
    try:
        if len(public_key) != SIGNING_KEY_BYTES:
            raise ValueError("length")
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
    except ValueError:
        raise ProtocolError.named(invalid, f"{what}: the public key is no P-256 point") from None
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(
            encode_dss_signature(r, s), _signed_bytes(content_type, payload), ec.ECDSA(hashes.SHA256())
        )
    except InvalidSignature:
        raise ProtocolError.named(
            invalid, f"{what} does not verify with the key that should have made it"
        ) from None
    return payload


def signed_payload(data: bytes, *, malformed: str = "malformed_message", what: str = "signature") -> bytes:
    """Payload of a COSE_Sign1 whose signature is **not checked**: to find in it the key to check it with."""
    shape = Shape(malformed, malformed)
    array = shape.array(decode(data, refusal=malformed, what=what), what, size=4)
    return shape.bytes(array[2], f"{what}, payload", most=MOST_BYTES)
