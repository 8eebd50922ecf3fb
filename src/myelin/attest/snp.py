"""AMD SEV-SNP: the report's signature by the chip's key, that key's certificate, and what binds the two.

The key (VCEK of one chip, or VLEK of one cloud) is derived from the chip's secret and the firmware's
versions, so its certificate names both, and both must be the report's. AMD's certificates have the serial
number 0; see :mod:`myelin.attest.der`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from myelin.attest.certificate import Certificate, chain_check, completed_chain, read_pem
from myelin.attest.check import Check
from myelin.attest.der import IA5_STRING, read_element
from myelin.attest.kind import Claims, RealEvidence, ReferenceValues
from myelin.attest.policy import MinimumTcb, Policy
from myelin.attest.revocation import revocation_check, split_statements
from myelin.attest.roots import PINNED_ROOTS, Roots
from myelin.attest.snp_report import SnpReport, read_report, tcb_components
from myelin.attest.snp_table import is_certificate_table, read_certificate_table
from myelin.errors import ProtocolError

__all__ = [
    "GENERATIONS",
    "SnpVerification",
    "appraise_snp",
    "report_signed_by",
    "snp_claims",
    "verify_snp_report",
]

_OID = "1.3.6.1.4.1.3704.1."
_PRODUCT, _CHIP, _CLOUD = _OID + "2", _OID + "4", _OID + "5"
_COMPONENTS = {
    _OID + "3.1": "bootloader",
    _OID + "3.2": "tee",
    _OID + "3.3": "snp",
    _OID + "3.8": "microcode",
    _OID + "3.9": "fmc",
}
GENERATIONS = {"genoa-x": "genoa", "bergamo": "genoa", "siena": "genoa", "turin-dense": "turin"}
"""The product lines, by products within them: AMD has a root and a name in its service for each."""
_NO_CHIP = bytes(64)
_INTERMEDIATE = 1
"""The place in the chain of the certificate that AMD's root can revoke: the ASK or ASVK. It issues no list
for those below, whose serial numbers are all 0: firmware retires them, by the TCB versions they are for."""

_SMT, _RESERVED_ONE, _MIGRATION, _DEBUG = 1 << 16, 1 << 17, 1 << 18, 1 << 19
_SINGLE_SOCKET, _CXL = 1 << 20, 1 << 21
_STRICTER = _SINGLE_SOCKET | 0b1111 << 22
"""Bits of the guest policy that only ask for more: one socket, AES-256-XTS, no RAPL, ciphertext hiding, no
swapping of pages by the host."""
_FEATURES = {
    "tsme": 1 << 1,
    "ecc": 1 << 2,
    "rapl-disabled": 1 << 3,
    "ciphertext-hiding": 1 << 4,
    "alias-check": 1 << 5,
}
_PLATFORM_SMT = 1


@dataclass(frozen=True)
class SnpVerification:
    """What came of a report and its endorsements: the checks, and what claims are made of."""

    checks: tuple[Check, ...]
    trust_anchor: str
    product: str
    tcb: tuple[tuple[str, int], ...]
    platform_id: bytes | None


def appraise_snp(
    evidence: bytes,
    endorsements: tuple[bytes, ...],
    reference_values: ReferenceValues,
    policy: Policy,
    now_s: int,
    *,
    danger_roots: Roots = PINNED_ROOTS,
) -> tuple[Claims | None, tuple[Check, ...]]:
    """Appraise a SEV-SNP report of version 2 to 5, as the firmware gave it.

    ``endorsements`` hold the certificate of the key that signed it (VCEK or VLEK), in DER, in PEM or in the
    table that a host hands its guest, for a VLEK that of its issuer (ASVK), and the revocation list of AMD's
    root; AMD's ASKs come with the package. Other certificates are passed over.
    """
    report = read_report(evidence)
    kind = RealEvidence.SEV_SNP
    verified = verify_snp_report(kind, report, endorsements, policy, now_s, danger_roots)
    level = Check.made(
        "privilege level", verified.trust_anchor, "VMPL 0", f"VMPL {report.vmpl}", report.vmpl == 0
    )
    claims = snp_claims(
        kind,
        report,
        verified,
        registers=(
            ("family_id", report.family_id),
            ("image_id", report.image_id),
            ("id_key_digest", report.id_key_digest),
            ("author_key_digest", report.author_key_digest),
        ),
        report_data=("report_data", report.report_data),
    )
    return claims, (*verified.checks, level)


def snp_claims(
    kind: RealEvidence,
    report: SnpReport,
    verified: SnpVerification,
    *,
    registers: tuple[tuple[str, bytes], ...],
    report_data: tuple[str, bytes],
) -> Claims:
    """The claims of evidence that rests on a report: the report's, ``registers`` more, and what is bound."""
    return Claims(
        kind=kind,
        trust_anchor=verified.trust_anchor,
        registers=(("measurement", report.measurement), ("host_data", report.host_data), *registers),
        report_data=(report_data,),
        debug=report.debug,
        platform_id=verified.platform_id,
        security_version=report.guest_svn,
        product=verified.product,
        tcb=verified.tcb,
        tcb_status=None,
        advisories=(),
        issued_s=None,
        collateral_issued_s=None,
    )


def verify_snp_report(
    kind: RealEvidence,
    report: SnpReport,
    endorsements: Iterable[bytes],
    policy: Policy,
    now_s: int,
    roots: Roots,
) -> SnpVerification:
    """Verify a report's signature, its certificates, what binds the two, and what the platform is set to.
    ``kind`` is the evidence that rests on it."""
    statements, others = split_statements(endorsements)
    known, unread = _certificates(others)
    name = f"SEV-{report.signing_key}"
    leaves = [c for c in known if c.common_name == name]
    leaf = next((c for c in leaves if report_signed_by(report, c)), leaves[0] if leaves else None)
    generation = _generation(report, leaf)
    product = report.product or generation
    root = next((r for r in roots.of("amd") if r.product == generation), None)
    anchor = root.name if root is not None else f"AMD, but no root for product {product!r}"
    checks = [_signature_check(report, leaf, anchor, name), *unread]
    if leaf is not None:
        chain = [leaf, *_issuers(leaf, known, roots)]
        ends = [root] if root is not None else []
        complete = completed_chain(chain, ends)
        checks += [
            chain_check(chain, ends, now_s, anchor=anchor),
            revocation_check(complete, [_INTERMEDIATE], statements, policy, kind, anchor, now_s),
            *_binding_checks(report, leaf, generation, anchor),
        ]
    checks += _platform_checks(report, policy, product, anchor)
    chip = None if report.chip_id == _NO_CHIP else report.chip_id
    return SnpVerification(tuple(checks), anchor, product, _lowest_tcb(report, generation), chip)


def report_signed_by(report: SnpReport, certificate: Certificate) -> bool:
    """Whether the certificate's key made the report's signature (ECDSA P-384 with SHA-384)."""
    try:
        key = certificate.public_key()
    except ProtocolError:
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        return False
    try:
        key.verify(encode_dss_signature(*report.signature), report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def _signature_check(report: SnpReport, leaf: Certificate | None, anchor: str, name: str) -> Check:
    title, expected = "evidence signature", f"made by the chip's {report.signing_key}"
    if leaf is None:
        return Check.skipped(title, anchor, expected, f"no certificate of {name} among the endorsements")
    good = report_signed_by(report, leaf)
    return Check.made(title, anchor, expected, "it verifies" if good else "it does not verify", good)


def _certificates(endorsements: Iterable[bytes]) -> tuple[list[Certificate], list[Check]]:
    """Every certificate that can be read, and a failed check for each endorsement that cannot."""
    known: list[Certificate] = []
    failed = []
    for place, data in enumerate(endorsements, 1):
        what = f"endorsement {place}"
        try:
            parts = read_certificate_table(data, what) if is_certificate_table(data) else [data]
            for part in parts:
                pem = part.lstrip()[:5] == b"-----"
                known += [Certificate.read(der, what) for der in (read_pem(part, what) if pem else [part])]
        except ProtocolError as error:
            failed.append(Check.made(what, "none", "certificates in DER or PEM", error.detail, False))
    return known, failed


def _issuers(leaf: Certificate, known: list[Certificate], roots: Roots) -> Iterator[Certificate]:
    """The intermediate that the leaf names and whose key signed it, of the endorsements or of the package."""
    carried = (Certificate.read(pinned.der, pinned.name) for pinned in roots.intermediates_of("amd"))
    for candidate in (*known, *carried):
        if candidate.subject == leaf.issuer and leaf.signed_by(candidate):
            yield candidate
            return


def _generation(report: SnpReport, leaf: Certificate | None) -> str:
    """Milan, Genoa or Turin: by the processor where the report names it, else by the certificate."""
    if report.product is not None:
        return GENERATIONS.get(report.product, report.product)
    return _certified_product(leaf) if leaf is not None else "unknown"


def _certified_product(leaf: Certificate) -> str:
    """The product line in the certificate's own extension (``Milan-B0``), in lower case."""
    extension = leaf.extensions.get(_PRODUCT)
    if extension is None:
        return "unknown"
    try:
        name = read_element(extension[1], "product name").expect(IA5_STRING).content
    except ProtocolError:
        return "unknown"
    product = name.decode("ascii", "replace").partition("-")[0].lower()[:32]
    return GENERATIONS.get(product, product)


def _binding_checks(report: SnpReport, leaf: Certificate, generation: str, anchor: str) -> Iterator[Check]:
    certified = _certified_product(leaf)
    if report.product is not None:
        yield Check.made(
            "product", anchor, generation, f"a certificate for {certified}", certified == generation
        )
    versions = tcb_components(report.reported_tcb, generation)
    got = {component: _certified_version(leaf, oid) for oid, component in _COMPONENTS.items()}
    differing = [f"{name} {got[name]}" for name, version in versions if got[name] != version]
    expected = ", ".join(f"{name} {version}" for name, version in versions)
    yield Check.made(
        "certified TCB",
        anchor,
        f"the report's: {expected}",
        ", ".join(differing) or "the same",
        not differing,
    )
    chip = leaf.extensions.get(_CHIP)
    if report.signing_key == "VCEK":
        certified_chip = chip[1] if chip is not None else b""
        same = len(certified_chip) in (8, 64) and report.chip_id == certified_chip.ljust(64, b"\0")
        shown = certified_chip.hex() or "none"
        good = same and report.chip_id != _NO_CHIP
        yield Check.made("certified chip", anchor, report.chip_id.hex(), shown, good)
    else:
        cloud = _CLOUD in leaf.extensions
        good = cloud and chip is None
        yield Check.made(
            "certified cloud", anchor, "a cloud's name and no chip", "so" if good else "otherwise", good
        )


def _certified_version(leaf: Certificate, oid: str) -> int | None:
    extension = leaf.extensions.get(oid)
    if extension is None:
        return None
    try:
        return read_element(extension[1], "certified version").integer()
    except ProtocolError:
        return None


def _lowest_tcb(report: SnpReport, generation: str) -> tuple[tuple[str, int], ...]:
    """The least of every version that the guest has run on or can be put back to."""
    every = [
        tcb_components(tcb, generation)
        for tcb in (report.reported_tcb, report.current_tcb, report.committed_tcb, report.launch_tcb)
    ]
    return tuple((same[0][0], min(version for _, version in same)) for same in zip(*every, strict=True))


def _platform_checks(report: SnpReport, policy: Policy, product: str, anchor: str) -> Iterator[Check]:
    allowed = _RESERVED_ONE | _STRICTER | _DEBUG | 0xFFFF  # debugging has a check of its own, for every kind
    more = report.policy & ~allowed & ~_SMT
    names = {_MIGRATION: "a migration agent", _CXL: "memory on CXL"}
    found = [text for bit, text in names.items() if more & bit]
    if more & ~(_MIGRATION | _CXL):
        found.append(f"unknown bits {more & ~(_MIGRATION | _CXL):#x}")
    yield Check.made(
        "guest policy",
        anchor,
        "no migration agent, no memory on CXL, nothing unknown",
        ", ".join(found) or f"{report.policy:#x}",
        not found,
    )
    smt = bool(report.policy & _SMT) or bool(report.platform_info & _PLATFORM_SMT)
    yield Check.made(
        "one thread a core",
        anchor,
        "not asked for" if policy.allow_smt else "yes",
        "no" if smt else "yes",
        policy.allow_smt or not smt,
    )
    for minimum in policy.minimum_tcb:
        if minimum.kind is RealEvidence.SEV_SNP and minimum.product == product:
            yield from _minimum_checks(report, minimum, anchor)


def _minimum_checks(report: SnpReport, minimum: MinimumTcb, anchor: str) -> Iterator[Check]:
    if minimum.features:
        missing = sorted(f for f in minimum.features if not report.platform_info & _FEATURES[f])
        expected = ", ".join(sorted(minimum.features))
        got = f"missing: {', '.join(missing)}" if missing else "all on"
        yield Check.made("platform features", anchor, expected, got, not missing)
    if minimum.mitigations:
        expected = f"bits {minimum.mitigations:#x} at launch and now"
        if report.mitigations is None:
            why = f"a report of version {report.version} says nothing of mitigations"
            yield Check.skipped("mitigations", anchor, expected, why)
        else:
            both = report.mitigations[0] & report.mitigations[1]
            lacking = minimum.mitigations & ~both
            yield Check.made(
                "mitigations",
                anchor,
                expected,
                f"{both:#x}",
                not lacking,
                margin=f"lacks {lacking:#x}" if lacking else "",
            )
