"""The chain of a device's key: the one rule for chains, and the use that the leaf's key may be put to."""

from __future__ import annotations

from collections.abc import Sequence

from myelin.attest.certificate import Certificate, chain_check, read_pem
from myelin.attest.check import Check
from myelin.attest.der import read_element
from myelin.attest.roots import PinnedCertificate
from myelin.errors import ProtocolError

__all__ = ["device_chain_check", "endorsed_certificates", "root_name"]

_BASIC_CONSTRAINTS, _KEY_USAGE = "2.5.29.19", "2.5.29.15"
_DIGITAL_SIGNATURE, _KEY_CERT_SIGN = 0, 5
_BIT_STRING = 0x03


def device_chain_check(
    certificates: Sequence[Certificate],
    roots: Sequence[PinnedCertificate],
    at_s: int,
    *,
    name: str = "certificate chain",
    understood: frozenset[str] = frozenset(),
) -> Check:
    """Check a chain, leaf first, by :func:`~myelin.attest.certificate.chain_check`, and that the leaf is a
    device's: its key may make signatures and issue nothing. ``understood`` names further critical
    extensions that the caller reads or that restrict nothing here.
    """
    anchor = root_name(roots)
    checks = [
        chain_check(certificates, roots, at_s, anchor=anchor, name="chain", understood=understood),
        *(_leaf_check(leaf, anchor) for leaf in certificates[:1]),
    ]
    return Check.group(name, anchor, checks)


def root_name(roots: Sequence[PinnedCertificate]) -> str:
    """What people call the roots that a chain may end in."""
    return " or ".join(root.name for root in roots) or "(no root of this vendor is pinned)"


def _leaf_check(leaf: Certificate, anchor: str) -> Check:
    try:
        usage = (
            _bits(leaf.extensions[_KEY_USAGE][1]) if _KEY_USAGE in leaf.extensions else {_DIGITAL_SIGNATURE}
        )
        issues = _is_authority(leaf) or _KEY_CERT_SIGN in usage
    except ProtocolError as error:
        return Check.made("use of the leaf's key", anchor, "readable constraints", error.detail, False)
    signs = _DIGITAL_SIGNATURE in usage
    got = f"{'signs' if signs else 'may not sign'}, {'may issue' if issues else 'issues nothing'}"
    return Check.made("use of the leaf's key", anchor, "signs, issues nothing", got, signs and not issues)


def _is_authority(leaf: Certificate) -> bool:
    if _BASIC_CONSTRAINTS not in leaf.extensions:
        return False
    fields = read_element(leaf.extensions[_BASIC_CONSTRAINTS][1], "basic constraints").children()
    return bool(fields) and fields[0].boolean()


def _bits(extension: bytes) -> set[int]:
    """The numbers of the bits that a DER bit string sets."""
    content = read_element(extension, "key usage").expect(_BIT_STRING).content[1:]
    return {
        8 * place + bit for place, byte in enumerate(content) for bit in range(8) if byte >> (7 - bit) & 1
    }


def endorsed_certificates(endorsements: Sequence[bytes]) -> list[Certificate]:
    """The certificates in endorsements, PEM files or single DER certificates, in their order.

    What is neither is left out: the checks that want it fail for want of it.
    """
    found = []
    for number, endorsement in enumerate(endorsements):
        what = f"endorsement {number}"
        try:
            pem = endorsement.lstrip().startswith(b"-----BEGIN")
            ders = read_pem(endorsement, what) if pem else [endorsement]
            found += [Certificate.read(der, f"{what}, certificate") for der in ders]
        except ProtocolError:
            continue
    return found
