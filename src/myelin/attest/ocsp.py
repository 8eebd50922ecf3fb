"""Answers about one certificate's revocation (OCSP, RFC 6960), read by ``cryptography``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from myelin.attest.certificate import Certificate
from myelin.attest.der import OID, SEQUENCE, read_element
from myelin.attest.kind import unreadable
from myelin.errors import ProtocolError

__all__ = ["RevocationAnswer", "certificate_id", "is_answer"]

MOST_ANSWER_BYTES = 32 << 10
"""Longest answer that is looked at."""

_ENUMERATED = 0x0A
_EXTENDED_KEY_USAGE, _OCSP_SIGNING = "2.5.29.37", "1.3.6.1.5.5.7.3.9"
_UNDERSTOOD = frozenset({"2.5.29.15", "2.5.29.19", _EXTENDED_KEY_USAGE})
_HASHES: dict[str, str] = {"sha1": "sha1", "sha256": "sha256", "sha384": "sha384", "sha512": "sha512"}


@dataclass(frozen=True)
class RevocationAnswer:
    """An answer about one certificate, read but not believed. ``status`` is good, revoked or unknown."""

    serial: int
    hash_name: str
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    status: str
    issued_s: int
    until_s: int | None
    signed: bytes
    signature: bytes
    signature_hash: hashes.HashAlgorithm
    responders: tuple[Certificate, ...]

    @classmethod
    def read(cls, der: bytes, what: str) -> RevocationAnswer:
        """Read one DER response about one certificate; raises ``evidence_unreadable``."""
        if len(der) > MOST_ANSWER_BYTES:
            raise unreadable(what, f"at most {MOST_ANSWER_BYTES} bytes", str(len(der)))
        return _remembered(der, what)

    @property
    def revoked(self) -> bool:
        """Whether it says anything but good."""
        return self.status != "good"

    def about(self, certificate: Certificate, issuer: Certificate) -> bool:
        """Whether it is about this certificate of this issuer."""
        if self.serial != certificate.serial:
            return False
        named = certificate_id(certificate, issuer, self.hash_name)
        return named == (self.issuer_name_hash, self.issuer_key_hash)

    def refused(self, above: Sequence[Certificate], now_s: int) -> str:
        """Why it does not count, or an empty string. ``above`` are the authorities over the certificate, its
        issuer first, which the caller has checked."""
        if self._signed_by(above[0]):
            return ""
        signers = [responder for responder in self.responders if self._signed_by(responder)]
        if not signers:
            return "its signature is not by the issuer, nor by a certificate that it carries"
        responder = signers[0]
        if not any(
            responder.issuer == authority.subject and responder.signed_by(authority) for authority in above
        ):
            return f"no authority over the certificate certified its responder {responder.common_name}"
        if not responder.not_before_s <= now_s <= responder.not_after_s:
            return "its responder's certificate is not valid now"
        if not _may_answer(responder):
            return "its responder's certificate is not for signing answers"
        return ""

    def _signed_by(self, signer: Certificate) -> bool:
        try:
            key = signer.public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                return False
            key.verify(self.signature, self.signed, ec.ECDSA(self.signature_hash))
        except (InvalidSignature, ProtocolError):
            return False
        return True


def is_answer(data: bytes) -> bool:
    """Whether DER looks like an OCSP response: a sequence that begins with an enumerated status."""
    if len(data) < 4 or data[0] != SEQUENCE:
        return False
    at = 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)
    return data[at : at + 2] == bytes([_ENUMERATED, 1])


def certificate_id(certificate: Certificate, issuer: Certificate, hash_name: str) -> tuple[bytes, bytes]:
    """What OCSP calls an issuer by: the digests of its name and of its key's bits."""
    key = read_element(issuer.public_key_info, f"{issuer.what}, public key").children()
    if len(key) != 2:
        raise unreadable(issuer.what, "a public key of two parts", str(len(key)))
    return (
        hashlib.new(hash_name, certificate.issuer, usedforsecurity=False).digest(),
        hashlib.new(hash_name, key[1].bits(), usedforsecurity=False).digest(),
    )


@lru_cache(maxsize=128)
def _remembered(der: bytes, what: str) -> RevocationAnswer:
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise unreadable(what, "a successful OCSP answer", response.response_status.name.lower())
        singles = list(response.responses)
        if len(singles) != 1:
            raise unreadable(what, "an answer about one certificate", f"about {len(singles)}")
        single, until = singles[0], singles[0].next_update_utc
        algorithm = response.signature_hash_algorithm
        if algorithm is None or algorithm.name not in ("sha256", "sha384", "sha512"):
            raise unreadable(what, "a signature over SHA-2", "another")
        if single.hash_algorithm.name not in _HASHES:
            raise unreadable(what, "an issuer named by SHA-1 or SHA-2", single.hash_algorithm.name)
        return RevocationAnswer(
            single.serial_number,
            _HASHES[single.hash_algorithm.name],
            single.issuer_name_hash,
            single.issuer_key_hash,
            single.certificate_status.name.lower(),
            int(single.this_update_utc.timestamp()),
            int(until.timestamp()) if until is not None else None,
            response.tbs_response_bytes,
            response.signature,
            algorithm,
            tuple(
                Certificate.read(carried.public_bytes(Encoding.DER), f"{what}, responder")
                for carried in response.certificates[:4]
            ),
        )
    except (ValueError, TypeError, OverflowError, UnsupportedAlgorithm) as error:
        raise unreadable(what, "an OCSP answer", str(error)[:120]) from None


def _may_answer(responder: Certificate) -> bool:
    """Whether the certificate is for OCSP signing, and has no critical extension that is not understood."""
    usage = responder.extensions.get(_EXTENDED_KEY_USAGE)
    critical = {oid for oid, (is_critical, _) in responder.extensions.items() if is_critical}
    if usage is None or critical - _UNDERSTOOD:
        return False
    try:
        purposes = read_element(usage[1], "extended key usage").children()
        return any(purpose.tag == OID and purpose.oid() == _OCSP_SIGNING for purpose in purposes)
    except ProtocolError:
        return False
