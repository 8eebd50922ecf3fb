"""X.509 chains (RFC 5280 section 6), as vendors use them for devices: short, without names of hosts.

Every certificate gets its own checks, so that a refusal says which one, what it had and how long it is out of
date. The chain may or may not carry the root; it is the pinned one that is believed. Revocation lists are not
consulted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from myelin.attest.check import Check, within
from myelin.attest.roots import PinnedCertificate

__all__ = [
    "MOST_CERTIFICATES",
    "Chain",
    "PublicKey",
    "certificates_in",
    "check_chain",
    "public_key_digest",
    "read_certificate",
]

MOST_CERTIFICATES = 8
"""Longest chain that is looked at."""

MOST_CERTIFICATE_BYTES = 8 << 10
"""Longest certificate that is looked at."""

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
"""The keys that devices sign evidence with."""

_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_UNUSABLE = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)


@dataclass(frozen=True)
class Chain:
    """A chain that was looked at: its checks, the leaf's public key, and whose word the leaf is."""

    checks: Check
    key: PublicKey | None
    trust_anchor: str


@dataclass(frozen=True)
class _Facts:
    """What the checks need of one certificate."""

    der: bytes
    name: str
    subject: bytes
    issuer: bytes
    from_s: int
    until_s: int
    authority: bool
    path_length: int | None
    may_sign_certificates: bool
    may_sign: bool
    unknown: tuple[str, ...]
    key: PublicKey | None


def read_certificate(der: bytes) -> x509.Certificate | None:
    """Read a certificate without believing it; ``None`` if it is none, or one that cannot be used here."""
    try:
        if len(der) > MOST_CERTIFICATE_BYTES:
            return None
        certificate = x509.load_der_x509_certificate(der)
        if certificate.public_bytes(Encoding.DER) != der:
            return None
        _facts(der, ())
    except _UNUSABLE:
        return None
    return certificate


@lru_cache(maxsize=256)
def _facts(der: bytes, known: tuple[x509.ObjectIdentifier, ...]) -> _Facts:
    certificate = x509.load_der_x509_certificate(der)
    basic = usage = None
    unknown = []
    for extension in certificate.extensions:
        if extension.oid == ExtensionOID.BASIC_CONSTRAINTS:
            basic = extension.value
        elif extension.oid == ExtensionOID.KEY_USAGE:
            usage = extension.value
        elif extension.critical and extension.oid not in known:
            unknown.append(extension.oid.dotted_string)
    key = certificate.public_key()
    usable = isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    authority = isinstance(basic, x509.BasicConstraints) and basic.ca
    return _Facts(
        der,
        _short_name(certificate.subject),
        certificate.subject.public_bytes(),
        certificate.issuer.public_bytes(),
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
        authority,
        basic.path_length if isinstance(basic, x509.BasicConstraints) else None,
        isinstance(usage, x509.KeyUsage) and usage.key_cert_sign,
        usage is None or (isinstance(usage, x509.KeyUsage) and usage.digital_signature),
        tuple(unknown),
        key if usable else None,  # type: ignore[arg-type]
    )


def _short_name(name: x509.Name) -> str:
    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in name.get_attributes_for_oid(oid):
            return str(attribute.value)[:80]
    return "a certificate without a name"


def public_key_digest(key: PublicKey) -> bytes:
    """SHA-256 of a key's SubjectPublicKeyInfo: what allow-lists name it by."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize()


def check_chain(
    name: str,
    leaf_first: Sequence[bytes],
    roots: Sequence[PinnedCertificate],
    at_s: int,
    *,
    known_critical: tuple[x509.ObjectIdentifier, ...] = (),
) -> Chain:
    """Check a chain of DER certificates, the leaf first, up to one of the pinned ``roots``, as of ``at_s``.

    Each certificate is signed by the next with SHA-256 or longer and in date; every one above the leaf is an
    authority that may sign certificates and allows a path this long; the leaf is none and may sign. A
    critical extension that is not in ``known_critical`` fails, as RFC 5280 wants.
    """
    pinned = ", ".join(root.name for root in roots) or "(no root is pinned for this kind)"
    path = [_facts(der, known_critical) for der in leaf_first if read_certificate(der) is not None]
    if not path or len(path) != len(leaf_first) or len(path) > MOST_CERTIFICATES:
        expected = f"1 to {MOST_CERTIFICATES} readable certificates"
        got = f"{len(path)} readable of {len(leaf_first)}"
        missing = Check.made("certificates", pinned, expected, got, False)
        return Chain(Check.group(name, pinned, [missing]), None, pinned)
    root = next((r for r in roots if r.der == path[-1].der), None)
    if root is not None and len(path) > 1:
        path.pop()
    elif root is None:
        root = next((r for r in roots if _facts(r.der, ()).subject == path[-1].issuer), None)
    if root is None:
        got = f"a chain that ends at {path[-1].name!r}"
        return Chain(
            Check.group(name, pinned, [Check.made("root of trust", pinned, f"one of: {pinned}", got, False)]),
            None,
            pinned,
        )
    top = _facts(root.der, ())
    checks = [
        Check.made("root of trust", root.name, root.fingerprint.hex(), root.fingerprint.hex(), True),
        within("root of trust, validity", root.name, top.from_s, top.until_s, at_s),
    ]
    for below, (facts, issuer) in enumerate(zip(path, [*path[1:], top], strict=True)):
        checks.append(_certificate_checks(facts, issuer, below, root.name, at_s))
    return Chain(Check.group(name, root.name, checks), path[0].key, root.name)


def _certificate_checks(facts: _Facts, issuer: _Facts, below: int, anchor: str, at_s: int) -> Check:
    signed = _is_signed_by(facts.der, issuer.der)
    checks = [
        Check.made(
            "signature", anchor, f"by {issuer.name!r}", "it verifies" if signed else "it does not", signed
        ),
        within("validity", anchor, facts.from_s, facts.until_s, at_s),
        _issuer_check(issuer, below, anchor),
    ]
    if below == 0:
        good = not facts.authority and facts.may_sign
        role = "an authority" if facts.authority else "no authority"
        got = f"{role}, digitalSignature {'allowed' if facts.may_sign else 'not allowed'}"
        checks.append(
            Check.made("use of the key", anchor, "no authority, digitalSignature allowed", got, good)
        )
    unknown = ", ".join(facts.unknown) or "none"
    checks.append(Check.made("unknown critical extensions", anchor, "none", unknown, not facts.unknown))
    return Check.group(f"certificate {facts.name!r}", anchor, checks)


def _issuer_check(issuer: _Facts, below: int, anchor: str) -> Check:
    allowed = issuer.path_length
    good = issuer.authority and issuer.may_sign_certificates and (allowed is None or allowed >= below)
    room = "any number of" if allowed is None else f"at most {allowed}"
    role = "an authority" if issuer.authority else "no authority"
    signs = "allowed" if issuer.may_sign_certificates else "not allowed"
    return Check.made(
        "issuer",
        anchor,
        f"an authority, keyCertSign allowed, {below} authorities or more below",
        f"{role}, keyCertSign {signs}, {room} below",
        good,
    )


@lru_cache(maxsize=256)
def _is_signed_by(der: bytes, issuer_der: bytes) -> bool:
    """Whether one certificate names and is signed by another. A pure function; remembered, for it is slow."""
    certificate, issuer = x509.load_der_x509_certificate(der), x509.load_der_x509_certificate(issuer_der)
    try:
        if not isinstance(certificate.signature_hash_algorithm, _HASHES):
            return False
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_UNUSABLE):
        return False
    return True


def certificates_in(endorsements: Sequence[bytes]) -> list[bytes]:
    """Certificates in DER out of endorsements that are PEM files or single DER certificates, in their order.

    What is neither is left out: the checks that want it will fail for want of it.
    """
    found: list[bytes] = []
    for endorsement in endorsements:
        if len(endorsement) > MOST_CERTIFICATES * MOST_CERTIFICATE_BYTES * 2:
            continue
        if not endorsement.lstrip().startswith(b"-----BEGIN"):
            found.append(endorsement)
            continue
        try:
            found += [c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(endorsement)]
        except _UNUSABLE:
            continue
    return found
