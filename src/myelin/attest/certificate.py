"""X.509 certificates of hardware vendors, and the one rule by which a chain of them is believed.

The rule is RFC 5280's, less what no vendor here uses (names constraints, policies) and without revocation,
which is :mod:`myelin.attest.revocation`'s, and refusing what it does not know: every certificate signed by
the next, every issuer allowed to issue, every one valid at the time of appraisal, no critical extension that
is not understood, and at the end a pinned root. Keys and signatures are ``cryptography``'s; the reading is
:mod:`myelin.attest.der`'s, which says why.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from myelin.attest.check import Check, within
from myelin.attest.der import BOOLEAN, INTEGER, OCTET_STRING, SEQUENCE, SET, Element, context, read_element
from myelin.attest.kind import unreadable
from myelin.attest.roots import PinnedCertificate
from myelin.errors import ProtocolError

__all__ = [
    "MOST_CERTIFICATE_BYTES",
    "Certificate",
    "PublicKey",
    "chain_check",
    "completed_chain",
    "read_pem",
    "read_public_key",
    "signature_verifies",
]

MOST_CERTIFICATE_BYTES = 16 << 10
"""Longest certificate that is looked at."""
MOST_CHAIN = 8
"""Most certificates in a chain."""

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
"""The kinds of keys that vendors sign with."""

_RSA_BITS = range(2048, 8193)
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_BASIC_CONSTRAINTS, _KEY_USAGE = "2.5.29.19", "2.5.29.15"
_UNDERSTOOD = frozenset({_BASIC_CONSTRAINTS, _KEY_USAGE})
_KEY_CERT_SIGN_BIT = 5
_COMMON_NAME = "2.5.4.3"
_ECDSA: Mapping[str, type[hashes.HashAlgorithm]] = MappingProxyType(
    {
        "1.2.840.10045.4.3.2": hashes.SHA256,
        "1.2.840.10045.4.3.3": hashes.SHA384,
        "1.2.840.10045.4.3.4": hashes.SHA512,
    }
)
_RSA_PSS = "1.2.840.113549.1.1.10"
_MGF1 = "1.2.840.113549.1.1.8"
_HASHES: Mapping[str, type[hashes.HashAlgorithm]] = MappingProxyType(
    {
        "2.16.840.1.101.3.4.2.1": hashes.SHA256,
        "2.16.840.1.101.3.4.2.2": hashes.SHA384,
        "2.16.840.1.101.3.4.2.3": hashes.SHA512,
    }
)


@dataclass(frozen=True)
class Certificate:
    """A certificate, read but not believed. ``issuer`` and ``subject`` are the DER of their names; ``tbs`` is
    what was signed; ``extensions`` maps an object identifier to (critical, value)."""

    what: str
    der: bytes
    tbs: bytes
    serial: int
    issuer: bytes
    subject: bytes
    common_name: str
    not_before_s: int
    not_after_s: int
    public_key_info: bytes
    extensions: Mapping[str, tuple[bool, bytes]]
    signature_algorithm: Element
    signature: bytes

    @classmethod
    def read(cls, der: bytes, what: str) -> Certificate:
        """Read one DER certificate; raises ``evidence_unreadable``. ``what`` names it in errors."""
        if len(der) > MOST_CERTIFICATE_BYTES:
            raise unreadable(what, f"at most {MOST_CERTIFICATE_BYTES} bytes", str(len(der)))
        return _remembered(der, what)

    @classmethod
    def _read(cls, der: bytes, what: str) -> Certificate:
        parts = read_element(der, what).children()
        if len(parts) != 3:
            raise unreadable(what, "a certificate of three parts", str(len(parts)))
        tbs, algorithm, signature = parts
        fields = tbs.children()
        if len(fields) < 8 or fields[0].tag != context(0) or fields[0].only(context(0)).integer() != 2:
            raise unreadable(what, "a certificate of version 3", "another")
        _, serial, inner_algorithm, issuer, validity, subject, key, extensions = fields[:8]
        if len(fields) != 8 or extensions.tag != context(3):
            raise unreadable(what, "extensions and nothing after them", "another field")
        if inner_algorithm.raw != algorithm.raw:
            raise unreadable(what, "one signature algorithm", "two that differ")
        times = validity.children()
        if len(times) != 2:
            raise unreadable(what, "a validity of two times", str(len(times)))
        return cls(
            what,
            der,
            tbs.raw,
            serial.integer(),
            issuer.expect(SEQUENCE).raw,
            subject.expect(SEQUENCE).raw,
            _common_name(subject),
            times[0].time_s(),
            times[1].time_s(),
            key.expect(SEQUENCE).raw,
            _extensions(extensions, what),
            algorithm.expect(SEQUENCE),
            signature.bits(),
        )

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the DER bytes."""
        return hashlib.sha256(self.der).digest()

    def public_key(self) -> PublicKey:
        """The certified key; raises ``evidence_unreadable`` if it is of no kind that vendors sign with."""
        return read_public_key(self.public_key_info, f"{self.what}, public key")

    def signed_by(self, issuer: Certificate) -> bool:
        """Whether the issuer's key made this certificate's signature."""
        return signature_verifies(self.signature_algorithm, issuer.public_key_info, self.signature, self.tbs)

    def path_length(self) -> int | None:
        """How many certificates of issuers may stand between this one and the leaf; ``None`` if it may not
        issue at all. Raises ``evidence_unreadable``."""
        basic = self.extensions.get(_BASIC_CONSTRAINTS)
        usage = self.extensions.get(_KEY_USAGE)
        if basic is None or usage is None:
            return None
        bits = read_element(usage[1], f"{self.what}, key usage").expect(0x03).content
        if len(bits) < 2 or not bits[1] >> (7 - _KEY_CERT_SIGN_BIT) & 1:
            return None
        fields = read_element(basic[1], f"{self.what}, basic constraints").children()
        if not fields or fields[0].tag != BOOLEAN or not fields[0].boolean():
            return None
        if len(fields) == 1:
            return MOST_CHAIN
        length = fields[1].expect(INTEGER).integer()
        if len(fields) > 2 or length < 0:
            raise unreadable(f"{self.what}, basic constraints", "a path length", "something else")
        return length


@lru_cache(maxsize=128)
def _remembered(der: bytes, what: str) -> Certificate:
    """Reading is a pure function, and the same authorities come with every device's chain."""
    return Certificate._read(der, what)


def read_public_key(info: bytes, what: str) -> PublicKey:
    """Read a DER SubjectPublicKeyInfo of a NIST curve or of RSA; raises ``evidence_unreadable``."""
    try:
        key = serialization.load_der_public_key(info)
    except (ValueError, UnsupportedAlgorithm, TypeError):
        raise unreadable(what, "a public key", "something else") from None
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
        return key
    raise unreadable(what, "a key on a NIST curve, or RSA of 2048 to 8192 bits", type(key).__name__)


def read_pem(data: bytes, what: str) -> list[bytes]:
    """The DER certificates of a PEM file, in order, of which there must be one; raises
    ``evidence_unreadable``. Text outside of the certificates is passed over."""
    if len(data) > MOST_CHAIN * 2 * MOST_CERTIFICATE_BYTES:
        raise unreadable(what, "a PEM file of certificates", f"{len(data)} bytes")
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    blocks = data.split(begin)[1:]
    if not 1 <= len(blocks) <= MOST_CHAIN:
        raise unreadable(what, f"1 to {MOST_CHAIN} PEM certificates", str(len(blocks)))
    found = []
    for block in blocks:
        body, closed, _ = block.partition(end)
        try:
            if not closed:
                raise ValueError
            found.append(base64.b64decode(b"".join(body.split()), validate=True))
        except ValueError:
            raise unreadable(what, "base64 between BEGIN and END", "something else") from None
    return found


def chain_check(
    certificates: Sequence[Certificate],
    roots: Sequence[PinnedCertificate],
    now_s: int,
    *,
    anchor: str,
    name: str = "certificate chain",
    understood: frozenset[str] = frozenset(),
) -> Check:
    """Check a chain, leaf first, up to one of ``roots``, which need not be in it.

    ``understood`` names critical extensions that the caller itself reads. Each certificate has its own group
    of checks, with the time that is left as the margin of its validity.
    """
    if not 1 <= len(certificates) <= MOST_CHAIN:
        got = f"{len(certificates)} certificates"
        return Check.made(name, anchor, f"1 to {MOST_CHAIN} certificates up to {anchor}", got, False)
    chain = completed_chain(certificates, roots)
    pinned = {root.fingerprint for root in roots}
    end = chain[-1]
    named = ", ".join(root.name for root in roots) or "no root of this vendor"
    ends = Check.made(
        f"{name}: root",
        anchor,
        f"ends in {named}",
        f"{end.common_name}, SHA-256 {end.fingerprint.hex()}",
        end.fingerprint in pinned,
    )
    groups = [
        _certificate_check(chain, place, anchor, now_s, _UNDERSTOOD | understood)
        for place in range(len(chain))
    ]
    return Check.group(name, anchor, [ends, *groups])


def completed_chain(
    certificates: Sequence[Certificate], roots: Sequence[PinnedCertificate]
) -> list[Certificate]:
    """The chain with its root, which need not be in it; as it is where no root has issued its last one."""
    chain = list(certificates)
    if chain and chain[-1].fingerprint not in {root.fingerprint for root in roots}:
        for root in roots:
            known = Certificate.read(root.der, root.name)
            if known.subject == chain[-1].issuer:
                chain.append(known)
    return chain


def _certificate_check(
    chain: list[Certificate], place: int, anchor: str, now_s: int, understood: frozenset[str]
) -> Check:
    certificate = chain[place]
    issuer = chain[place + 1] if place + 1 < len(chain) else certificate
    who, by = certificate.common_name, issuer.common_name
    signed = certificate.issuer == issuer.subject and certificate.signed_by(issuer)
    unknown = [
        oid for oid, (critical, _) in certificate.extensions.items() if critical and oid not in understood
    ]
    checks = [
        Check.made(
            "signature",
            anchor,
            f"made by the key of {by}",
            "it verifies" if signed else f"it is not by the key of {by}",
            signed,
        ),
        within("validity", anchor, certificate.not_before_s, certificate.not_after_s, now_s),
        Check.made("critical extensions", anchor, "all understood", ", ".join(unknown) or "all", not unknown),
    ]
    if place > 0:
        try:
            length = certificate.path_length()
        except ProtocolError as error:
            checks.append(Check.made("may issue", anchor, "a certificate authority", error.detail, False))
        else:
            below = place - 1
            allowed = length is not None and length >= below
            got = "it may not" if length is None else f"up to {length} issuers below it"
            checks.append(
                Check.made("may issue", anchor, f"an authority for {below} issuers below it", got, allowed)
            )
    return Check.group(f"certificate of {who}", anchor, checks)


@lru_cache(maxsize=256)
def signature_verifies(algorithm: Element, key_info: bytes, signature: bytes, data: bytes) -> bool:
    """Whether the key of ``key_info`` made a signature that a certificate or a revocation list carries.

    A pure function, remembered: of a hundred chains, ninety-nine end in the same slow signatures.
    """
    try:
        return _verify(algorithm, read_public_key(key_info, "issuer's public key"), signature, data)
    except ProtocolError:
        return False


def _verify(algorithm: Element, key: PublicKey, signature: bytes, data: bytes) -> bool:
    parts = algorithm.children()
    if not parts:
        return False
    name = parts[0].oid()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            if name not in _ECDSA or len(parts) != 1:
                return False
            key.verify(signature, data, ec.ECDSA(_ECDSA[name]()))
        else:
            if name != _RSA_PSS or len(parts) != 2:
                return False
            digest = _pss_hash(parts[1])
            if digest is None:
                return False
            key.verify(
                signature, data, padding.PSS(padding.MGF1(digest), salt_length=digest.digest_size), digest
            )
    except InvalidSignature:
        return False
    return True


def _pss_hash(parameters: Element) -> hashes.HashAlgorithm | None:
    """The hash of RSASSA-PSS parameters, if MGF1 has the same and the salt its length (RFC 4055)."""
    fields = {field.tag: field for field in parameters.children()}
    if not {context(0), context(1), context(2)} <= set(fields):
        return None
    name = fields[context(0)].only(context(0)).children()[:1]
    generator = fields[context(1)].only(context(1)).children()
    if not name or len(generator) != 2 or generator[0].oid() != _MGF1:
        return None
    inner = generator[1].children()[:1]
    if not inner or inner[0].oid() != name[0].oid() or name[0].oid() not in _HASHES:
        return None
    digest = _HASHES[name[0].oid()]()
    salt = fields[context(2)].only(context(2)).integer()
    return digest if salt == digest.digest_size else None


def _common_name(subject: Element) -> str:
    """The common name, or what stands for it in errors."""
    for group in subject.children():
        for attribute in group.children(SET):
            pair = attribute.children()
            if len(pair) == 2 and pair[0].oid() == _COMMON_NAME:
                text = pair[1].content[:128].decode("utf-8", "replace")
                return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "(no common name)"


def _extensions(field: Element, what: str) -> Mapping[str, tuple[bool, bytes]]:
    found: dict[str, tuple[bool, bytes]] = {}
    for extension in field.only(context(3)).children():
        parts = extension.children()
        critical = len(parts) == 3 and parts[1].boolean()
        if len(parts) not in (2, 3) or parts[-1].tag != OCTET_STRING:
            raise unreadable(what, "an extension of a name and a value", "something else")
        name = parts[0].oid()
        if name in found:
            raise unreadable(what, "each extension once", f"{name} twice")
        found[name] = (critical, parts[-1].content)
    return MappingProxyType(found)
