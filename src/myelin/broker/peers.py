"""The other brokers of a contract as an anchor: each keeps the head of this ledger, and signs that it does.

*Assumes* that of the other owners of a contract, at least one keeps its own store, and answers by its own
key. All of them must acknowledge: one that is down delays. What they remember covers the releases of
contracts that they are in: a ledger that serves several groups of owners is best anchored by a TPM or a log
as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import final

from myelin.contract import (
    Connect,
    Contract,
    Head,
    Identity,
    Occasion,
    Party,
    Statement,
    Surroundings,
    ask,
    check_acknowledgement,
)
from myelin.errors import HostError, InputError, ProtocolError
from myelin.wire import digest

__all__ = ["PeerAnchor", "peer_anchors"]


@final
@dataclass(frozen=True)
class PeerAnchor:
    """One peer as a witness of one ledger; its name is made from the key that the contract gives it."""

    peer: Party
    address: str
    identity: Identity
    connect: Connect
    surroundings: Surroundings
    kind: str = "witnesses"

    @property
    def name(self) -> str:
        """The digest of the peer's signing key."""
        return f"witness:{digest(self.peer.signing_key).hex()[:32]}"

    def advance(self, heads: Sequence[Head], occasion: Occasion) -> bytes:
        """Ask the peer to keep the last head; the proof is its signed acknowledgement."""
        if occasion.contract is None:
            raise InputError(f"{self.name}: a witness is asked under a contract")
        statement = Statement(
            occasion.ledger, occasion.contract.digest, tuple(heads), self.surroundings.draw(32)
        )
        signed = statement.sign(self.identity.signing)
        who = f"witness {self.peer.name!r} at {self.address}"
        request = {"verb": "acknowledge", "contract": occasion.contract.to_bytes(), "statement": signed}
        try:
            with closing(self.connect(self.address)) as transport:
                answer = ask(transport, request).get("acknowledgement")
        except ProtocolError as error:
            if error.name == "ledger_rolled_back":
                raise
            raise ProtocolError.named("anchor_unavailable", f"{who} refused: {error}") from None
        except HostError as error:
            raise ProtocolError.named("anchor_unavailable", f"{who}: {error}") from None
        if not isinstance(answer, bytes):
            raise ProtocolError.named("anchor_unavailable", f"{who} answered without an acknowledgement")
        check_acknowledgement(answer, signed, occasion.ledger, self.peer.signing_key, who)
        return answer


def peer_anchors(
    contract: Contract,
    addresses: Mapping[str, str],
    identity: Identity,
    connect: Connect,
    surroundings: Surroundings,
) -> tuple[PeerAnchor, ...]:
    """One anchor for each other owner of the contract; ``addresses`` is by the name in the contract.

    Raises ``anchor_unavailable`` for an owner without an address.
    """
    own = identity.public.signing_key
    found = []
    for owner in contract.owners:
        party = contract.parties[owner]
        if party.signing_key == own:
            continue
        if party.name not in addresses:
            raise ProtocolError.named(
                "anchor_unavailable",
                f"the contract wants its owners as witnesses, and no address is known of {party.name!r}; "
                f"give --witness {party.name}=ADDRESS",
            )
        found.append(PeerAnchor(party, addresses[party.name], identity, connect, surroundings))
    return tuple(found)
