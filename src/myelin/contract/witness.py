"""Brokers as each other's witnesses: a signed head, and a signed acknowledgement of it (protocol section 10).

The owner of a ledger signs a *statement*: the heads that its ledger has had, oldest first. A peer's broker
accepts it if the head that it remembers is among them, keeps the last one durably, and signs an
*acknowledgement*. The same rule (:func:`follow`) is that of a log's server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from myelin.contract.anchor import Head, rolled_back
from myelin.contract.store import Store
from myelin.errors import ProtocolError
from myelin.wire import DIGEST_BYTES, Shape, decode, digest, encode, sign1, verify1

__all__ = [
    "ACKNOWLEDGEMENT_TYPE",
    "MOST_STATEMENT_BYTES",
    "STATEMENT_TYPE",
    "Statement",
    "acknowledge",
    "check_acknowledgement",
    "follow",
    "remember",
    "remembered",
]

STATEMENT_TYPE = "application/vnd.myelin.ledger-head+cbor"
"""Content type of an owner's signature over the heads of its ledger."""

ACKNOWLEDGEMENT_TYPE = "application/vnd.myelin.head-acknowledgement+cbor"
"""Content type of a witness's signature over a head that it keeps."""

_MOST_HEADS = 1024
MOST_STATEMENT_BYTES = _MOST_HEADS * 48 + 512
"""Longest signed statement."""

_SHAPE = Shape()


@dataclass(frozen=True)
class Statement:
    """What an owner says of its ledger: which one it is, the contract that it is asked under (digest, or
    ``None``), its heads, and a nonce (32 bytes), so that an older acknowledgement is none for it."""

    ledger: bytes
    contract: bytes | None
    heads: tuple[Head, ...]
    nonce: bytes

    def sign(self, key: ec.EllipticCurvePrivateKey) -> bytes:
        """The signed statement, with the last 1,024 heads."""
        heads = [[head.count, head.digest] for head in self.heads[-_MOST_HEADS:]]
        fields = {"ledger": self.ledger, "contract": self.contract, "heads": heads, "nonce": self.nonce}
        return sign1(encode(fields), STATEMENT_TYPE, key)

    @classmethod
    def read(cls, signed: bytes, signing_key: bytes) -> Statement:
        """Read a statement that this key has signed; raises ``malformed_message``, ``signature_invalid``."""
        payload = verify1(
            signed, STATEMENT_TYPE, signing_key, most_bytes=MOST_STATEMENT_BYTES, what="statement"
        )
        fields = _SHAPE.map(
            decode(payload, what="statement"), "statement", ("ledger", "contract", "heads", "nonce")
        )
        contract = fields["contract"]
        if contract is not None:
            contract = _SHAPE.bytes(contract, "statement, contract", size=DIGEST_BYTES)
        heads: list[Head] = []
        for item in _SHAPE.array(fields["heads"], "statement, heads", most=_MOST_HEADS):
            count, value = _SHAPE.array(item, "statement, head", size=2)
            least = heads[-1].count + 1 if heads else 1
            heads.append(
                Head(
                    _SHAPE.uint(count, "statement, head, count", least=least),
                    _SHAPE.bytes(value, "statement, head, digest", size=DIGEST_BYTES),
                )
            )
        return cls(
            _SHAPE.bytes(fields["ledger"], "statement, ledger", size=DIGEST_BYTES),
            contract,
            tuple(heads),
            _SHAPE.bytes(fields["nonce"], "statement, nonce", size=32),
        )


def follow(known: Head | None, heads: Sequence[Head], who: str) -> bool:
    """Whether the last of ``heads`` is news to one who remembers ``known``; raises ``ledger_rolled_back``."""
    if known is None:
        return bool(heads)
    if known not in heads:
        raise rolled_back(who, f"{known.count} entries, head {known.digest.hex()[:16]}…")
    return heads[-1] != known


def remembered(store: Store, ledger: bytes) -> Head | None:
    """The last head of another ledger that this store keeps."""
    for entry in reversed(store.entries("witness")):
        if entry.body["ledger"] == ledger:
            return Head(entry.body["count"], entry.body["head"])
    return None


def remember(store: Store, statement: Statement, who: str, *, at_s: int) -> None:
    """Keep the last head of a statement, durably, if it follows what is kept; raises
    ``ledger_rolled_back``."""
    with store.transaction():
        if follow(remembered(store, statement.ledger), statement.heads, who):
            last = statement.heads[-1]
            body: dict[str, Any] = {"ledger": statement.ledger, "count": last.count, "head": last.digest}
            store.append("witness", {**body, "at_s": at_s})


def acknowledge(signed: bytes, statement: Statement, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign that a statement was taken in: bound to its very bytes, so to its nonce."""
    return sign1(encode([digest(signed), statement.ledger]), ACKNOWLEDGEMENT_TYPE, key)


def check_acknowledgement(answer: bytes, signed: bytes, ledger: bytes, signing_key: bytes, who: str) -> None:
    """Check a witness's acknowledgement of a signed statement; raises ``anchor_unavailable``."""
    try:
        payload = verify1(
            answer, ACKNOWLEDGEMENT_TYPE, signing_key, most_bytes=1024, what=f"acknowledgement of {who}"
        )
    except ProtocolError as error:
        raise ProtocolError.named("anchor_unavailable", f"{who}: {error.detail}") from None
    if payload != encode([digest(signed), ledger]):
        raise ProtocolError.named("anchor_unavailable", f"{who} acknowledged another statement")
