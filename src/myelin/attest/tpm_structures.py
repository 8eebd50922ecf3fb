"""What a TPM 2.0 signs and signs with, read from its own encoding (TPM 2.0 Library, Part 2: Structures).

Only what a quote needs: ``TPMS_ATTEST`` of a quote, ``TPMT_PUBLIC`` of a signing key, ``TPMT_SIGNATURE``.
SHA-1 is refused everywhere, as are selections of several banks: one quote is about one bank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from myelin.attest.kind import unreadable
from myelin.attest.octets import Octets

__all__ = [
    "HASH_BYTES",
    "HASH_NAMES",
    "MOST_PCRS",
    "TpmPublic",
    "TpmQuote",
    "TpmSignature",
    "quote_signature_verifies",
    "rsa_public_key",
]

MOST_PCRS = 24
"""Registers that a PC's TPM has."""

SHA256, SHA384, SHA512 = 0x000B, 0x000C, 0x000D
HASH_NAMES: Mapping[int, str] = MappingProxyType({SHA256: "sha256", SHA384: "sha384", SHA512: "sha512"})
"""The digests that are accepted, by the TPM's number for them."""

HASH_BYTES: Mapping[int, int] = MappingProxyType({SHA256: 32, SHA384: 48, SHA512: 64})
"""How long each is."""

_HASHES: Mapping[int, type[hashes.HashAlgorithm]] = MappingProxyType(
    {SHA256: hashes.SHA256, SHA384: hashes.SHA384, SHA512: hashes.SHA512}
)
_GENERATED = bytes.fromhex("ff544347")
_ATTEST_QUOTE = bytes.fromhex("8018")
_RSA, _ECC, _NULL = 0x0001, 0x0023, 0x0010
_RSASSA, _RSAPSS, _ECDSA = 0x0014, 0x0016, 0x0018
_CURVES: Mapping[int, tuple[ec.EllipticCurve, int]] = MappingProxyType(
    {0x0003: (ec.SECP256R1(), 32), 0x0004: (ec.SECP384R1(), 48), 0x0005: (ec.SECP521R1(), 66)}
)
_MOST_STRUCTURE_BYTES = 2048
_SIGNER_ATTRIBUTES: Mapping[str, tuple[int, bool]] = MappingProxyType(
    {
        "fixedTPM": (1 << 1, True),
        "fixedParent": (1 << 4, True),
        "sensitiveDataOrigin": (1 << 5, True),
        "restricted": (1 << 16, True),
        "decrypt": (1 << 17, False),
        "sign": (1 << 18, True),
    }
)


@dataclass(frozen=True)
class TpmQuote:
    """A ``TPMS_ATTEST`` of type quote. ``selection`` names the quoted registers of the one bank, in order."""

    raw: bytes
    qualified_signer: bytes
    extra_data: bytes
    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    bank: int
    selection: tuple[int, ...]
    pcr_digest: bytes

    @classmethod
    def read(cls, data: bytes) -> TpmQuote:
        """Read a quote without believing it; raises ``evidence_unreadable``."""
        what = "TPM quote"
        if len(data) > _MOST_STRUCTURE_BYTES:
            raise unreadable(what, f"at most {_MOST_STRUCTURE_BYTES} bytes", str(len(data)))
        octets = Octets(data, what, "big")
        octets.constant(_GENERATED, "magic")
        octets.constant(_ATTEST_QUOTE, "type")
        qualified_signer = octets.sized(2, "qualifiedSigner", most=66)
        extra_data = octets.sized(2, "extraData", most=66)
        clock_ms = octets.uint(8, "clock")
        reset_count = octets.uint(4, "resetCount")
        restart_count = octets.uint(4, "restartCount")
        safe = octets.uint(1, "safe", most=1) == 1
        firmware_version = octets.uint(8, "firmwareVersion")
        octets.uint(4, "pcrSelect, count", least=1, most=1)
        bank = _hash(octets, "pcrSelect, hash")
        bitmap = octets.sized(1, "pcrSelect, select", most=4)
        selection = tuple(i for i in range(8 * len(bitmap)) if bitmap[i // 8] >> (i % 8) & 1)
        if not selection or selection[-1] >= MOST_PCRS:
            raise unreadable(f"{what}, pcrSelect", f"registers below {MOST_PCRS}", str(list(selection)))
        pcr_digest = octets.sized(2, "pcrDigest", most=64)
        octets.end()
        return cls(
            data, qualified_signer, extra_data, clock_ms, reset_count, restart_count, safe,
            firmware_version, bank, selection, pcr_digest,
        )  # fmt: skip


@dataclass(frozen=True)
class TpmPublic:
    """A ``TPMT_PUBLIC`` of a signing key: the key, and what the TPM says that it may be used for."""

    raw: bytes
    attributes: int
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey

    @property
    def unfit(self) -> tuple[str, ...]:
        """Attributes that a key lacks, or has too much, to vouch for what only the TPM itself wrote.

        A key that is not ``restricted`` signs any bytes, those of a quote that never was among them.
        """
        return tuple(
            name if wanted else f"not {name}"
            for name, (bit, wanted) in _SIGNER_ATTRIBUTES.items()
            if bool(self.attributes & bit) is not wanted
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the structure: what policies list the TPM by."""
        return hashlib.sha256(self.raw).digest()

    @classmethod
    def read(cls, data: bytes) -> TpmPublic:
        """Read a public area; raises ``evidence_unreadable``."""
        what = "TPM attestation key"
        if len(data) > _MOST_STRUCTURE_BYTES:
            raise unreadable(what, f"at most {_MOST_STRUCTURE_BYTES} bytes", str(len(data)))
        octets = Octets(data, what, "big")
        kind = octets.uint(2, "type")
        _hash(octets, "nameAlg")
        attributes = octets.uint(4, "objectAttributes")
        octets.sized(2, "authPolicy", most=64)
        octets.constant(_NULL.to_bytes(2, "big"), "symmetric (none, for a signing key)")
        scheme = octets.uint(2, "scheme")
        if scheme != _NULL:
            _hash(octets, "scheme, hash")
        if kind == _RSA:
            key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey = _rsa_key(octets, what)
        elif kind == _ECC:
            key = _ecc_key(octets, what)
        else:
            raise unreadable(f"{what}, type", "RSA (0x0001) or ECC (0x0023)", f"0x{kind:04x}")
        octets.end()
        return cls(data, attributes, key)


def _hash(octets: Octets, field: str) -> int:
    number = octets.uint(2, field)
    if number not in HASH_NAMES:
        raise unreadable(f"{octets.what}, {field}", " or ".join(HASH_NAMES.values()), f"0x{number:04x}")
    return number


def _rsa_key(octets: Octets, what: str) -> rsa.RSAPublicKey:
    bits = octets.uint(2, "keyBits", least=2048, most=4096)
    exponent = octets.uint(4, "exponent") or 65537
    modulus = int.from_bytes(octets.sized(2, "modulus", most=bits // 8), "big")
    return rsa_public_key(modulus, exponent, bits, what)


def rsa_public_key(modulus: int, exponent: int, bits: int, what: str) -> rsa.RSAPublicKey:
    """An RSA key of exactly ``bits``, with the one exponent that TPMs use."""
    if modulus.bit_length() != bits or modulus % 2 == 0 or exponent != 65537:
        got = f"{modulus.bit_length()} bits and {exponent}"
        raise unreadable(what, f"an RSA modulus of {bits} bits and the exponent 65537", got)
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _ecc_key(octets: Octets, what: str) -> ec.EllipticCurvePublicKey:
    number = octets.uint(2, "curve")
    if number not in _CURVES:
        raise unreadable(f"{what}, curve", "P-256, P-384 or P-521", f"0x{number:04x}")
    curve, size = _CURVES[number]
    octets.constant(_NULL.to_bytes(2, "big"), "kdf (none)")
    x = int.from_bytes(octets.sized(2, "x", most=size), "big")
    y = int.from_bytes(octets.sized(2, "y", most=size), "big")
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    except ValueError:
        raise unreadable(what, f"a point of {curve.name}", "none") from None


@dataclass(frozen=True)
class TpmSignature:
    """A ``TPMT_SIGNATURE``: scheme, digest, and the bytes that the scheme verifies (DER for ECDSA)."""

    scheme: int
    hash: int
    value: bytes

    @classmethod
    def read(cls, data: bytes) -> TpmSignature:
        """Read a signature; raises ``evidence_unreadable``."""
        octets = Octets(data, "TPM signature", "big")
        scheme = octets.uint(2, "scheme")
        if scheme not in (_RSASSA, _RSAPSS, _ECDSA):
            raise unreadable("TPM signature, scheme", "RSASSA, RSAPSS or ECDSA", f"0x{scheme:04x}")
        number = _hash(octets, "hash")
        if scheme == _ECDSA:
            r = int.from_bytes(octets.sized(2, "r", most=66), "big")
            s = int.from_bytes(octets.sized(2, "s", most=66), "big")
            value = encode_dss_signature(r, s)
        else:
            value = octets.sized(2, "signature", most=512)
        octets.end()
        return cls(scheme, number, value)

    @classmethod
    def rsassa_sha256(cls, value: bytes) -> TpmSignature:
        """A bare RSASSA signature over SHA-256, which Azure hands out without its header."""
        return cls(_RSASSA, SHA256, value)


def quote_signature_verifies(
    quote: TpmQuote, signature: TpmSignature, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
) -> bool:
    """Whether ``key`` made ``signature`` over the quote, by the scheme that the signature names."""
    algorithm = _HASHES[signature.hash]()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            if signature.scheme != _ECDSA:
                return False
            key.verify(signature.value, quote.raw, ec.ECDSA(algorithm))
        elif signature.scheme == _RSAPSS:
            pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
            key.verify(signature.value, quote.raw, pss, algorithm)
        elif signature.scheme == _RSASSA:
            key.verify(signature.value, quote.raw, padding.PKCS1v15(), algorithm)
        else:
            return False
    except InvalidSignature:
        return False
    return True
