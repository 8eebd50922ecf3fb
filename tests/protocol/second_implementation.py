"""Protocol sections 1 to 9 once more, from ``cbor2`` and ``cryptography`` alone: nothing of Myelin is used.

What the Rust crates make is opened by this, and what this makes is opened by them, so that a mistake must be
made twice to go unseen.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
P256 = ec.SECP256R1()
CHUNK_BYTES = 65536


def cbor(value: object) -> bytes:
    return cbor2.dumps(value, canonical=True)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, info).derive(key)


def _to_be_signed(content_type: str, payload: bytes) -> tuple[bytes, bytes]:
    protected = cbor({1: -7, 3: content_type})
    return protected, cbor(["Signature1", protected, b"", payload])


def sign(
    key: ec.EllipticCurvePrivateKey, content_type: str, payload: bytes, *, detached: bool = False
) -> bytes:
    protected, signed = _to_be_signed(content_type, payload)
    r, s = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return cbor([protected, {}, None if detached else payload, raw])


def verify(public: bytes, content_type: str, sign1: bytes) -> bytes:
    protected, unprotected, payload, raw = cbor2.loads(sign1)
    expected, signed = _to_be_signed(content_type, payload)
    assert (protected, unprotected, len(raw)) == (expected, {}, 64)
    der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key = ec.EllipticCurvePublicKey.from_encoded_point(P256, public)
    key.verify(der, signed, ec.ECDSA(hashes.SHA256()))
    return bytes(payload)


def seal_to(public: bytes, info: list[object], plain: bytes) -> bytes:
    mlkem = MLKEM768PublicKey.from_public_bytes(public[:1184])
    x25519 = X25519PublicKey.from_public_bytes(public[1184:])
    return SUITE.encrypt(plain, MLKEM768X25519PublicKey(mlkem, x25519), cbor(info))


@dataclass
class Party:
    """A party with its keys; an owner also has a data key, and keeps what its broker is given."""

    name: str
    role: str
    signing: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(P256))
    mlkem: MLKEM768PrivateKey = field(default_factory=MLKEM768PrivateKey.generate)
    x25519: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    share: dict[str, bytes] | None = None

    @property
    def data_key(self) -> bytes:
        return sha256(self.name.encode())

    @property
    def signing_key(self) -> bytes:
        return self.signing.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    @property
    def sealing_key(self) -> bytes:
        return self.mlkem.public_key().public_bytes_raw() + self.x25519.public_key().public_bytes_raw()

    def open(self, info: list[object], sealed: bytes) -> bytes:
        return SUITE.decrypt(sealed, MLKEM768X25519PrivateKey(self.mlkem, self.x25519), cbor(info))


@dataclass(frozen=True)
class SealedFile:
    prefix: bytes
    chunks: list[bytes]
    plain: bytes
    records: int

    @property
    def digest(self) -> bytes:
        return sha256(self.prefix + b"".join(self.chunks))


def seal_dataset(data_key: bytes, plain: bytes, record_bytes: int, schema: bytes, salt: bytes) -> SealedFile:
    records = len(plain) // record_bytes
    header = cbor(
        {
            "version": 1,
            "schema": schema,
            "records": records,
            "record_bytes": record_bytes,
            "chunk_bytes": CHUNK_BYTES,
            "salt": salt,
            "commitment": hkdf(data_key, salt, cbor(["myelin/dataset-key/v1"])),
        }
    )
    cipher = ChaCha20Poly1305(hkdf(data_key, salt, cbor(["myelin/dataset/v1", sha256(header)])))
    pieces = [plain[i : i + CHUNK_BYTES] for i in range(0, len(plain), CHUNK_BYTES)]
    chunks = [
        cipher.encrypt(bytes(7) + struct.pack(">IB", i, i == len(pieces) - 1), piece, None)
        for i, piece in enumerate(pieces)
    ]
    return SealedFile(b"MYELDS01" + struct.pack("<I", len(header)) + header, chunks, plain, records)


def report_data(purpose: int, nonce: bytes, *bound: bytes) -> bytes:
    """``bound``: HPKE key, signing key, measurement, contract digest, policy digest."""
    return hashlib.sha512(cbor(["myelin/report/v1", purpose, nonce, *bound])).digest()


def open_evidence(cmw: bytes) -> dict[str, bytes]:
    media_type, body = cbor2.loads(cmw)
    assert media_type == "application/vnd.myelin.simulated-evidence+cbor"
    claims = cbor2.loads(cbor2.loads(body)[2])
    assert verify(claims["key"], media_type, body)
    assert sorted(claims) == ["key", "measurement", "report_data"]
    return claims


def join_shares(shares: list[bytes]) -> bytes:
    key = bytes(32)
    for share in shares:
        key = bytes(a ^ b for a, b in zip(key, share, strict=True))
    return key


def is_check_of(check: bytes, job_key: bytes, contract: bytes) -> bool:
    return hmac.compare_digest(check, hkdf(job_key, contract, b"myelin/job-key-check/v1"))


def run_keys(
    job_key: bytes, measurement: bytes, contract: bytes, datasets: list[bytes]
) -> tuple[bytes, bytes, bytes, bytes]:
    transcript = sha256(cbor(["myelin/transcript/v1", measurement, contract, datasets]))
    return (
        hkdf(job_key, transcript, b"myelin/sampling/v1"),
        hkdf(job_key, transcript, b"myelin/noise/v1"),
        hkdf(job_key, transcript, b"myelin/dropout/v1"),
        hkdf(job_key, transcript, b"myelin/augment/v1"),
    )
