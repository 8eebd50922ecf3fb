"""Certificate authorities of a vendor that does not exist."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from myelin.attest.roots import PinnedCertificate, Roots

MADE_AT = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
MADE_AT_S = int(MADE_AT.timestamp())


@dataclass(frozen=True)
class Issued:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def pinned_as(self, vendor: str) -> Roots:
        """Roots that hold only this certificate."""
        return Roots((PinnedCertificate(vendor, "a root of these tests", "", self.der),))


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    authority: bool = True,
    path_length: int | None = None,
    may_sign: bool | None = None,
    may_issue: bool | None = None,
    may_list: bool | None = None,
    valid: timedelta = timedelta(hours=3),
    begins: datetime = MADE_AT - timedelta(minutes=1),
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    key: ec.EllipticCurvePrivateKey | None = None,
    hash_: hashes.HashAlgorithm | None = None,
) -> Issued:
    """Issue a certificate, or a root where there is no issuer."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    may_issue = authority if may_issue is None else may_issue
    may_sign = not authority if may_sign is None else may_sign
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    usage["crl_sign"] = may_issue if may_list is None else may_list
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + valid)
        .add_extension(x509.BasicConstraints(authority, path_length if authority else None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=may_sign, key_cert_sign=may_issue, **usage),
            critical=True,
        )
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    signer = issuer.key if issuer else key
    return Issued(builder.sign(signer, hash_ or hashes.SHA384()), key)


def chain(*names: str, vendor_root: Issued) -> list[Issued]:
    """Authorities from under the root down, each allowing just the path that follows."""
    issued, above = [], vendor_root
    for place, name in enumerate(names):
        above = issue(name, above, path_length=len(names) - 1 - place, valid=timedelta(days=1))
        issued.append(above)
    return issued


def root(name: str) -> Issued:
    """A root of ten years."""
    return issue(name, valid=timedelta(days=3650), begins=MADE_AT - timedelta(days=365))


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-384 as ``r ‖ s``, 48 bytes each."""

    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")
