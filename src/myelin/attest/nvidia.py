"""NVIDIA GPUs (Hopper, Blackwell): an SPDM measurement report by the GPU's own key, and that key's chain.

Reference values come from the RIM files that NVIDIA publishes for a driver and for a VBIOS. A RIM gives,
for some of the 64 measurement blocks, one digest or several alternatives; NVIDIA counts its blocks from 0,
the report from 1. A reference value here names ``driver_version``, ``vbios_version`` and the blocks as
``block1`` … ``block64``; a register may be named several times, and then any of its values will do. Every
block that measured something must be named: what nobody expected is refused, not passed over.

The nonce has 32 bytes: a relying party whose report data is longer gives its SHA-256 to the GPU. The report
says nothing of the confidential-computing mode that the measured firmware and driver do not enforce. Every
certificate but the firmware's own, which the GPU makes itself, must be free of revocation, by NVIDIA's OCSP
answers or lists.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from myelin.attest.certificate import Certificate, completed_chain
from myelin.attest.chain import device_chain_check, endorsed_certificates, root_name
from myelin.attest.check import Check
from myelin.attest.der import OCTET_STRING, Element, context, read_element
from myelin.attest.kind import Claims, Measurement, RealEvidence, ReferenceValues
from myelin.attest.policy import Policy
from myelin.attest.revocation import revocation_check, split_statements
from myelin.attest.roots import PINNED_ROOTS, Roots
from myelin.attest.spdm import SpdmReport
from myelin.errors import ProtocolError

__all__ = ["appraise_nvidia", "driver_version", "vbios_version"]

_DRIVER_VERSION, _VBIOS_VERSION, _FIRMWARE_ID = 3, 6, 20
_COMPOSITE_DEVICE_ID, _DICE_TCB_INFO = "2.23.133.5.4.1", "2.23.133.5.4.1.1"
_SHA384 = "2.16.840.1.101.3.4.2.2"
_TCB_INFO_FIRMWARE, _TCB_INFO_FLAGS = context(6), context(7, constructed=False)
_DEBUG_FLAGS = 1 << (7 - 1) | 1 << (7 - 3)
"""notSecure and debug, in the first byte of DiceTcbInfo's flags."""
_DEVICE = 1
"""The place in the chain of the certificate that names the one GPU; the leaf names its firmware too."""


def appraise_nvidia(
    evidence: bytes,
    endorsements: tuple[bytes, ...],
    reference_values: ReferenceValues,
    policy: Policy,
    now_s: int,
    *,
    danger_roots: Roots = PINNED_ROOTS,
) -> tuple[Claims | None, tuple[Check, ...]]:
    """Check a report's signature, chain and firmware; a :class:`~myelin.attest.kind.KindVerifier`.

    ``evidence`` is request and response, one after the other; ``endorsements`` hold the chain that the GPU
    gives, the leaf first, and OCSP answers or revocation lists. The platform is the SHA-256
    of the device certificate's public key.
    """
    report = SpdmReport.read(evidence)
    statements, others = split_statements(endorsements)
    chain, roots = endorsed_certificates(others), danger_roots.of("nvidia")
    anchor = root_name(roots)
    claims = Claims(
        kind=RealEvidence.NVIDIA,
        trust_anchor=anchor,
        registers=_registers(report),
        report_data=(("nonce", report.nonce),),
        debug=_in_debug(chain),
        platform_id=_platform(chain),
        security_version=None,
        product=_product(chain),
        tcb=(),
        tcb_status=None,
        advisories=(),
        issued_s=None,
        collateral_issued_s=None,
    )
    complete = completed_chain(chain, roots)
    revocable = range(_DEVICE, len(complete) - 1)
    return claims, (
        _signature_check(report, chain, anchor),
        device_chain_check(chain, roots, now_s),
        revocation_check(complete, revocable, statements, policy, RealEvidence.NVIDIA, anchor, now_s),
        _firmware_check(report, chain, anchor),
        _coverage_check(report, (*policy.measurements, *reference_values.known)),
    )


def driver_version(report: SpdmReport) -> str:
    """The driver's version, as text; empty if the report has none."""
    return _text(report.fields.get(_DRIVER_VERSION, b"").rstrip(b"\0"))


def vbios_version(report: SpdmReport) -> str:
    """The VBIOS's version as NVIDIA writes it (``96.00.5E.00.01``); empty if the report has none."""
    value = report.fields.get(_VBIOS_VERSION, b"")
    if len(value) != 8:
        return ""
    return ".".join(f"{byte:02X}" for byte in (*reversed(value[:4]), value[4]))


def _text(value: bytes) -> str:
    return value.decode("ascii") if value.isascii() and value.decode("ascii").isprintable() else ""


def _registers(report: SpdmReport) -> tuple[tuple[str, bytes], ...]:
    versions = (("driver_version", driver_version(report)), ("vbios_version", vbios_version(report)))
    return (
        *((name, text.encode()) for name, text in versions if text),
        *((f"block{index}", digest) for index, digest in sorted(report.blocks.items())),
    )


def _platform(chain: list[Certificate]) -> bytes | None:
    if len(chain) <= _DEVICE:
        return None
    digest = hashes.Hash(hashes.SHA256())
    digest.update(chain[_DEVICE].public_key_info)
    return digest.finalize()


def _product(chain: list[Certificate]) -> str:
    """``gh100`` out of ``GH100 A01 GSP FMC LF``."""
    word = chain[0].common_name.split(" ")[0].lower() if chain else ""
    return word if word.isascii() and word.isalnum() else ""


def _signature_check(report: SpdmReport, chain: list[Certificate], anchor: str) -> Check:
    name, expected = "evidence signature", "ECDSA with SHA-384 by the leaf certificate's P-384 key"
    if not chain:
        why = "no certificate was given; endorse the report with the chain that the GPU gives"
        return Check.skipped(name, anchor, expected, why)
    try:
        key = chain[0].public_key()
    except ProtocolError as error:
        return Check.made(name, anchor, expected, error.detail, False)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return Check.made(name, anchor, expected, "the leaf has another kind of key", False)
    half = len(report.signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (report.signature[:half], report.signature[half:]))
    try:
        key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return Check.made(name, anchor, expected, "it does not verify", False)
    return Check.made(name, anchor, expected, "it verifies", True)


def _firmware_check(report: SpdmReport, chain: list[Certificate], anchor: str) -> Check:
    """The firmware that signed is the one that the leaf certificate was made for.

    The leaf carries that firmware's digest; reports of recent drivers repeat it.
    """
    name = "firmware of the key"
    certified = _certified_firmware(chain[0]) if chain else None
    if certified is None:
        return Check.made(name, anchor, "a firmware digest in the leaf certificate", "none", False)
    reported = report.fields.get(_FIRMWARE_ID)
    if reported is None:
        return Check.made(name, anchor, certified.hex(), "the report repeats none; the leaf vouches", True)
    return Check.made(name, anchor, certified.hex(), reported.hex(), reported == certified)


def _certified_firmware(leaf: Certificate) -> bytes | None:
    """The SHA-384 digest of the firmware in DICE's extension of the leaf, of which there are two layouts.

    Hopper has CompositeDeviceID: a version, the device's key, the digest. Blackwell has DiceTcbInfo, whose
    list of digests begins with that of the layer that holds the key.
    """
    try:
        if _COMPOSITE_DEVICE_ID in leaf.extensions:
            parts = read_element(leaf.extensions[_COMPOSITE_DEVICE_ID][1], "CompositeDeviceID").children()
            return _sha384_in(parts[-1]) if len(parts) == 3 else None
        digests = _tcb_info(leaf).get(_TCB_INFO_FIRMWARE)
        return _sha384_in(digests.children(_TCB_INFO_FIRMWARE)[0]) if digests is not None else None
    except (ProtocolError, IndexError):
        return None


def _tcb_info(leaf: Certificate) -> dict[int, Element]:
    """The fields of DiceTcbInfo by their tags; empty without that extension."""
    if _DICE_TCB_INFO not in leaf.extensions:
        return {}
    fields = read_element(leaf.extensions[_DICE_TCB_INFO][1], "DiceTcbInfo").children()
    return {field.tag: field for field in fields}


def _sha384_in(pair: Element) -> bytes | None:
    parts = pair.children()
    if len(parts) != 2 or parts[0].oid() != _SHA384 or parts[1].tag != OCTET_STRING:
        return None
    return parts[1].content


def _in_debug(chain: list[Certificate]) -> bool:
    """Whether the leaf says that its firmware is open to debugging or not secure; so too if unreadable."""
    try:
        flags = _tcb_info(chain[0]).get(_TCB_INFO_FLAGS) if chain else None
    except ProtocolError:
        return True
    first = flags.content[1:2] if flags is not None else b""
    return bool(first) and bool(first[0] & _DEBUG_FLAGS)


def _coverage_check(report: SpdmReport, known: Iterable[Measurement]) -> Check:
    """Some reference value agrees in all that it names, and names every block that measured something."""
    name, anchor = "measured blocks", "the relying party's reference values"
    expected = "a reference value for each block that is not zero"
    measured = {f"block{index}" for index, digest in report.blocks.items() if any(digest)}
    given = [m for m in known if m.kind is RealEvidence.NVIDIA]
    if not given:
        driver, vbios = driver_version(report) or "?", vbios_version(report) or "?"
        why = (
            "no reference value was given; take the digests from NVIDIA's RIM files for "
            f"driver {driver} and VBIOS {vbios}, block N in a report being index N-1 there"
        )
        return Check.skipped(name, anchor, expected, why)
    registers = dict(_registers(report))
    agreeing = [m for m in given if not m.differing(registers)]
    unknown = min((sorted(measured - {name for name, _ in m.registers}) for m in agreeing or given), key=len)
    got = f"none for {', '.join(unknown)}" if unknown else f"one for each of {len(measured)}"
    if not agreeing:
        got += ", but no reference value agrees in all that it names"
    return Check.made(name, anchor, expected, got, bool(agreeing) and not unknown)
