"""Reading structures of fixed layout out of bytes that a stranger sent: nothing is read that is not there."""

from __future__ import annotations

from typing import Literal

from myelin.attest.kind import unreadable

__all__ = ["Octets"]


class Octets:
    """A cursor over bytes. Every read names its field; one that goes past the end is ``evidence_unreadable``.

    ``at`` is the offset of the next byte. Integers are unsigned, in the byte order that the structure has.
    """

    def __init__(self, data: bytes, what: str, order: Literal["big", "little"]) -> None:
        self.data = data
        self.what = what
        self.order = order
        self.at = 0

    @property
    def left(self) -> int:
        """How many bytes have not been read."""
        return len(self.data) - self.at

    def take(self, size: int, field: str) -> bytes:
        """The next ``size`` bytes."""
        if size > self.left:
            raise unreadable(
                f"{self.what}, {field} (byte {self.at})", f"{size} bytes", f"{self.left} before the end"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def uint(self, size: int, field: str, *, least: int = 0, most: int | None = None) -> int:
        """The next ``size`` bytes as an integer from ``least`` to ``most``."""
        start = self.at
        value = int.from_bytes(self.take(size, field), self.order)
        if value < least or (most is not None and value > most):
            wanted = f"at least {least}" if most is None else f"{least} to {most}"
            raise unreadable(f"{self.what}, {field} (byte {start})", wanted, str(value))
        return value

    def sized(self, size_of_size: int, field: str, *, most: int) -> bytes:
        """Bytes that their own length precedes, at most ``most`` of them."""
        return self.take(self.uint(size_of_size, f"{field}, length", most=most), field)

    def constant(self, expected: bytes, field: str) -> None:
        """Bytes that can only be these."""
        start, got = self.at, self.take(len(expected), field)
        if got != expected:
            raise unreadable(f"{self.what}, {field} (byte {start})", expected.hex(), got.hex())

    def end(self) -> None:
        """Nothing may follow."""
        if self.left:
            raise unreadable(f"{self.what}, after its end (byte {self.at})", "nothing", f"{self.left} bytes")
