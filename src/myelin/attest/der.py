"""A strict reader of the little DER (X.690) that certificates and keys are made of.

It exists because vendors' certificates break rules that general libraries enforce: AMD gives every chip's
certificate the serial number 0, which RFC 5280 forbids and ``cryptography`` has announced to refuse. What is
read here is refused unless it is in its one form: definite shortest lengths, low tags, no trailing bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from myelin.attest.kind import unreadable

__all__ = [
    "BIT_STRING",
    "BOOLEAN",
    "IA5_STRING",
    "INTEGER",
    "OCTET_STRING",
    "OID",
    "SEQUENCE",
    "SET",
    "Element",
    "context",
    "read_element",
]

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID = 0x01, 0x02, 0x03, 0x04, 0x06
IA5_STRING, UTC_TIME, GENERALIZED_TIME = 0x16, 0x17, 0x18
SEQUENCE, SET = 0x30, 0x31

_MOST_CHILDREN = 256
_MOST_INTEGER_BYTES = 1024


def context(number: int, *, constructed: bool = True) -> int:
    """The tag of a context-specific element."""
    return (0xA0 if constructed else 0x80) | number


@dataclass(frozen=True)
class Element:
    """One element: its tag, its content, and all of its bytes; ``what`` names it in errors."""

    what: str
    tag: int
    content: bytes
    raw: bytes

    def expect(self, tag: int) -> Element:
        """This element, which must have ``tag``."""
        if self.tag != tag:
            raise unreadable(self.what, f"the DER tag {tag:#04x}", f"{self.tag:#04x}")
        return self

    def children(self, tag: int = SEQUENCE, *, most: int = _MOST_CHILDREN) -> list[Element]:
        """The elements inside of this one, which must have ``tag``: at most ``most`` of them."""
        self.expect(tag)
        return list(_elements(self.content, self.what, most))

    def only(self, tag: int) -> Element:
        """The one element inside of this one, which must have ``tag``."""
        inside = self.children(tag)
        if len(inside) != 1:
            raise unreadable(self.what, "one element", str(len(inside)))
        return inside[0]

    def integer(self) -> int:
        """The value of an INTEGER in its shortest form."""
        content = self.expect(INTEGER).content
        if not 1 <= len(content) <= _MOST_INTEGER_BYTES:
            raise unreadable(
                self.what, f"an integer of 1 to {_MOST_INTEGER_BYTES} bytes", f"{len(content)} bytes"
            )
        if len(content) > 1 and content[0] in (0, 0xFF) and (content[0] ^ content[1]) < 0x80:
            raise unreadable(self.what, "an integer in its shortest form", "a longer one")
        return int.from_bytes(content, "big", signed=True)

    def boolean(self) -> bool:
        """The value of a BOOLEAN."""
        content = self.expect(BOOLEAN).content
        if content not in (b"\x00", b"\xff"):
            raise unreadable(self.what, "a boolean of 00 or ff", content[:4].hex())
        return content == b"\xff"

    def bits(self) -> bytes:
        """The bytes of a BIT STRING without unused bits."""
        content = self.expect(BIT_STRING).content
        if not content or content[0] != 0:
            raise unreadable(self.what, "a bit string of whole bytes", "another")
        return content[1:]

    def oid(self) -> str:
        """The value of an OBJECT IDENTIFIER, dotted."""
        content = self.expect(OID).content
        if not 1 <= len(content) <= 64 or content[-1] & 0x80:
            raise unreadable(self.what, "an object identifier", content[:16].hex() or "nothing")
        arcs, value, fresh = [], 0, True
        for byte in content:
            if fresh and byte == 0x80:
                raise unreadable(self.what, "an object identifier in its shortest form", "a longer one")
            value = value << 7 | byte & 0x7F
            fresh = not byte & 0x80
            if fresh:
                arcs.append(value)
                value = 0
        first = min(arcs[0] // 40, 2)
        return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))

    def time_s(self) -> int:
        """The Unix time of a UTCTime or GeneralizedTime, to the second and in UTC, as RFC 5280 wants them."""
        text = self.content.decode("ascii", "replace")
        if self.tag == UTC_TIME and len(text) == 13:
            text = ("20" if text[:2] < "50" else "19") + text
        elif self.tag != GENERALIZED_TIME or len(text) != 15:
            raise unreadable(self.what, "a time", text[:32])
        if not text[:14].isdecimal() or not text.isascii() or text[14] != "Z":
            raise unreadable(self.what, "a time in UTC, to the second", text[:32])
        try:
            moment = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
        except ValueError:
            raise unreadable(self.what, "a time of the calendar", text[:32]) from None
        return int(moment.timestamp())


def read_element(data: bytes, what: str) -> Element:
    """Read ``data``, which must be exactly one element."""
    element, end = _element(data, 0, what)
    if end != len(data):
        raise unreadable(what, "nothing after the DER element", f"{len(data) - end} bytes")
    return element


def _elements(data: bytes, what: str, most: int) -> Iterator[Element]:
    at = count = 0
    while at < len(data):
        element, at = _element(data, at, what)
        yield element
        count += 1
        if count > most:
            raise unreadable(what, f"at most {most} elements", "more")


def _element(data: bytes, at: int, what: str) -> tuple[Element, int]:
    if len(data) - at < 2:
        raise unreadable(what, "a DER element", f"{len(data) - at} bytes")
    tag, length = data[at], data[at + 1]
    if tag & 0x1F == 0x1F:
        raise unreadable(what, "a DER tag below 31", "a longer one")
    start = at + 2
    if length >= 0x80:
        size = length & 0x7F
        if not 1 <= size <= 3 or len(data) - start < size:
            raise unreadable(what, "a definite DER length of at most 3 bytes", f"{length:#04x}")
        length = int.from_bytes(data[start : start + size], "big")
        if length < (0x80 if size == 1 else 1 << 8 * (size - 1)):
            raise unreadable(what, "a DER length in its shortest form", "a longer one")
        start += size
    end = start + length
    if end > len(data):
        raise unreadable(what, f"{length} bytes of DER content", f"{len(data) - start}")
    return Element(what, tag, data[start:end], data[at:end]), end
