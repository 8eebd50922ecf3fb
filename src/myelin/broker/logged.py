"""A public log as an anchor: the head of the ledger is a leaf of it before a key leaves.

*Assumes* that the log, when asked with a fresh nonce, gives what it has. A log that hides a head to help a
rollback must show two versions of itself, and signs both: whoever compares checkpoints (every broker and
``verify`` do with the last that they saw) has the proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from myelin.contract import Head, Identity, Occasion, Statement
from myelin.errors import HostError, InputError, ProtocolError
from myelin.log import LogClient, head_leaf
from myelin.wire import digest, encode

__all__ = ["LogAnchor"]


@final
@dataclass(frozen=True)
class LogAnchor:
    """One log for one ledger; its name is made from the log's key."""

    client: LogClient
    identity: Identity
    kind: str = "log"

    @property
    def name(self) -> str:
        """The digest of the log's signing key."""
        return f"log:{digest(self.client.signing_key).hex()[:32]}"

    def advance(self, heads: Sequence[Head], occasion: Occasion) -> bytes:
        """Add the contract and the last head; the proof is the checkpoint with the leaf's place and path."""
        nonce = self.client.surroundings.draw(32)
        contract = occasion.contract
        statement = Statement(occasion.ledger, contract.digest if contract else None, tuple(heads), nonce)
        try:
            if contract is not None:
                self.client.add("contract", contract.to_bytes())
            elif not heads:
                return b""
            checkpoint, found = self.client.add("head", statement.sign(self.identity.signing), nonce)
        except HostError as error:
            raise ProtocolError.named("anchor_unavailable", str(error)) from None
        except InputError as error:
            raise ProtocolError.named("log_inconsistent", str(error)) from None
        except ProtocolError as error:
            if error.name in ("ledger_rolled_back", "log_inconsistent"):
                raise
            if error.name == "not_a_party" and contract is None:
                return b""  # no contract of this ledger is there yet; the first release brings it
            raise ProtocolError.named(
                "anchor_unavailable", f"log at {self.client.address}: {error}"
            ) from None
        if found is None:
            return encode([checkpoint.signed, None, []])
        if found.leaf != head_leaf(statement, self.identity.public.signing_key, heads[-1]):
            raise ProtocolError.named("anchor_unavailable", "the log took in another head than this ledger's")
        return encode([checkpoint.signed, found.index, list(found.path)])
