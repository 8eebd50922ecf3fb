"""A transparency log: what it answers (protocol section 11), as a function from request bytes to answer
bytes.

It takes a contract that every party signed, a ledger's head that an owner of such a contract signed and that
follows the last one of that ledger, and a release under such a contract. It signs what it has, with the
asker's nonce, so an old answer is none. It keeps no secret but its signing key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, final

from myelin.contract import (
    MOST_CONTRACT_BYTES,
    MOST_STATEMENT_BYTES,
    Identity,
    SignedContract,
    Statement,
    Surroundings,
    follow,
)
from myelin.contract.request import read_request, refused
from myelin.errors import ProtocolError
from myelin.log.checkpoint import Checkpoint
from myelin.log.journal import Journal
from myelin.log.leaf import contract_leaf, head_leaf, read_leaf, release_leaf
from myelin.wire import Shape, Value, decode, encode, signed_payload

__all__ = ["VERBS", "Log"]

_SHAPE = Shape()
VERBS = {
    "add": ("kind", "document", "nonce"),
    "checkpoint": ("nonce",),
    "find": ("leaf", "nonce"),
    "consistency": ("first", "second"),
    "leaves": ("start", "count"),
}
"""What a log answers, and the fields of each."""

_MOST_LEAVES = 256
_MOST_DOCUMENT_BYTES = MOST_CONTRACT_BYTES + (16 << 10)


@final
class Log:
    """A log over an open journal, signing with ``identity``; ``identity.name`` is its origin."""

    def __init__(
        self, identity: Identity, journal: Journal, *, surroundings: Surroundings | None = None
    ) -> None:
        self._identity = identity
        self._journal = journal
        self._around = surroundings or Surroundings()
        self._lock = threading.Lock()

    def answer(self, frame: bytes) -> bytes:
        """Answer one request frame. A refusal is an answer too."""
        try:
            verb, fields = read_request(frame, VERBS)
            handles: dict[str, Callable[[dict[str, Value]], dict[str, object]]] = {
                "add": self._add,
                "checkpoint": self._checkpoint,
                "find": self._find,
                "consistency": self._consistency,
                "leaves": self._leaves,
            }
            with self._lock:
                answer = handles[verb](_SHAPE.map(fields, f"request {verb}", ("verb", *VERBS[verb])))
                return encode({"ok": True, **answer})
        except ProtocolError as error:
            return encode({"ok": False, **refused(error)})

    def _add(self, fields: dict[str, Value]) -> dict[str, object]:
        kind = _SHAPE.text(fields["kind"], "request add, kind", most=16)
        document = _SHAPE.bytes(fields["document"], "request add, document", most=_MOST_DOCUMENT_BYTES)
        nonce = _SHAPE.bytes(fields["nonce"], "request add, nonce", size=32)
        if kind == "contract":
            signed = SignedContract.from_bytes(document)
            signed.verify()
            return self._shown(self._journal.add(contract_leaf(signed)), nonce)
        if kind == "head":
            return self._add_head(document, nonce)
        if kind == "release":
            leaf = release_leaf(document)
            if not self._journal.knows(read_leaf(leaf)["contract"]):
                raise ProtocolError.named(
                    "wrong_contract", "the certificate's contract is not in this log; add it first"
                )
            return self._shown(self._journal.add(leaf), nonce)
        raise _SHAPE.refuse("request add, kind", "contract, head or release", repr(kind))

    def _add_head(self, document: bytes, nonce: bytes) -> dict[str, object]:
        if len(document) > MOST_STATEMENT_BYTES:
            raise ProtocolError.named("oversized_message", "statement")
        statement, owner = self._statement(document)
        if statement.nonce != nonce:
            raise ProtocolError.named("nonce_unknown", "the statement was signed with another nonce")
        known = self._journal.head_of(statement.ledger)
        if follow(known, statement.heads, f"log {self._identity.name!r}"):
            leaf = head_leaf(statement, owner, statement.heads[-1])
            return self._shown(self._journal.add(leaf), nonce)
        return self._checkpoint({"nonce": nonce})

    def _statement(self, document: bytes) -> tuple[Statement, bytes]:
        """Read a statement by the key of an owner that the log knows: from its contract, or of its ledger."""
        payload = decode(signed_payload(document, what="statement"), what="statement")
        if not isinstance(payload, dict):
            raise _SHAPE.refuse("statement", "a map", "something else")
        said = dict[Any, Value](payload)
        contract, ledger = said.get("contract"), said.get("ledger")
        keys: tuple[bytes, ...] = ()
        if isinstance(contract, bytes):
            keys = self._journal.owners_of(contract)
        known = self._journal.owner_of(ledger) if isinstance(ledger, bytes) else None
        if known is not None:
            keys = (known,)
        for key in keys:
            try:
                return Statement.read(document, key), key
            except ProtocolError as error:
                if error.name != "signature_invalid":
                    raise
        raise ProtocolError.named(
            "not_a_party", "no owner of this ledger, or of a contract in this log, signed the statement"
        )

    def _checkpoint(self, fields: dict[str, Value]) -> dict[str, object]:
        nonce = fields["nonce"]
        if nonce is not None:
            nonce = _SHAPE.bytes(nonce, "request, nonce", size=32)
        made = Checkpoint.make(
            self._identity.name,
            len(self._journal.leaves),
            self._journal.root,
            self._identity.signing,
            at_s=int(self._around.clock()),
            nonce=nonce,
        )
        return {"checkpoint": made.signed, "index": None, "leaf": None, "path": []}

    def _shown(self, index: int, nonce: Value) -> dict[str, object]:
        size = len(self._journal.leaves)
        found = {"index": index, "leaf": self._journal.leaves[index]}
        return {**self._checkpoint({"nonce": nonce}), **found, "path": self._journal.inclusion(index, size)}

    def _find(self, fields: dict[str, Value]) -> dict[str, object]:
        leaf = _SHAPE.bytes(fields["leaf"], "request find, leaf", most=8192)
        index = self._journal.place(leaf)
        return self._checkpoint(fields) if index is None else self._shown(index, fields["nonce"])

    def _consistency(self, fields: dict[str, Value]) -> dict[str, object]:
        first = _SHAPE.uint(fields["first"], "request consistency, first")
        second = _SHAPE.uint(fields["second"], "request consistency, second")
        return {"path": self._journal.consistency(first, second)}

    def _leaves(self, fields: dict[str, Value]) -> dict[str, object]:
        start = _SHAPE.uint(fields["start"], "request leaves, start")
        count = _SHAPE.uint(fields["count"], "request leaves, count", least=1, most=_MOST_LEAVES)
        return {"leaves": self._journal.leaves[start : start + count]}
