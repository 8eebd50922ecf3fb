"""NVIDIA's reference manifests (RIM): signed lists of what a driver or a VBIOS measures to, as SWID tags.

A manifest becomes a reference value when somebody decides that this driver and this VBIOS are good: NVIDIA
signs manifests of old versions too. So appraisal takes no manifests; :func:`gpu_reference` makes, of two of
them whose checks passed, the table that a policy or a file of reference values holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from myelin.attest.certificate import Certificate, completed_chain
from myelin.attest.chain import device_chain_check, root_name
from myelin.attest.check import Check
from myelin.attest.kind import Measurement, RealEvidence, unreadable
from myelin.attest.policy import Policy
from myelin.attest.revocation import revocation_check, split_statements
from myelin.attest.roots import PINNED_ROOTS, Roots
from myelin.attest.xml_signature import Element, SignedXml
from myelin.errors import ProtocolError

__all__ = ["RimFile", "check_rim", "gpu_reference"]

_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
_MOST_BLOCKS, _MOST_ALTERNATIVES, _DIGEST_BYTES = 128, 16, 48
_VBIOS, _DRIVER = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}"), re.compile(r"\d{1,5}(\.\d{1,5}){1,3}")


@dataclass(frozen=True)
class RimFile:
    """A manifest, read but not believed. ``blocks`` maps an index as reports count, from 1, to the digests
    of which any will do; blocks that the manifest says nothing about are absent."""

    product: str
    version: str
    blocks: Mapping[int, tuple[bytes, ...]]
    signed: SignedXml

    @classmethod
    def read(cls, data: bytes) -> RimFile:
        """Read a manifest; raises ``evidence_unreadable``."""
        what = "RIM file"
        signed = SignedXml.read(data, what)
        root = signed.root
        if root.expanded != (_SWID, "SoftwareIdentity"):
            raise unreadable(what, "a SoftwareIdentity", root.name[:80])
        meta, payload = (_only(root, name, what) for name in ("Meta", "Payload"))
        version = meta.attribute("", "colloquialVersion") or ""
        product = meta.attribute("", "product") or ""
        if not (_VBIOS.fullmatch(version.upper()) or _DRIVER.fullmatch(version)):
            raise unreadable(f"{what}, version", "that of a driver or a VBIOS", version[:80])
        if not re.fullmatch("[A-Za-z0-9_-]{1,32}", product):
            raise unreadable(f"{what}, product", "a name", product[:80])
        return cls(product, version.upper(), MappingProxyType(_blocks(payload, what)), signed)

    @property
    def is_vbios(self) -> bool:
        """Whether it is a VBIOS's, by its version of five parts; else it is a driver's."""
        return _VBIOS.fullmatch(self.version) is not None

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The chain of its signer, leaf first."""
        return self.signed.certificates


def check_rim(
    rim: RimFile,
    endorsements: tuple[bytes, ...],
    policy: Policy,
    now_s: int,
    *,
    danger_roots: Roots = PINNED_ROOTS,
) -> Check:
    """Check a manifest's signature, its signer's chain, now, and that none of the chain is revoked.

    ``endorsements`` hold OCSP answers or lists; without them it fails, unless the policy allows NVIDIA's kind
    without. ``danger_roots`` is for tests.
    """
    roots = danger_roots.of("nvidia-rim")
    anchor = root_name(roots)
    statements, _ = split_statements(endorsements)
    chain = completed_chain(rim.signed.certificates, roots)
    try:
        problem = rim.signed.problem()
    except ProtocolError as error:
        problem = error.detail
    name = f"RIM file of {rim.product} {rim.version}"
    checks = [
        Check.made(
            "manifest's signature", anchor, "ECDSA P-384 by its signer", problem or "it verifies", not problem
        ),
        device_chain_check(rim.signed.certificates, roots, now_s),
        revocation_check(
            chain, range(len(chain) - 1), statements, policy, RealEvidence.NVIDIA, anchor, now_s
        ),
    ]
    return Check.group(name, anchor, checks)


def gpu_reference(one: RimFile, other: RimFile) -> Measurement:
    """The reference value of a driver's and a VBIOS's manifest, given in any order; raises
    ``evidence_unreadable`` if they are not one of each, for one product."""
    what = "RIM files"
    by_kind = {rim.is_vbios: rim for rim in (one, other)}
    if len(by_kind) != 2 or one.product != other.product:
        got = f"{one.product} {one.version} and {other.product} {other.version}"
        raise unreadable(what, "a driver's and a VBIOS's of one product", got)
    driver, vbios = by_kind[False], by_kind[True]
    twice = sorted(set(driver.blocks) & set(vbios.blocks))
    if twice:
        raise unreadable(what, "each block in one of the two", f"block {twice[0]} in both")
    blocks = sorted({**driver.blocks, **vbios.blocks}.items())
    registers = [
        ("driver_version", driver.version.encode()),
        ("vbios_version", vbios.version.encode()),
        *((f"block{index}", value) for index, values in blocks for value in values),
    ]
    return Measurement(kind=RealEvidence.NVIDIA, registers=tuple(registers))


def _only(parent: Element, local: str, what: str) -> Element:
    found = [child for child in parent.elements if child.expanded == (_SWID, local)]
    if len(found) != 1:
        raise unreadable(what, f"one {local}", str(len(found)))
    return found[0]


def _blocks(payload: Element, what: str) -> dict[int, tuple[bytes, ...]]:
    """The blocks that are active, by reports' count; manifests count from 0."""
    blocks: dict[int, tuple[bytes, ...]] = {}
    seen: set[int] = set()
    for resource in payload.elements:
        if resource.expanded != (_SWID, "Resource") or resource.attribute("", "type") != "Measurement":
            raise unreadable(f"{what}, payload", "measurements", resource.name[:80])
        index = _number(resource, "index", _MOST_BLOCKS - 1, what)
        if index in seen:
            raise unreadable(f"{what}, payload", "each index once", f"{index} twice")
        seen.add(index)
        active = resource.attribute("", "active")
        if active not in ("True", "False"):
            raise unreadable(f"{what}, block {index}, active", "True or False", str(active)[:40])
        if active == "True":
            count = _number(resource, "alternatives", _MOST_ALTERNATIVES, what)
            digests = tuple(_digest(resource, place, f"{what}, block {index}") for place in range(count))
            if not digests:
                raise unreadable(f"{what}, block {index}", "at least one digest", "none")
            blocks[index + 1] = tuple(dict.fromkeys(digests))
    if not blocks:
        raise unreadable(what, "at least one active block", "none")
    return blocks


def _number(resource: Element, name: str, most: int, what: str) -> int:
    text = resource.attribute("", name) or ""
    if not re.fullmatch("[0-9]{1,3}", text) or int(text) > most:
        raise unreadable(f"{what}, {name}", f"a number up to {most}", text[:40])
    return int(text)


def _digest(resource: Element, place: int, what: str) -> bytes:
    text = resource.attribute(_SHA384, f"Hash{place}") or ""
    if not re.fullmatch(f"[0-9a-fA-F]{{{2 * _DIGEST_BYTES}}}", text):
        raise unreadable(f"{what}, digest {place}", f"{_DIGEST_BYTES} bytes in hex", text[:40])
    return bytes.fromhex(text)
