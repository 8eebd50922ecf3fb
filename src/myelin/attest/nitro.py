"""AWS Nitro attestation documents: COSE_Sign1 with ES384 over CBOR, by a key whose chain is in the document.

The layout and the limits are those of AWS's "attestation_process.md" and of the NSM interface. A document is
read only in the one encoding that the Nitro security module writes: every length definite and shortest,
except the outermost map of the payload, which the module writes with an indefinite length.

The leaf certificate lives three hours and an enclave keeps its document, so the chain is judged at the time
that the document itself carries, which the leaf's signature covers. How old that time may be is the policy's
``maximum_evidence_age_s``: a document of yesterday is refused for its age, not by an accident of the leaf.
AWS's revocation lists, for the regional and the zonal authority, are endorsements. AWS's own description
leaves them out; whether they must be there is the policy's (``allow_unchecked_revocation``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from myelin.attest.certificate import Certificate, completed_chain
from myelin.attest.chain import device_chain_check, root_name
from myelin.attest.check import Check
from myelin.attest.kind import Claims, RealEvidence, ReferenceValues, unreadable
from myelin.attest.policy import Policy
from myelin.attest.revocation import distribution_points, revocation_check, split_statements
from myelin.attest.roots import PINNED_ROOTS, Roots
from myelin.errors import ProtocolError
from myelin.wire import Shape, decode, encode

__all__ = ["MOST_NITRO_BYTES", "NitroDocument", "appraise_nitro"]

MOST_NITRO_BYTES = 12 << 10
"""Longest document that is looked at: the security module's longest reply."""

_REFUSAL = "evidence_unreadable"
_SHAPE = Shape(_REFUSAL, _REFUSAL)
_ES384 = bytes.fromhex("a1013822")
_COSE_SIGN1_TAG = 0xD2
_PCR_BYTES = 48
_MOST_PCRS = 32
_MOST_CERTIFICATE_BYTES = 1024
_MOST_AUTHORITIES = 6
_NEEDED = ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
_OPTIONAL: Mapping[str, int] = MappingProxyType({"public_key": 1024, "user_data": 512, "nonce": 512})
_IMAGE_PCRS = (0, 1, 2)


@dataclass(frozen=True)
class NitroDocument:
    """A document as read, not yet believed. ``certificates`` begins with the leaf and ends with the root."""

    protected: bytes
    payload: bytes
    signature: bytes
    module_id: str
    timestamp_ms: int
    pcrs: tuple[tuple[int, bytes], ...]
    certificates: tuple[Certificate, ...]
    bound: tuple[tuple[str, bytes], ...]

    @classmethod
    def read(cls, data: bytes) -> NitroDocument:
        """Read a document, with or without COSE's tag 18; raises ``evidence_unreadable``."""
        if not 0 < len(data) <= MOST_NITRO_BYTES:
            raise unreadable("Nitro document", f"1 to {MOST_NITRO_BYTES} bytes", str(len(data)))
        what = "Nitro document"
        untagged = data[1:] if data[0] == _COSE_SIGN1_TAG else data
        array = _SHAPE.array(decode(untagged, refusal=_REFUSAL, what=what), what, size=4)
        protected = _SHAPE.bytes(array[0], f"{what}, protected header", most=16)
        if protected != _ES384:
            raise unreadable(f"{what}, protected header", f"ES384 alone ({_ES384.hex()})", protected.hex())
        _SHAPE.map(array[1], f"{what}, unprotected header", ())
        payload = _SHAPE.bytes(array[2], f"{what}, payload", most=MOST_NITRO_BYTES)
        signature = _SHAPE.bytes(array[3], f"{what}, signature", size=2 * _PCR_BYTES)
        return cls(protected, payload, signature, **_payload_fields(_payload_map(payload)))


def _refuse(*_: Any) -> Any:
    raise ValueError("a tag")


_TAGS_REFUSED: Mapping[int, Callable[..., Any]] = MappingProxyType(
    dict.fromkeys(
        [*range(6), *range(21, 38), 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799],
        _refuse,
    )
)
"""Every tag that the CBOR library gives a meaning to; it must not act on a stranger's tag."""


def _payload_map(payload: bytes) -> dict[Any, Any]:
    """The payload, if it is in the module's encoding: what is written again must be the same bytes."""
    what = "Nitro document, payload"
    try:
        value = cbor2.loads(
            payload,
            tag_hook=_refuse,
            semantic_decoders=_TAGS_REFUSED,
            max_depth=4,
            allow_duplicate_keys=False,
        )
        again = cbor2.dumps(value) if type(value) is dict else b""
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise unreadable(what, "a map in CBOR without tags", str(error)[:120]) from None
    if type(value) is not dict:
        raise unreadable(what, "a map in CBOR", f"a {type(value).__name__}")
    indefinite = b"\xbf" + again[1:] + b"\xff" if len(value) < 24 else b""
    if payload not in (again, indefinite):
        raise unreadable(what, "definite lengths in their shortest form", "another encoding of the same")
    return value


def _payload_fields(fields: dict[Any, Any]) -> dict[str, Any]:
    what = "Nitro document"
    missing = [key for key in _NEEDED if key not in fields]
    extra = [str(key)[:40] for key in fields if key not in _NEEDED and key not in _OPTIONAL]
    if missing or extra:
        got = f"without {missing[0]!r}" if missing else f"also {extra[0]!r}"
        raise unreadable(what, f"the fields {', '.join((*_NEEDED, *_OPTIONAL))}", got)
    if fields["digest"] != "SHA384":
        raise unreadable(f"{what}, digest", "'SHA384'", repr(fields["digest"])[:40])
    return {
        "module_id": _SHAPE.text(fields["module_id"], f"{what}, module_id", most=256),
        "timestamp_ms": _SHAPE.uint(fields["timestamp"], f"{what}, timestamp", least=1, most=1 << 53),
        "pcrs": _pcrs(fields["pcrs"]),
        "certificates": _certificates(fields["certificate"], fields["cabundle"]),
        "bound": tuple(
            (key, _SHAPE.bytes(fields[key], f"{what}, {key}", most=most))
            for key, most in _OPTIONAL.items()
            if fields.get(key) is not None
        ),
    }


def _pcrs(value: object) -> tuple[tuple[int, bytes], ...]:
    what = "Nitro document, pcrs"
    if type(value) is not dict or not 1 <= len(value) <= _MOST_PCRS:
        raise unreadable(what, f"a map of 1 to {_MOST_PCRS} registers", str(type(value).__name__))
    pcrs = [
        (
            _SHAPE.uint(index, f"{what}, index", most=_MOST_PCRS - 1),
            _SHAPE.bytes(pcr, f"{what}, a value", size=_PCR_BYTES),
        )
        for index, pcr in value.items()
    ]
    absent = [index for index in _IMAGE_PCRS if index not in value]
    if absent:
        raise unreadable(what, "registers 0, 1 and 2 among them", f"none of index {absent[0]}")
    return tuple(sorted(pcrs))


def _certificates(leaf: object, bundle: object) -> tuple[Certificate, ...]:
    """Leaf first; the document has the root first in its bundle."""
    what = "Nitro document"
    authorities = _SHAPE.array(bundle, f"{what}, cabundle", most=_MOST_AUTHORITIES)
    named = [(leaf, "certificate"), *((der, "cabundle") for der in reversed(authorities))]
    if len(named) < 2:
        raise unreadable(f"{what}, cabundle", f"1 to {_MOST_AUTHORITIES} certificates", "none")
    certificates = []
    for value, field in named:
        der = _SHAPE.bytes(value, f"{what}, {field}", most=_MOST_CERTIFICATE_BYTES)
        certificates.append(Certificate.read(der, f"{what}, {field}"))
    return tuple(certificates)


def appraise_nitro(
    evidence: bytes,
    endorsements: tuple[bytes, ...],
    reference_values: ReferenceValues,
    policy: Policy,
    now_s: int,
    *,
    danger_roots: Roots = PINNED_ROOTS,
) -> tuple[Claims | None, tuple[Check, ...]]:
    """Check a Nitro document's chain and signature; a :class:`~myelin.attest.kind.KindVerifier`.

    ``evidence`` is the document as the security module gives it. Its certificates are inside; of the
    ``endorsements``, only revocation lists are looked at. An enclave in debug mode has registers of zeros.
    """
    document = NitroDocument.read(evidence)
    issued_s = document.timestamp_ms // 1000
    roots = danger_roots.of("aws")
    anchor = root_name(roots)
    claims = Claims(
        kind=RealEvidence.NITRO,
        trust_anchor=anchor,
        registers=tuple((f"pcr{index}", value) for index, value in document.pcrs),
        report_data=document.bound,
        debug=any(not any(value) for index, value in document.pcrs if index in _IMAGE_PCRS),
        platform_id=_instance(document.module_id),
        security_version=None,
        product="",
        tcb=(),
        tcb_status=None,
        advisories=(),
        issued_s=issued_s,
        collateral_issued_s=None,
    )
    statements, _ = split_statements(endorsements)
    chain = completed_chain(document.certificates, roots)
    listed = [place for place, held in enumerate(chain) if distribution_points(held)]
    return claims, (
        _signature_check(document, anchor),
        device_chain_check(document.certificates, roots, issued_s),
        revocation_check(chain, listed, statements, policy, RealEvidence.NITRO, anchor, now_s),
    )


def _instance(module_id: str) -> bytes:
    """The EC2 instance, which an enclave's id begins with; the policy lists it as hex of its ASCII text."""
    return module_id.partition("-enc")[0].encode()


def _signature_check(document: NitroDocument, anchor: str) -> Check:
    name, expected = "evidence signature", "ES384 by the leaf certificate's P-384 key"
    try:
        key = document.certificates[0].public_key()
    except ProtocolError as error:
        return Check.made(name, anchor, expected, error.detail, False)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return Check.made(name, anchor, expected, "the leaf has another kind of key", False)
    half = len(document.signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (document.signature[:half], document.signature[half:]))
    signed = encode(["Signature1", document.protected, b"", document.payload])
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return Check.made(name, anchor, expected, "it does not verify", False)
    return Check.made(name, anchor, expected, "it verifies", True)
