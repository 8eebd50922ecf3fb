"""An owner's sealed store: dataset keys, spent budget, answers given, shares kept. One SQLite file.

Keys and budgets die together: the data keys are in the same file as the debits, encrypted under a key that
only the owner's private key gives, so whoever deletes the ledger deletes the data keys. Every entry is
chained to the one before it with a MAC under another such key; the chain is checked whenever the file is
opened or has grown. What is written is on the disk before the call returns (:mod:`~myelin.contract.medium`).

A *witness file* is a small file elsewhere, best beside the private key, that remembers how long the chain
was. With it an older copy of the store, put back in place, is noticed by whoever left the witness file
alone. What nobody can put back is an anchor (:mod:`~myelin.contract.anchor`).
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from myelin.contract.agreement import Budget
from myelin.contract.keys import Identity
from myelin.contract.medium import STORE_VERSION, HeadRow, Line, Medium
from myelin.contract.surroundings import Surroundings
from myelin.errors import MyelinError, ProtocolError
from myelin.wire import Shape, Value, decode, digest, encode, info

__all__ = ["Entry", "Store"]

_MOST_BODY_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One line of the store: its number (from 0), its kind, what it says, and its secret, still sealed."""

    number: int
    kind: str
    body: dict[str, Any]
    sealed_secret: bytes | None
    chain: bytes


@final
class Store:
    """An open store. Not for several threads at once; several processes may use one file.

    Raises ``ledger_damaged`` if the file fails its own check, ``ledger_unwritable`` if it cannot be written.
    """

    def __init__(
        self,
        medium: Medium,
        path: Path,
        identity: Identity,
        witness: Path | None,
        surroundings: Surroundings,
    ) -> None:
        self._medium = medium
        self._path = path
        self._witness = witness
        self._surroundings = surroundings
        self._entries: list[Entry] = []
        head = medium.head()
        if head is None or type(head.salt) is not bytes:
            raise self._damaged("it has no head")
        self._salt: bytes = head.salt
        owner = digest(identity.public.signing_key)
        self._cipher = AESGCM(identity.derive("myelin/store/secrets/v1", self._salt))
        self._mac_key = identity.derive("myelin/store/chain/v1", self._salt)
        self.ledger_id = digest(info("myelin/ledger/v1", identity.public.signing_key, self._salt))
        """Names this store and no other, also to others (32 bytes)."""
        self._refresh()
        if (
            not self._entries
            or self._entries[0].kind != "open"
            or self._entries[0].body.get("owner") != owner
        ):
            raise self._damaged("it does not begin with this owner's budget")
        self._check_witness()

    @classmethod
    def create(
        cls,
        path: str | Path,
        identity: Identity,
        budget: Budget,
        *,
        at_s: int,
        witness: str | Path | None = None,
        surroundings: Surroundings | None = None,
    ) -> Store:
        """Make a new store with the budget for everything that is ever released from it (mode 0600)."""
        path, around = Path(path), surroundings or Surroundings()
        medium = around.create_medium(path)
        try:
            salt = around.draw(32)
            mac_key = identity.derive("myelin/store/chain/v1", salt)
            body = {
                "owner": digest(identity.public.signing_key),
                "epsilon_e6": budget.epsilon_e6,
                "delta_e15": budget.delta_e15,
                "at_s": at_s,
            }
            raw = encode(body)
            chain = _chain(mac_key, b"", 0, "open", raw, None)
            medium.begin(write=True)
            medium.put(Line(0, "open", raw, None, chain), HeadRow(salt, 1, _head(mac_key, 1, chain)))
            medium.commit()
            return cls(medium, path, identity, Path(witness) if witness else None, around)
        except BaseException:
            medium.close()
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def open(
        cls,
        path: str | Path,
        identity: Identity,
        *,
        witness: str | Path | None = None,
        surroundings: Surroundings | None = None,
    ) -> Store:
        """Open a store and check its whole chain; one of an older format is brought up to date."""
        path, around = Path(path), surroundings or Surroundings()
        medium = around.open_medium(path)
        try:
            store = cls(medium, path, identity, Path(witness) if witness else None, around)
            older = medium.older_version()
            if older is not None:
                with store.transaction():
                    store.append("format", {"from": older, "to": STORE_VERSION})
            return store
        except BaseException:
            medium.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._medium.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def budget(self) -> Budget:
        """The budget of everything that is ever released from this store."""
        body = self._entries[0].body
        return Budget(body["epsilon_e6"], body["delta_e15"])

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Entries in order, of one kind or all."""
        self._refresh()
        return [entry for entry in self._entries if kind in (None, entry.kind)]

    def secret(self, entry: Entry) -> bytes:
        """Open an entry's secret."""
        sealed = entry.sealed_secret
        previous = self._entries[entry.number - 1].chain
        try:
            if sealed is None:
                raise InvalidTag
            return self._cipher.decrypt(sealed[:12], sealed[12:], _place(previous, entry.number, entry.kind))
        except InvalidTag:
            raise self._damaged(f"entry {entry.number} does not open") from None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the file against every other writer; what :meth:`append` wrote inside is durable after it, or,
        if the block raises or the disk refuses, was never written."""
        self._medium.begin(write=True)
        size_before = len(self._entries)
        try:
            self._refresh()
            size_before = len(self._entries)
            yield
            self._medium.commit()
        except BaseException:
            del self._entries[size_before:]
            self._medium.rollback()
            raise
        if len(self._entries) > size_before:
            self._write_witness()

    def backup(self, path: str | Path) -> None:
        """Write a whole copy to a new file while brokers go on. It is an older copy as soon as one has
        released."""
        self._medium.backup(Path(path))

    def append(self, kind: str, body: dict[str, Any], secret: bytes | None = None) -> Entry:
        """Add an entry, within a :meth:`transaction`; ``secret`` is stored encrypted."""
        if not self._medium.writing:
            raise RuntimeError("append needs a transaction")
        number, previous = len(self._entries), self._entries[-1].chain
        raw = encode(body)
        sealed = None
        if secret is not None:
            nonce = self._surroundings.draw(12)
            sealed = nonce + self._cipher.encrypt(nonce, secret, _place(previous, number, kind))
        chain = _chain(self._mac_key, previous, number, kind, raw, sealed)
        head = HeadRow(self._salt, number + 1, _head(self._mac_key, number + 1, chain))
        self._medium.put(Line(number, kind, raw, sealed, chain), head)
        entry = Entry(number, kind, body, sealed, chain)
        self._entries.append(entry)
        return entry

    def _refresh(self) -> None:
        """Take in what was appended since, checking the chain."""
        alone = not self._medium.writing
        if alone:  # both reads see one state of the file
            self._medium.begin(write=False)
        try:
            rows = self._medium.lines(len(self._entries))
            found = self._medium.head()
        finally:
            if alone:
                self._medium.rollback()
        if found is None or found.salt != self._salt:
            raise self._damaged("it has no head, or another one")
        count, mac = found.entries, found.mac
        fresh = list(self._entries)
        for number, kind, raw, secret, chain in rows:
            previous = fresh[-1].chain if fresh else b""
            well_typed = (
                type(kind) is str
                and type(raw) is bytes
                and type(secret) in (bytes, type(None))
                and type(chain) is bytes
            )
            if not well_typed or number != len(fresh):
                raise self._damaged(f"entry {len(fresh)} is missing or not of its form")
            if not hmac.compare_digest(chain, _chain(self._mac_key, previous, number, kind, raw, secret)):
                raise self._damaged(f"entry {number} was altered, or belongs to another owner")
            fresh.append(Entry(number, kind, self._body(raw, number), secret, chain))
        head = _head(self._mac_key, len(fresh), fresh[-1].chain) if fresh else b""
        if count != len(fresh) or type(mac) is not bytes or not hmac.compare_digest(mac, head):
            raise self._damaged(f"it should have {count} entries and has {len(fresh)}")
        self._entries = fresh

    def _body(self, raw: bytes, number: int) -> dict[str, Any]:
        body: Value = decode(
            raw, most_bytes=_MOST_BODY_BYTES, refusal="ledger_damaged", what=f"entry {number}"
        )
        if not isinstance(body, dict):
            raise self._damaged(f"entry {number} is not of its form")
        return {str(key): value for key, value in body.items()}

    def _check_witness(self) -> None:
        if self._witness is None:
            return
        if not self._surroundings.files.exists(self._witness):
            self._write_witness()
            return
        value = decode(
            self._surroundings.files.read(self._witness, 256),
            refusal="ledger_damaged",
            what="the ledger's witness",
        )
        shape = Shape("ledger_damaged", "ledger_damaged")
        count, mac = shape.array(value, "the ledger's witness", size=2)
        count = shape.uint(count, "the ledger's witness, entries", least=1)
        if count > len(self._entries):
            raise self._damaged(
                f"it has {len(self._entries)} entries where {self._witness} remembers {count}: an older copy "
                "was put back. Restore the newest copy; releases since then cannot be forgotten"
            )
        head = _head(self._mac_key, count, self._entries[count - 1].chain)
        if type(mac) is not bytes or not hmac.compare_digest(mac, head):
            raise self._damaged(f"it is not the one that {self._witness} remembers")

    def _write_witness(self) -> None:
        if self._witness is None:
            return
        count = len(self._entries)
        head = _head(self._mac_key, count, self._entries[-1].chain)
        # The entry is durable by now; a witness that stays behind only notices less.
        with contextlib.suppress(MyelinError):
            self._surroundings.files.write(self._witness, encode([count, head]))

    def _damaged(self, why: str) -> ProtocolError:
        return ProtocolError.named("ledger_damaged", f"{self._path}: {why}; nothing is released from it")


def _chain(key: bytes, previous: bytes, number: int, kind: str, body: bytes, secret: bytes | None) -> bytes:
    return hmac.digest(key, encode(["myelin/ledger/v1", previous, number, kind, body, secret]), "sha256")


def _head(key: bytes, count: int, chain: bytes) -> bytes:
    return hmac.digest(key, encode(["myelin/ledger-head/v1", count, chain]), "sha256")


def _place(previous: bytes, number: int, kind: str) -> bytes:
    return encode(["myelin/ledger-secret/v1", previous, number, kind])
