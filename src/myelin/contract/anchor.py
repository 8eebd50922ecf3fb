"""Anchors: what remembers the ledger where the broker cannot rewind it.

A store is a chain, so one digest stands for all of it up to an entry: a :class:`Head`. Before a key leaves,
the broker brings every anchor of the contract to the head that has the debit in it. The store notes, in the
same transaction as the debit, which heads it is going to anchor (*intents*); an anchor is given all of them,
oldest first, and refuses when what it remembers is not among them. So an older copy of the broker's files,
put back, lacks the head that the anchor has, and nothing more is released from it: ``ledger_rolled_back``.
An anchor that does not answer delays: ``anchor_unavailable``.

A head is also needed because counting alone is not enough: with a bare counter, two copies of a store that
were taken at the same count hold different debits, and either would pass for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from myelin.contract.agreement import SignedContract
from myelin.errors import ProtocolError

__all__ = ["Anchor", "Head", "Occasion", "rolled_back"]


@dataclass(frozen=True)
class Head:
    """A state of a ledger: how many entries, and the digest of the last one's chain value (32 bytes)."""

    count: int
    digest: bytes


@dataclass(frozen=True)
class Occasion:
    """What an anchoring is for: the ledger's id, and the contract where there is one."""

    ledger: bytes
    contract: SignedContract | None = None


class Anchor(Protocol):
    """One anchor. ``kind`` is the contract's word for it, ``name`` tells it from every other one."""

    @property
    def kind(self) -> str:
        """``tpm``, ``witnesses`` or ``log``."""

    @property
    def name(self) -> str:
        """At most 128 characters; the store notes intents under it, so it must not change."""

    def advance(self, heads: Sequence[Head], occasion: Occasion) -> bytes:
        """Bring it to the last of ``heads`` (all that were ever intended for it, oldest first) and give the
        proof.

        Safe to repeat. Without heads it only looks whether it was ever advanced. Raises
        ``ledger_rolled_back`` if it remembers another head than these, ``anchor_unavailable``.
        """


def rolled_back(name: str, found: str) -> ProtocolError:
    """Make the error for an anchor that remembers what the ledger does not."""
    return ProtocolError.named(
        "ledger_rolled_back",
        f"{name} remembers {found}, which this ledger does not have: an older copy of it was put back. "
        "Restore the newest copy; nothing is released from this one",
    )
