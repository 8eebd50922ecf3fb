"""An owner's sealed store: dataset keys, spent budget, answers given, shares kept. One SQLite file.

Keys and budgets die together: the data keys are in the same file as the debits, encrypted under a key that
only the owner's private key gives, so whoever deletes the ledger deletes the data keys. Every entry is
chained to the one before it with a MAC under another such key; the chain is checked whenever the file is
opened or has grown. What is written is on the disk (``fsync`` of file and folder) before the call returns.

A *witness* is a small file elsewhere, best beside the private key, that remembers how long the chain was.
With it an older copy of the store, put back in place, is noticed.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from myelin.contract.agreement import Budget
from myelin.contract.files import read_bounded, write_whole
from myelin.contract.keys import Identity
from myelin.errors import InputError, MyelinError, ProtocolError
from myelin.wire import Shape, Value, decode, digest, encode

__all__ = ["Entry", "Store"]

_APPLICATION_ID = 0x4D59454C
_TABLES = """
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), salt BLOB NOT NULL, entries INTEGER NOT NULL,
                   mac BLOB NOT NULL);
CREATE TABLE entry (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL, secret BLOB,
                    chain BLOB NOT NULL);
"""
_BUSY_TIMEOUT_MS = 30_000
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

    def __init__(self, connection: sqlite3.Connection, path: Path, identity: Identity, witness: Path | None):
        self._connection = connection
        self._path = path
        self._witness = witness
        self._entries: list[Entry] = []
        (salt,) = self._query("SELECT salt FROM head")[0]
        owner = digest(identity.public.signing_key)
        self._cipher = AESGCM(identity.derive("myelin/store/secrets/v1", salt))
        self._mac_key = identity.derive("myelin/store/chain/v1", salt)
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
    ) -> Store:
        """Make a new store with the budget for everything that is ever released from it (mode 0600)."""
        path = Path(path)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            raise InputError(f"{path} exists; a ledger is never overwritten") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        try:
            connection = _connect(path)
            with _translated(path), contextlib.closing(connection):
                salt = os.urandom(32)
                mac_key = identity.derive("myelin/store/chain/v1", salt)
                body = {
                    "owner": digest(identity.public.signing_key),
                    "epsilon_e6": budget.epsilon_e6,
                    "delta_e15": budget.delta_e15,
                    "at_s": at_s,
                }
                raw = encode(body)
                chain = _chain(mac_key, b"", 0, "open", raw, None)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.executescript("BEGIN;" + _TABLES)
                connection.execute("INSERT INTO entry VALUES (0, 'open', ?, NULL, ?)", (raw, chain))
                connection.execute("INSERT INTO head VALUES (1, ?, 1, ?)", (salt, _head(mac_key, 1, chain)))
                connection.execute("COMMIT")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return cls.open(path, identity, witness=witness)

    @classmethod
    def open(cls, path: str | Path, identity: Identity, *, witness: str | Path | None = None) -> Store:
        """Open a store and check its whole chain."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no ledger there; seal a dataset first")
        connection = _connect(path)
        try:
            with _translated(path):
                return cls(connection, path, identity, Path(witness) if witness else None)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

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
        with _translated(self._path):
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
        with _translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
        size_before = len(self._entries)
        try:
            with _translated(self._path):
                self._refresh()
            size_before = len(self._entries)
            yield
            with _translated(self._path):
                self._connection.execute("COMMIT")
        except BaseException:
            del self._entries[size_before:]
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        if len(self._entries) > size_before:
            self._write_witness()

    def append(self, kind: str, body: dict[str, Any], secret: bytes | None = None) -> Entry:
        """Add an entry, within a :meth:`transaction`; ``secret`` is stored encrypted."""
        if not self._connection.in_transaction:
            raise RuntimeError("append needs a transaction")
        number, previous = len(self._entries), self._entries[-1].chain
        raw = encode(body)
        sealed = None
        if secret is not None:
            nonce = os.urandom(12)
            sealed = nonce + self._cipher.encrypt(nonce, secret, _place(previous, number, kind))
        chain = _chain(self._mac_key, previous, number, kind, raw, sealed)
        with _translated(self._path):
            self._connection.execute(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?)", (number, kind, raw, sealed, chain)
            )
            head = _head(self._mac_key, number + 1, chain)
            self._connection.execute("UPDATE head SET entries = ?, mac = ?", (number + 1, head))
        entry = Entry(number, kind, body, sealed, chain)
        self._entries.append(entry)
        return entry

    def _query(self, sql: str, *parameters: object) -> list[Any]:
        rows = self._connection.execute(sql, parameters).fetchall()
        if not rows and "head" in sql:
            raise self._damaged("it has no head")
        return rows

    def _refresh(self) -> None:
        """Take in what was appended since, checking the chain."""
        alone = not self._connection.in_transaction
        if alone:  # both reads see one state of the file
            self._connection.execute("BEGIN")
        try:
            rows = self._query(
                "SELECT number, kind, body, secret, chain FROM entry WHERE number >= ? ORDER BY number",
                len(self._entries),
            )
            (count, mac) = self._query("SELECT entries, mac FROM head")[0]
        finally:
            if alone:
                self._connection.execute("ROLLBACK")
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
        if not self._witness.exists():
            self._write_witness()
            return
        value = decode(
            read_bounded(self._witness, 256), refusal="ledger_damaged", what="the ledger's witness"
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
            write_whole(self._witness, encode([count, head]), mode=0o600)

    def _damaged(self, why: str) -> ProtocolError:
        return ProtocolError.named("ledger_damaged", f"{self._path}: {why}; nothing is released from it")


def _chain(key: bytes, previous: bytes, number: int, kind: str, body: bytes, secret: bytes | None) -> bytes:
    return hmac.digest(key, encode(["myelin/ledger/v1", previous, number, kind, body, secret]), "sha256")


def _head(key: bytes, count: int, chain: bytes) -> bytes:
    return hmac.digest(key, encode(["myelin/ledger-head/v1", count, chain]), "sha256")


def _place(previous: bytes, number: int, kind: str) -> bytes:
    return encode(["myelin/ledger-secret/v1", previous, number, kind])


def _connect(path: Path) -> sqlite3.Connection:
    with _translated(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA journal_mode = DELETE")
        # EXTRA also syncs the folder after the journal is removed: the commit is on the disk when it returns.
        connection.execute("PRAGMA synchronous = EXTRA")
    return connection


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Say SQLite's errors in the protocol's words."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "no such" in str(error):  # a table or column that should be there
            raise ProtocolError.named(
                "ledger_damaged", f"{path}: {error}; nothing is released from it"
            ) from None
        raise ProtocolError.named("ledger_unwritable", f"{path}: {error}; nothing was released") from None
    except sqlite3.DatabaseError as error:
        raise ProtocolError.named("ledger_damaged", f"{path}: {error}; nothing is released from it") from None
