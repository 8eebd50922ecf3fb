"""Signed XML, in the one form that reference manifests have: XML Signature 1.1, enveloped, ECDSA P-384.

XML Signature is large and its history is one of verifiers that checked one thing and read another. This is a
small closed part of it: one signature, a child of the root, over the whole document but itself, with fixed
algorithms; no document type, entities, instructions, comments or ``xml:`` attributes. For documents without
those, Canonical XML 1.0 and 1.1 are the same, and short. What a caller reads is the tree whose canonical form
was hashed, never the bytes again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from myelin.attest.certificate import MOST_CHAIN, Certificate
from myelin.attest.kind import unreadable

__all__ = ["MOST_XML_BYTES", "Element", "SignedXml"]

MOST_XML_BYTES = 1 << 20
"""Longest document that is looked at."""

_MOST_ELEMENTS, _MOST_DEPTH, _MOST_ATTRIBUTES = 4096, 16, 64
_DS = "http://www.w3.org/2000/09/xmldsig#"
_CANONICAL = frozenset(
    {"http://www.w3.org/2006/12/xml-c14n11", "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"}
)
_ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_SIGNATURE_BYTES = 96


@dataclass
class Element:
    """An element: its name as written, its attributes by name as written, the namespaces in scope by prefix
    (the empty one is the default), and its children, elements and text."""

    name: str
    attributes: dict[str, str]
    scope: Mapping[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def expanded(self) -> tuple[str, str]:
        """Namespace and local name."""
        prefix, _, local = self.name.rpartition(":")
        return self.scope.get(prefix, ""), local

    @property
    def elements(self) -> list[Element]:
        """The elements among the children."""
        return [child for child in self.children if isinstance(child, Element)]

    @property
    def text(self) -> str:
        """The text among the children."""
        return "".join(child for child in self.children if isinstance(child, str))

    def attribute(self, namespace: str, local: str) -> str | None:
        """The value of an attribute by its expanded name; unprefixed ones are in no namespace."""
        for name, value in self.attributes.items():
            prefix, _, rest = name.rpartition(":")
            if rest == local and (self.scope.get(prefix) if prefix else "") == namespace:
                return value
        return None


@dataclass(frozen=True)
class SignedXml:
    """A document, read but not believed. ``root`` is what is signed: the document without its signature."""

    root: Element
    digest: bytes
    signed_digest: bytes
    signed_info: bytes
    signature: bytes
    certificates: tuple[Certificate, ...]

    @classmethod
    def read(cls, data: bytes, what: str) -> SignedXml:
        """Read a signed document; raises ``evidence_unreadable``."""
        root = _parse(data, what)
        places = [
            place
            for place, child in enumerate(root.children)
            if isinstance(child, Element) and child.expanded == (_DS, "Signature")
        ]
        if len(places) != 1:
            raise unreadable(what, "one signature, a child of the root", str(len(places)))
        envelope = root.children.pop(places[0])
        if not isinstance(envelope, Element) or any(_named(root, "Signature")):
            raise unreadable(what, "one signature", "another inside of the document")
        info, value, key = _parts(envelope, ("SignedInfo", "SignatureValue", "KeyInfo"), what)
        signature = _base64(value.text, f"{what}, signature")
        if len(signature) != _SIGNATURE_BYTES:
            raise unreadable(f"{what}, signature", f"{_SIGNATURE_BYTES} bytes", str(len(signature)))
        return cls(
            root,
            hashlib.sha384(_canonical(root, {})).digest(),
            _signed_digest(info, what),
            _canonical(info, {}),
            signature,
            _certificates(key, what),
        )

    def problem(self) -> str:
        """Why the signature by the first certificate's key does not verify, or an empty string."""
        if self.digest != self.signed_digest:
            return "the document is not the one that was signed"
        key = self.certificates[0].public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            return "the signer has another kind of key"
        half = _SIGNATURE_BYTES // 2
        r, s = (int.from_bytes(part, "big") for part in (self.signature[:half], self.signature[half:]))
        try:
            key.verify(encode_dss_signature(r, s), self.signed_info, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            return "it does not verify"
        return ""


def _signed_digest(info: Element, what: str) -> bytes:
    """The digest in SignedInfo, which may ask for nothing but the one form."""
    method, signer, reference = _parts(info, ("CanonicalizationMethod", "SignatureMethod", "Reference"), what)
    transforms, hashed, value = _parts(reference, ("Transforms", "DigestMethod", "DigestValue"), what)
    enveloped, canonical = _parts(transforms, ("Transform", "Transform"), what)
    wanted = (
        (method, _CANONICAL),
        (signer, {_ECDSA_SHA384}),
        (enveloped, {f"{_DS}enveloped-signature"}),
        (canonical, _CANONICAL),
        (hashed, {_SHA384}),
    )
    for element, algorithms in wanted:
        if element.children or set(element.attributes) != {"Algorithm"}:
            raise unreadable(f"{what}, {element.name}", "an algorithm and nothing else", "more")
        if element.attributes["Algorithm"] not in algorithms:
            expected = " or ".join(sorted(algorithms))
            raise unreadable(f"{what}, {element.name}", expected, element.attributes["Algorithm"][:80])
    if reference.attributes != {"URI": ""}:
        raise unreadable(f"{what}, reference", "the whole document (URI='')", str(reference.attributes)[:80])
    return _base64(value.text, f"{what}, digest")


def _certificates(key: Element, what: str) -> tuple[Certificate, ...]:
    (data,) = _parts(key, ("X509Data",), what)
    held = data.elements
    if not 1 <= len(held) <= MOST_CHAIN or any(one.expanded != (_DS, "X509Certificate") for one in held):
        raise unreadable(f"{what}, key", f"1 to {MOST_CHAIN} certificates", str(len(held)))
    return tuple(
        Certificate.read(_base64(one.text, f"{what}, certificate"), f"{what}, certificate") for one in held
    )


def _parts(element: Element, names: tuple[str, ...], what: str) -> list[Element]:
    """The children of an element of XML Signature: these, in this order, and only white space besides."""
    found = element.elements
    if [one.expanded for one in found] != [(_DS, name) for name in names] or element.text.strip():
        got = ", ".join(one.name for one in found)[:80] or "nothing"
        raise unreadable(f"{what}, {element.name}", ", ".join(names), got)
    return found


def _named(element: Element, local: str) -> Iterator[Element]:
    for child in element.elements:
        if child.expanded == (_DS, local):
            yield child
        yield from _named(child, local)


def _base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise unreadable(what, "base64", "something else") from None


class _Builder:
    """Makes elements of what the parser reports, and stops it at whatever this form does not have."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.count = 0
        self.open: list[Element] = []
        self.root: Element | None = None

    def refuse(self, *_: object) -> None:
        raise unreadable(self.what, "elements, attributes and text alone", "another kind of XML")

    def declaration(self, version: str, encoding: str | None, _standalone: int) -> None:
        if version != "1.0" or (encoding or "utf-8").lower() != "utf-8":
            raise unreadable(self.what, "XML 1.0 in UTF-8", f"{version} in {encoding}"[:80])

    def start(self, name: str, listed: list[str]) -> None:
        self.count += 1
        if self.count > _MOST_ELEMENTS or len(self.open) >= _MOST_DEPTH or len(listed) > 2 * _MOST_ATTRIBUTES:
            raise unreadable(self.what, "a document of this form's size and depth", "a larger one")
        attributes = dict(zip(listed[::2], listed[1::2], strict=True))
        scope = dict(self.open[-1].scope) if self.open else {}
        for key in list(attributes):
            if key == "xmlns" or key.startswith("xmlns:"):
                scope[key[6:]] = attributes.pop(key)
            elif key.startswith("xml:"):
                self.refuse()
        element = Element(name, attributes, scope)
        for one in (name, *attributes):
            prefix, colon, _ = one.rpartition(":")
            if colon and (":" in prefix or not scope.get(prefix)):
                raise unreadable(self.what, "names whose prefixes are declared", one[:80])
        if self.open:
            self.open[-1].children.append(element)
        else:
            self.root = element
        self.open.append(element)

    def end(self, _name: str) -> None:
        self.open.pop()

    def text(self, data: str) -> None:
        if self.open:
            self.open[-1].children.append(data)


def _parse(data: bytes, what: str) -> Element:
    if len(data) > MOST_XML_BYTES:
        raise unreadable(what, f"at most {MOST_XML_BYTES} bytes", str(len(data)))
    parser, builder = expat.ParserCreate("utf-8"), _Builder(what)
    parser.ordered_attributes = parser.specified_attributes = parser.buffer_text = True
    parser.XmlDeclHandler = builder.declaration
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.text
    parser.StartDoctypeDeclHandler = parser.ProcessingInstructionHandler = builder.refuse
    parser.CommentHandler = parser.StartCdataSectionHandler = builder.refuse
    parser.EntityDeclHandler = parser.SkippedEntityHandler = builder.refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError) as error:
        raise unreadable(what, "XML", str(error)[:80]) from None
    if builder.root is None:
        raise unreadable(what, "a root element", "none")
    return builder.root


def _canonical(element: Element, above: Mapping[str, str]) -> bytes:
    """Canonical XML of an element and all below; ``above`` are the namespaces that were already written."""
    written: list[str] = []
    _write(element, above, written)
    return "".join(written).encode("utf-8")


def _write(element: Element, above: Mapping[str, str], written: list[str]) -> None:
    changed = {
        prefix: uri
        for prefix, uri in element.scope.items()
        if prefix != "xml" and above.get(prefix, "") != uri
    }
    written.append(f"<{element.name}")
    for prefix in sorted(changed):
        name = f"xmlns:{prefix}" if prefix else "xmlns"
        written.append(f' {name}="{_escaped(changed[prefix], attribute=True)}"')
    for _, _, name in sorted(_order(element, name) for name in element.attributes):
        written.append(f' {name}="{_escaped(element.attributes[name], attribute=True)}"')
    written.append(">")
    for child in element.children:
        if isinstance(child, Element):
            _write(child, element.scope, written)
        else:
            written.append(_escaped(child, attribute=False))
    written.append(f"</{element.name}>")


def _order(element: Element, name: str) -> tuple[str, str, str]:
    """Attributes are ordered by namespace, then by local name; those in none come first."""
    prefix, _, local = name.rpartition(":")
    return (element.scope.get(prefix, "") if prefix else "", local, name)


def _escaped(text: str, *, attribute: bool) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\r", "&#xD;")
    if attribute:
        return text.replace('"', "&quot;").replace("\t", "&#x9;").replace("\n", "&#xA;")
    return text.replace(">", "&gt;")
