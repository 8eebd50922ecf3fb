"""A TPM as an anchor: an NV index that can only be extended holds a digest over all heads of the ledger.

*Assumes* that the TPM is the same one, and that nobody who puts files back also has the owner's private key.
The index has an authorization made from that key: whoever has the TPM's owner hierarchy alone can delete the
index or make another one, so that the broker stops, but not make one that this broker accepts. A plain
counter would not do: two copies of a ledger at the same count would pass for each other
(:mod:`~myelin.contract.anchor`).

An NV write takes some ten milliseconds, and a TPM allows some 100,000 of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from myelin.broker.tpm_commands import (
    ATTRIBUTES,
    SHA256,
    Exchange,
    TpmError,
    nv_define_extend,
    nv_extend,
    nv_public,
    nv_read,
)
from myelin.contract import Head, Identity, Occasion, rolled_back
from myelin.errors import InputError, ProtocolError

__all__ = ["FIRST_INDEX", "LAST_INDEX", "TpmAnchor"]

FIRST_INDEX, LAST_INDEX = 0x01800000, 0x01BFFFFF
"""Handles that the TCG leaves to the owner of a machine."""

_UNWRITTEN = bytes(32)


def _extended(value: bytes, head: Head) -> bytes:
    return hashlib.sha256(value + head.digest).digest()


@final
@dataclass(frozen=True)
class TpmAnchor:
    """One NV index for one ledger. ``index`` is its handle, ``identity`` the ledger's owner."""

    exchange: Exchange = field(repr=False)
    index: int
    identity: Identity
    kind: str = "tpm"

    def __post_init__(self) -> None:
        if not FIRST_INDEX <= self.index <= LAST_INDEX:
            raise InputError(
                f"TPM index: expected 0x{FIRST_INDEX:08x} to 0x{LAST_INDEX:08x}, got 0x{self.index:08x}"
            )

    @property
    def name(self) -> str:
        """The handle."""
        return f"tpm:0x{self.index:08x}"

    def advance(self, heads: Sequence[Head], occasion: Occasion) -> bytes:
        """Extend the index by the heads that it lacks; the proof is its value."""
        auth = self.identity.derive("myelin/anchor/tpm/v1", occasion.ledger)
        try:
            value = self._value(auth, len(heads))
            expected = [_UNWRITTEN]
            for head in heads:
                expected.append(_extended(expected[-1], head))
            if value not in expected:
                raise rolled_back(self.name, f"the value {value.hex()[:16]}…")
            for head in heads[expected.index(value) :]:
                nv_extend(self.exchange, self.index, auth, head.digest)
            if not heads:
                return _UNWRITTEN
            value = nv_read(self.exchange, self.index, auth)
            if value != expected[-1]:
                raise rolled_back(self.name, f"the value {value.hex()[:16]}… after it was extended")
            return value
        except TpmError as error:
            raise ProtocolError.named(
                "anchor_unavailable",
                f"{self.name}: {error}; is it the index of this ledger, made with this owner's key?",
            ) from None

    def _value(self, auth: bytes, count: int) -> bytes:
        """What the index holds; it is made where there is none and the ledger was never anchored by it."""
        try:
            public = nv_public(self.exchange, self.index)
        except TpmError as error:
            if not error.no_such_index:
                raise
            if count == 1:
                nv_define_extend(self.exchange, self.index, auth)
            return self._unwritten(count)
        if (public.hash, public.attributes, public.size) != (SHA256, ATTRIBUTES, 32):
            raise ProtocolError.named(
                "anchor_unavailable",
                f"{self.name}: expected an extend index of SHA-256, got attributes "
                f"0x{public.attributes:08x}; choose another index",
            )
        if not public.written:
            return self._unwritten(count)
        return nv_read(self.exchange, self.index, auth)

    def _unwritten(self, count: int) -> bytes:
        """A ledger is brought to a new index with its first head for it, and never again."""
        if count > 1:
            raise ProtocolError.named(
                "anchor_unavailable",
                f"{self.name}: this ledger was anchored there and the TPM has forgotten it: it was "
                "cleared, or is another one. Make sure that this is the newest copy of the ledger, then "
                "choose another index",
            )
        return _UNWRITTEN
