"""Certificates under keys of the tests' own: valid, or wrong in exactly one way."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from myelin.attest.roots import PinnedCertificate
from vendors import der

FROM_S, UNTIL_S = 1_700_000_000, 2_000_000_000
BASIC_CONSTRAINTS, KEY_USAGE = "2.5.29.19", "2.5.29.15"
ECDSA_SHA256, ECDSA_SHA384 = "1.2.840.10045.4.3.2", "1.2.840.10045.4.3.3"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def authority_extensions(
    path_length: int | None = None, *, usage: int = 0x06
) -> dict[str, tuple[bool, bytes]]:
    """What lets a certificate issue others."""
    length = [] if path_length is None else [der.integer(path_length)]
    return {
        BASIC_CONSTRAINTS: (True, der.sequence(der.boolean(True), *length)),
        KEY_USAGE: (True, der.bits(bytes([usage]), 1)),
    }


@dataclass(frozen=True)
class Holder:
    """A certificate and the key that it is for."""

    common_name: str
    key: PrivateKey
    certificate: bytes

    def pinned(self, vendor: str, product: str = "") -> PinnedCertificate:
        return PinnedCertificate(vendor, self.common_name, product, self.certificate)

    def pem(self) -> bytes:
        return pem(self.certificate)


def pem(certificate: bytes) -> bytes:
    encoded = base64.b64encode(certificate)
    lines = [encoded[at : at + 64] for at in range(0, len(encoded), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def sign(key: PrivateKey, data: bytes) -> bytes:
    """ECDSA with the hash of the curve's size, or RSA-PSS with SHA-384 as AMD does."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA384() if key.key_size > 256 else hashes.SHA256()))
    return key.sign(data, padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48), hashes.SHA384())


def algorithm(key: PrivateKey) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return der.sequence(der.oid(ECDSA_SHA384 if key.key_size > 256 else ECDSA_SHA256))
    return der.RSA_PSS_SHA384


def issue(
    common_name: str,
    key: PrivateKey,
    issuer: Holder | None,
    extensions: dict[str, tuple[bool, bytes]],
    *,
    serial: int = 1,
    valid: tuple[int, int] = (FROM_S, UNTIL_S),
    issuer_name: str | None = None,
) -> Holder:
    """Certify a key; without an issuer, by itself."""
    signer = issuer.key if issuer is not None else key
    by = issuer_name or (issuer.common_name if issuer is not None else common_name)
    listed = [
        der.sequence(der.oid(oid), *([der.boolean(True)] if critical else []), der.octets(value))
        for oid, (critical, value) in extensions.items()
    ]
    tbs = der.sequence(
        der.tlv(0xA0, der.integer(2)),
        der.integer(serial),
        algorithm(signer),
        der.name(by),
        der.sequence(der.time(valid[0]), der.time(valid[1])),
        der.name(common_name),
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        der.tlv(0xA3, der.sequence(*listed)),
    )
    return Holder(common_name, key, der.sequence(tbs, algorithm(signer), der.bits(sign(signer, tbs))))
