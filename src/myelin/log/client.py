"""Asking a log, and believing nothing of it that is not signed, fresh, shown and consistent with before."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from myelin.contract import Connect, Surroundings, ask
from myelin.errors import ProtocolError
from myelin.log.checkpoint import Checkpoint, Included, check_extends, read_hashes
from myelin.wire import Shape

__all__ = ["LogClient"]

_SHAPE = Shape()
_MOST_SEEN_BYTES = 4096


@final
@dataclass(frozen=True)
class LogClient:
    """One log: where it answers, its signing key, and the file that keeps the last checkpoint seen.

    With ``seen``, a log that removes or changes an entry, or shows another version of itself, is refused with
    ``log_inconsistent``; both checkpoints are then evidence of it.
    """

    address: str
    signing_key: bytes
    connect: Connect
    surroundings: Surroundings
    seen: Path | None = None

    def add(
        self, kind: str, document: bytes, nonce: bytes | None = None
    ) -> tuple[Checkpoint, Included | None]:
        """Add a document; the fresh checkpoint, and its leaf under it (``None`` for a head that is not new).

        ``nonce`` must be the statement's where the document is one.
        """
        nonce = nonce or self.surroundings.draw(32)
        return self._ask({"verb": "add", "kind": kind, "document": document, "nonce": nonce}, nonce)

    def find(self, leaf: bytes) -> tuple[Checkpoint, Included | None]:
        """Look for a leaf."""
        nonce = self.surroundings.draw(32)
        return self._ask({"verb": "find", "leaf": leaf, "nonce": nonce}, nonce)

    def leaves(self, start: int, count: int) -> list[bytes]:
        """Leaves as the log gives them; only their root makes them true."""
        with closing(self.connect(self.address)) as transport:
            answer = ask(transport, {"verb": "leaves", "start": start, "count": count})
        items = _SHAPE.array(answer.get("leaves"), "log, leaves", most=256)
        return [_SHAPE.bytes(item, "log, leaf", most=8192) for item in items]

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """The log's proof that one size extends another."""
        with closing(self.connect(self.address)) as transport:
            answer = ask(transport, {"verb": "consistency", "first": first, "second": second})
        return read_hashes(answer.get("path"), "log, path")

    def _ask(self, request: Mapping[str, Any], nonce: bytes) -> tuple[Checkpoint, Included | None]:
        with closing(self.connect(self.address)) as transport:
            answer = ask(transport, request)
        signed = _SHAPE.bytes(answer.get("checkpoint"), "log, checkpoint", most=1024)
        checkpoint = Checkpoint.read(signed, self.signing_key)
        if checkpoint.nonce != nonce:
            raise ProtocolError.named(
                "nonce_unknown", f"log at {self.address}: an answer to another question"
            )
        self._check_seen(checkpoint)
        if answer.get("index") is None:
            return checkpoint, None
        found = Included(
            _SHAPE.uint(answer["index"], "log, index"),
            _SHAPE.bytes(answer.get("leaf"), "log, leaf", most=8192),
            read_hashes(answer.get("path"), "log, path"),
        )
        if not found.under(checkpoint):
            raise ProtocolError.named(
                "log_inconsistent", f"log at {self.address}: its leaf is not under its own checkpoint"
            )
        return checkpoint, found

    def _check_seen(self, now: Checkpoint) -> None:
        files = self.surroundings.files
        if self.seen is None:
            return
        if files.exists(self.seen):
            before = Checkpoint.read(files.read(self.seen, _MOST_SEEN_BYTES), self.signing_key)
            proof = self.consistency(before.size, now.size) if 0 < before.size < now.size else ()
            check_extends(before, now, proof)
            if before.size == now.size:
                return
        files.write(self.seen, now.signed)
