"""Reading a file by offsets that the file itself gives: nothing outside is touched, nothing is allocated by a
length that was not checked."""

from __future__ import annotations

import uuid
from typing import Literal

from myelin.errors import InputError

__all__ = ["Blob", "guid"]


def guid(text: str) -> bytes:
    """A GUID as UEFI writes it: the first three parts in little-endian order."""
    return uuid.UUID(text).bytes_le


class Blob:
    """Bytes of a file that somebody gave; :class:`~myelin.errors.InputError` names the field that is not
    inside or not as it must be. Integers are unsigned."""

    def __init__(self, data: bytes, what: str, order: Literal["big", "little"] = "little") -> None:
        self.data = data
        self.what = what
        self.order = order

    def take(self, at: int, size: int, field: str) -> bytes:
        """``size`` bytes from offset ``at``."""
        if at < 0 or size < 0 or at + size > len(self.data):
            raise self.wrong(f"{field} (byte {at})", f"{size} bytes inside", f"a file of {len(self.data)}")
        return self.data[at : at + size]

    def uint(self, at: int, size: int, field: str, *, least: int = 0, most: int | None = None) -> int:
        """An integer of ``size`` bytes, from ``least`` to ``most``."""
        value = int.from_bytes(self.take(at, size, field), self.order)
        if value < least or (most is not None and value > most):
            wanted = f"at least {least}" if most is None else f"{least} to {most}"
            raise self.wrong(f"{field} (byte {at})", wanted, str(value))
        return value

    def constant(self, at: int, expected: bytes, field: str) -> None:
        """Bytes that can only be these."""
        got = self.take(at, len(expected), field)
        if got != expected:
            raise self.wrong(f"{field} (byte {at})", expected.hex(), got.hex())

    def wrong(self, field: str, expected: str, got: str) -> InputError:
        """Make the error for a field: what was expected, and what was got."""
        return InputError(f"{self.what}, {field}: expected {expected}, got {got}")
