"""Reference manifests like NVIDIA's, signed under a root of the tests' own.

The document is written in its canonical form, so no canonicalisation of anybody's is needed to sign it;
``rewritten`` gives the same document in another form, which must verify just the same.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta
from typing import Any

from vendors.certificates import Issued, issue, raw_signature, root

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
HASH = "http://www.w3.org/2001/04/xmlenc#sha384"
SCOPE = f'xmlns="{SWID}" xmlns:ns0="{SWID}" xmlns:ns2="{HASH}"'
CANONICAL = "http://www.w3.org/2006/12/xml-c14n11"
MORE = "http://www.w3.org/2001/04/xmldsig-more#"
DS = "http://www.w3.org/2000/09/xmldsig#"


class RimSigner:
    """A root for manifests, two authorities and a signer, as NVIDIA has."""

    def __init__(self, **leaf: Any) -> None:
        long = timedelta(days=1000)
        self.root = root("vendor test root (rim)")
        self.authorities = [issue("Reference Value CA", self.root, valid=long)]
        self.authorities.append(issue("Reference Value L3", self.authorities[0], valid=long))
        settings = {"authority": False, "valid": long, **leaf}
        self.leaf = issue("RIM L4 Signer", self.authorities[-1], **settings)
        self.roots = self.root.pinned_as("nvidia-rim")

    @property
    def chain(self) -> list[Issued]:
        return [self.leaf, *reversed(self.authorities), self.root]

    def manifest(self, version: str, blocks: dict[int, list[bytes]], **changes: Any) -> bytes:
        """A signed manifest; blocks by NVIDIA's count, from 0."""
        head, tail = document(version, blocks, **changes)
        return self.signed(head, tail, **changes)

    def signed(
        self, head: str, tail: str, *, key: Any = None, info: dict[str, str] | None = None, **_: Any
    ) -> bytes:
        """Sign ``head + tail`` with the signature between the two."""
        digest = base64.b64encode(hashlib.sha384((head + tail).encode()).digest()).decode()
        names = {"digest": digest, "uri": "", "signature": f"{MORE}ecdsa-sha384", "hash": f"{MORE}sha384"}
        content = _info({**names, "canonical": CANONICAL, **(info or {})})
        canonical = f"<ds:SignedInfo {_canonical_scope()}>{content}</ds:SignedInfo>"
        value = base64.b64encode(raw_signature(key or self.leaf.key, canonical.encode())).decode()
        held = "".join(
            f"<ds:X509Certificate>{base64.encodebytes(one.der).decode()}</ds:X509Certificate>"
            for one in self.chain
        )
        envelope = (
            f'<ds:Signature xmlns:ds="{DS}"><ds:SignedInfo>{content}</ds:SignedInfo>'
            f"<ds:SignatureValue>{value}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>{held}</ds:X509Data>"
            "</ds:KeyInfo></ds:Signature>"
        )
        return (head + envelope + tail).encode()


def document(
    version: str, blocks: dict[int, list[bytes]], *, product: str = "GX100", extra: str = "", **_: Any
) -> tuple[str, str]:
    """The document in canonical form, before and after the place of the signature."""
    rows = "\n".join(_resource(index, values) for index, values in blocks.items())
    head = (
        f'<SoftwareIdentity {SCOPE} name="{product}" tagId="a &amp; &lt;b" version="1.0">\n'
        f'  <ns0:Meta PayloadType="direct" colloquialVersion="{version}" product="{product}"></ns0:Meta>\n'
        f"  <ns0:Payload>\n{rows}{extra}\n  </ns0:Payload>\n"
    )
    return head, "</SoftwareIdentity>"


def rewritten(manifest: bytes) -> bytes:
    """The same document in another form: declaration, empty elements, quotes, order, line ends."""
    text = manifest.decode()
    changes = (
        (f'<SoftwareIdentity {SCOPE} name="GX100"', f"<SoftwareIdentity\n name='GX100'  {SCOPE}"),
        ('PayloadType="direct" colloquialVersion=', "colloquialVersion="),
        ('product="GX100"></ns0:Meta>', "product='GX100' PayloadType='direct'/>"),
        ("&lt;b", "&#60;b"),
        ("</ns0:Payload>\n", "</ns0:Payload >\r\n"),
    )
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + text.encode()


def _resource(index: int, values: list[bytes]) -> str:
    """Attributes in no namespace come first, by name; then those of the hashes' namespace."""
    active = "True" if values else "False"
    given = values or [bytes(48)]
    digests = " ".join(f'ns2:Hash{n}="{value.hex()}"' for n, value in enumerate(given))
    plain = f'active="{active}" alternatives="{len(given)}" index="{index}" name="M_{index}" size="48"'
    return f'    <ns0:Resource {plain} type="Measurement" {digests}></ns0:Resource>'


def _info(names: dict[str, str]) -> str:
    return (
        f'<ds:CanonicalizationMethod Algorithm="{names["canonical"]}"></ds:CanonicalizationMethod>'
        f'<ds:SignatureMethod Algorithm="{names["signature"]}"></ds:SignatureMethod>'
        f'<ds:Reference URI="{names["uri"]}"><ds:Transforms>'
        f'<ds:Transform Algorithm="{DS}enveloped-signature"></ds:Transform>'
        f'<ds:Transform Algorithm="{CANONICAL}"></ds:Transform></ds:Transforms>'
        f'<ds:DigestMethod Algorithm="{names["hash"]}"></ds:DigestMethod>'
        f"<ds:DigestValue>{names['digest']}</ds:DigestValue></ds:Reference>"
    )


def _canonical_scope() -> str:
    """Namespaces that SignedInfo inherits, by prefix, as Canonical XML writes them on it."""
    return f'xmlns="{SWID}" xmlns:ds="{DS}" xmlns:ns0="{SWID}" xmlns:ns2="{HASH}"'
