"""Deterministic CBOR (RFC 8949 section 4.2.1), the one encoding of everything that is signed or hashed.

The decoder accepts exactly the bytes that :func:`encode` makes and nothing else: shortest integers, definite
lengths, sorted distinct keys, no tags, no trailing bytes, floats only where asked for. So two different byte
strings never mean the same document, and a signature over bytes is a signature over their meaning.
It never allocates by a length that it has not seen the bytes for, and never recurses deeper than its limit.
"""

from __future__ import annotations

import math
import struct
from typing import TypeAlias, Union

import cbor2

from myelin.errors import ProtocolError

__all__ = ["MOST_BYTES", "Value", "decode", "encode"]

Value: TypeAlias = Union[
    int, float, bytes, str, bool, "list[Value]", "dict[str, Value]", "dict[int, Value]", None
]

MOST_BYTES = 1 << 20
"""Longest message of the protocol, in bytes."""

_MOST_DEPTH = 16
_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)


def encode(value: object, *, floats: bool = False) -> bytes:
    """Encode ``value`` deterministically.

    Takes ``int`` (64-bit), ``bytes``, ``str``, ``bool``, ``None``, ``list``/``tuple`` and ``dict`` with text
    keys or with small unsigned integer keys; ``float`` (finite, written as the shortest that is exact) only
    with ``floats``. Raises ``TypeError`` for anything else: what is signed must not depend on a conversion.
    """
    _check_encodable(value, floats, 0)
    return cbor2.dumps(value, canonical=True)


def _check_encodable(value: object, floats: bool, depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise TypeError(f"nested deeper than {_MOST_DEPTH}")
    kind = type(value)
    if kind is int:
        if not -(1 << 64) <= value < 1 << 64:  # type: ignore[operator]
            raise TypeError(f"integer {value} does not fit in 64 bits")
    elif kind is float:
        if not floats or not math.isfinite(value):  # type: ignore[arg-type]
            raise TypeError(f"float {value!r} has no place in this document")
    elif isinstance(value, list | tuple):
        for item in value:
            _check_encodable(item, floats, depth + 1)
    elif isinstance(value, dict):
        if not (all(type(k) is str for k in value) or all(type(k) is int and 0 <= k < 24 for k in value)):
            raise TypeError("map keys are all text, or all integers below 24")
        for item in value.values():
            _check_encodable(item, floats, depth + 1)
    elif kind not in (bytes, str, bool, type(None)):
        raise TypeError(f"a {kind.__name__} has no deterministic CBOR here")


def decode(
    data: bytes,
    *,
    most_bytes: int = MOST_BYTES,
    floats: bool = False,
    refusal: str = "malformed_message",
    what: str = "message",
) -> Value:
    """Decode ``data``, which must be the deterministic encoding of one value of at most ``most_bytes``.

    Raises :class:`~myelin.errors.ProtocolError`: ``oversized_message``, or the one named by ``refusal`` with
    the place and the reason; ``what`` names the document in its text.
    """
    if len(data) > most_bytes:
        raise ProtocolError.named("oversized_message", f"{what} has {len(data)} bytes; at most {most_bytes}")
    decoder = _Decoder(bytes(data), floats)
    try:
        value = decoder.item(0)
        if decoder.at != len(data):
            raise _MalformedError(f"{len(data) - decoder.at} bytes after its end")
    except _MalformedError as error:
        raise ProtocolError.named(
            refusal, f"{what} is not deterministic CBOR: {error} (byte {decoder.at})"
        ) from None
    return value


class _MalformedError(Exception):
    """Why the bytes are not deterministic CBOR; never leaves this file."""


class _Decoder:
    """One pass over the bytes; ``at`` is the next byte to read."""

    def __init__(self, data: bytes, floats: bool) -> None:
        self.data = data
        self.floats = floats
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise _MalformedError(f"{count} bytes wanted, {len(self.data) - self.at} left")
        self.at += count
        return self.data[self.at - count : self.at]

    def head(self) -> tuple[int, int, int]:
        """Major type, additional information and argument, which must be in its shortest form."""
        (first,) = self.take(1)
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info, info
        if info > 27:
            raise _MalformedError("indefinite or reserved length")
        size = 1 << (info - 24)
        argument = int.from_bytes(self.take(size), "big")
        shortest = 24 if size == 1 else 1 << (4 * size)
        if major != _SIMPLE and argument < shortest:
            raise _MalformedError("an integer or length not in its shortest form")
        return major, info, argument

    def item(self, depth: int) -> Value:
        if depth > _MOST_DEPTH:
            raise _MalformedError(f"nested deeper than {_MOST_DEPTH}")
        major, info, argument = self.head()
        if major == _UINT:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major == _BYTES:
            return self.take(argument)
        if major == _TEXT:
            return self.text(argument)
        if major == _ARRAY:
            return self.array(argument, depth)
        if major == _MAP:
            return self.map(argument, depth)
        if major == _TAG:
            raise _MalformedError(f"tag {argument}")
        return self.simple(info)

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise _MalformedError("text that is not UTF-8") from None

    def array(self, count: int, depth: int) -> list[Value]:
        if count > len(self.data) - self.at:
            raise _MalformedError(f"an array of {count} items in {len(self.data) - self.at} bytes")
        return [self.item(depth + 1) for _ in range(count)]

    def map(self, count: int, depth: int) -> dict[str, Value] | dict[int, Value]:
        if 2 * count > len(self.data) - self.at:
            raise _MalformedError(f"a map of {count} entries in {len(self.data) - self.at} bytes")
        entries: dict[str | int, Value] = {}
        last = b""
        for _ in range(count):
            start = self.at
            major, _, argument = self.head()
            key: str | int
            if major == _TEXT:
                key = self.text(argument)
            elif major == _UINT and argument < 24:
                key = argument
            else:
                raise _MalformedError("a map key that is neither text nor a small integer")
            encoded = self.data[start : self.at]
            if encoded <= last:
                raise _MalformedError("map keys out of order or twice")
            last = encoded
            entries[key] = self.item(depth + 1)
        if len({type(key) for key in entries}) > 1:
            raise _MalformedError("a map with text and integer keys")
        return entries  # type: ignore[return-value]

    def simple(self, info: int) -> Value:
        if info in (20, 21):
            return info == 21
        if info == 22:
            return None
        if info in (25, 26, 27) and self.floats:
            size = 1 << (info - 24)
            raw = self.data[self.at - size : self.at]
            value = struct.unpack({2: ">e", 4: ">f", 8: ">d"}[size], raw)[0]
            if not math.isfinite(value):
                raise _MalformedError("a float that is not finite")
            if cbor2.dumps(value, canonical=True)[1:] != raw:
                raise _MalformedError("a float not in its shortest form")
            return float(value)
        raise _MalformedError("a float, undefined or reserved value")
