"""Revocation lists and OCSP answers of vendors that do not exist: right, or wrong in exactly one way."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from vendors import der
from vendors.authority import Holder, PrivateKey, algorithm, sign
from vendors.certificates import Issued, issue

DAY_S = 86_400
ISSUING_POINT = "2.5.29.28"


def list_of(
    issuer_name: bytes,
    key: PrivateKey,
    serials: tuple[int, ...],
    issued_s: int,
    *,
    valid_s: int = 30 * DAY_S,
    version: int = 1,
    entry_extensions: bytes = b"",
    extensions: dict[str, tuple[bool, bytes]] | None = None,
) -> bytes:
    """A list by the DER of its issuer's name."""
    entries = [der.sequence(der.integer(n), der.time(issued_s), entry_extensions) for n in serials]
    number = {"2.5.29.20": (False, der.integer(7))}
    listed = [
        der.sequence(der.oid(oid), *([der.boolean(True)] if critical else []), der.octets(value))
        for oid, (critical, value) in {**number, **(extensions or {})}.items()
    ]
    tbs = der.sequence(
        der.integer(version),
        algorithm(key),
        issuer_name,
        der.time(issued_s),
        der.time(issued_s + valid_s),
        *([der.sequence(*entries)] if entries else []),
        der.tlv(0xA0, der.sequence(*listed)),
    )
    return der.sequence(tbs, algorithm(key), der.bits(sign(key, tbs)))


def revocation_list(issuer: Holder, serials: tuple[int, ...], issued_s: int, **other: object) -> bytes:
    """The list of an authority of :mod:`vendors.authority`."""
    return list_of(der.name(issuer.common_name), issuer.key, serials, issued_s, **other)  # type: ignore[arg-type]


def list_by(issuer: Issued, serials: tuple[int, ...], issued_s: int, **other: object) -> bytes:
    """The list of an authority of :mod:`vendors.certificates`."""
    name = issuer.certificate.subject.public_bytes()
    return list_of(name, issuer.key, serials, issued_s, **other)  # type: ignore[arg-type]


def points_at(*uris: str) -> bytes:
    """What names the addresses of a list: a distribution point with full names."""
    names = b"".join(der.tlv(0x86, uri.encode()) for uri in uris)
    return der.tlv(0xA0, der.tlv(0xA0, names))


def responder(above: Issued, *, ocsp_signing: bool = True) -> Issued:
    """Somebody that an authority lets answer."""
    purpose = ExtendedKeyUsageOID.OCSP_SIGNING if ocsp_signing else ExtendedKeyUsageOID.CODE_SIGNING
    usage = x509.ExtendedKeyUsage([purpose])
    extensions = ((usage, False),)
    return issue("OCSP responder", above, authority=False, extensions=extensions, valid=timedelta(days=99))


def answer(
    certificate: Issued,
    issuer: Issued,
    signer: Issued,
    issued_s: int,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    valid_s: int | None = 7 * DAY_S,
) -> bytes:
    """An answer about a certificate, which carries its signer's certificate."""
    at = datetime.fromtimestamp(issued_s, timezone.utc)
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            certificate.certificate, issuer.certificate, hashes.SHA384(), status, at,
            at + timedelta(seconds=valid_s) if valid_s is not None else None,
            at if revoked else None, x509.ReasonFlags.key_compromise if revoked else None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
        .certificates([signer.certificate])
    )  # fmt: skip
    return builder.sign(signer.key, hashes.SHA384()).public_bytes(Encoding.DER)
