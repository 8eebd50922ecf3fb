"""Checks of a decoded document's shape: every field named, every size bounded, nothing extra."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from myelin.errors import ProtocolError
from myelin.wire.cbor import Value

__all__ = ["Shape"]


@dataclass(frozen=True)
class Shape:
    """Reads fields out of a decoded :data:`~myelin.wire.Value`.

    Each method takes the value and a name for it, and raises the protocol error named ``refusal``, with what
    was expected and what was got, if the value has another type, size or range. A key that is not expected
    raises the one named ``unknown``.
    """

    refusal: str = "malformed_message"
    unknown: str = "unknown_field"

    def refuse(self, what: str, expected: str, got: str) -> ProtocolError:
        """Make the error for one field."""
        return ProtocolError.named(self.refusal, f"{what}: expected {expected}, got {got}")

    def map(self, value: object, what: str, keys: Collection[str]) -> dict[str, Value]:
        """Read a map that has exactly ``keys``."""
        if not isinstance(value, dict):
            raise self.refuse(what, "a map", _kind(value))
        extra = [str(key) for key in value if key not in keys]
        if extra:
            raise ProtocolError.named(self.unknown, f"{what}: {', '.join(sorted(extra))[:200]!r} not known")
        missing = [key for key in keys if key not in value]
        if missing:
            raise self.refuse(what, f"the field {missing[0]!r}", "none")
        return value

    def array(
        self, value: object, what: str, *, size: int | None = None, most: int | None = None
    ) -> list[Value]:
        """Read an array of ``size`` items, or of at most ``most``."""
        if not isinstance(value, list):
            raise self.refuse(what, "an array", _kind(value))
        _check_length(self, value, what, "items", size, most)
        return value

    def bytes(self, value: object, what: str, *, size: int | None = None, most: int | None = None) -> bytes:
        """Read a byte string of ``size`` bytes, or of at most ``most``."""
        if type(value) is not bytes:
            raise self.refuse(what, "bytes", _kind(value))
        _check_length(self, value, what, "bytes", size, most)
        return value

    def text(self, value: object, what: str, *, most: int = 128) -> str:
        """Read a text of 1 to ``most`` UTF-8 bytes without control characters."""
        if type(value) is not str:
            raise self.refuse(what, "text", _kind(value))
        length = len(value.encode())
        if not 1 <= length <= most:
            raise self.refuse(what, f"1 to {most} bytes of text", f"{length} bytes")
        if not value.isprintable():
            raise self.refuse(what, "printable text", "control characters")
        return value

    def uint(self, value: object, what: str, *, least: int = 0, most: int = (1 << 64) - 1) -> int:
        """Read an unsigned integer from ``least`` to ``most``."""
        if type(value) is not int:
            raise self.refuse(what, "an unsigned integer", _kind(value))
        if not least <= value <= most:
            raise self.refuse(what, f"an integer from {least} to {most}", str(value))
        return value

    def boolean(self, value: object, what: str) -> bool:
        """Read true or false."""
        if type(value) is not bool:
            raise self.refuse(what, "true or false", _kind(value))
        return value


def _check_length(
    shape: Shape, value: list[Value] | bytes, what: str, unit: str, size: int | None, most: int | None
) -> None:
    if size is not None and len(value) != size:
        raise shape.refuse(what, f"{size} {unit}", f"{len(value)}")
    if most is not None and len(value) > most:
        raise shape.refuse(what, f"at most {most} {unit}", f"{len(value)}")


def _kind(value: object) -> str:
    names = {dict: "a map", list: "an array", bytes: "bytes", str: "text", int: "an integer"}
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")
