"""Where a store's entries lie: one SQLite file, and the few operations that a store needs of it.

*Durability.* The file is in WAL mode with ``synchronous = FULL``: every commit syncs the log before it
returns, and SQLite syncs the folder when it makes the log. A commit is therefore on the disk when
:meth:`Medium.commit` returns, or it never happened. A copy of the file alone, without ``-wal``, may lack the
last entries: back up with ``myelin ledger backup``, or after the broker has stopped.

*Versions.* ``user_version`` is the format: 0 is the first (one table ``entry``, a rollback journal), 2 is
this one (``line``). Opening an older file brings it up to date in one transaction; no entry is changed or
lost, since each is chained to the one before. The table has another name, so a program of the older format
refuses the file instead of overlooking entries that it does not know.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, final

from myelin.errors import InputError, ProtocolError

__all__ = ["STORE_VERSION", "HeadRow", "Line", "Medium", "SqliteMedium", "create_sqlite", "open_sqlite"]

STORE_VERSION = 2
"""The format that this program writes."""

_APPLICATION_ID = 0x4D59454C
_TABLES = (
    "CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), salt BLOB NOT NULL, "
    "entries INTEGER NOT NULL, mac BLOB NOT NULL)",
    "CREATE TABLE line (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL, secret BLOB, "
    "chain BLOB NOT NULL)",
)
_BUSY_TIMEOUT_MS = 30_000


class Line(NamedTuple):
    """One entry as it lies there; a medium promises nothing of it, the store checks all."""

    number: Any
    kind: Any
    body: Any
    secret: Any
    chain: Any


class HeadRow(NamedTuple):
    """Salt of the store, how many entries there should be, and a MAC over that and the last one's chain."""

    salt: Any
    entries: Any
    mac: Any


class Medium(Protocol):
    """What holds a store's lines. A transaction is whole or not there, and durable when ``commit`` returns.

    Raises ``ledger_unwritable`` and ``ledger_damaged``; used by one thread at a time.
    """

    @property
    def writing(self) -> bool:
        """Whether a transaction that may write is open."""

    def begin(self, *, write: bool) -> None:
        """Begin a transaction; one that may write keeps every other writer out."""

    def commit(self) -> None:
        """Make what was written durable."""

    def rollback(self) -> None:
        """Forget what was written. Never raises."""

    def head(self) -> HeadRow | None:
        """The head, if there is one."""

    def lines(self, start: int) -> list[Line]:
        """Lines from number ``start`` on, in order."""

    def put(self, line: Line, head: HeadRow) -> None:
        """Add a line and replace the head, in a transaction that may write."""

    def put_head(self, head: HeadRow) -> None:
        """Replace the head alone, in a transaction that may write."""

    def older_version(self) -> int | None:
        """The format that the file had when it was opened, if that was an older one."""

    def backup(self, path: Path) -> None:
        """Write a whole copy to a new file, durably, while others go on."""

    def close(self) -> None:
        """Let go of it."""


@final
class SqliteMedium:
    """A :class:`Medium` in one SQLite file."""

    def __init__(self, connection: sqlite3.Connection, path: Path, older: int | None) -> None:
        self.connection = connection
        self._path = path
        self._older = older

    @property
    def writing(self) -> bool:
        """Whether a transaction is open."""
        return self.connection.in_transaction

    def begin(self, *, write: bool) -> None:
        """``BEGIN IMMEDIATE`` to write, ``BEGIN`` to read one state of the file."""
        self._run("BEGIN IMMEDIATE" if write else "BEGIN")

    def commit(self) -> None:
        """Commit; WAL and ``synchronous = FULL`` make it durable."""
        self._run("COMMIT")

    def rollback(self) -> None:
        """Roll back, if anything is open."""
        with contextlib.suppress(sqlite3.Error):
            self.connection.execute("ROLLBACK")

    def head(self) -> HeadRow | None:
        """The head."""
        rows = self._run("SELECT salt, entries, mac FROM head")
        return HeadRow(*rows[0]) if rows else None

    def lines(self, start: int) -> list[Line]:
        """Lines from ``start`` on."""
        sql = "SELECT number, kind, body, secret, chain FROM line WHERE number >= ? ORDER BY number"
        return [Line(*row) for row in self._run(sql, start)]

    def put(self, line: Line, head: HeadRow) -> None:
        """Insert and update."""
        self._run("INSERT INTO line VALUES (?, ?, ?, ?, ?)", *line)
        self.put_head(head)

    def put_head(self, head: HeadRow) -> None:
        """Insert or replace."""
        self._run("INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?)", *head)

    def older_version(self) -> int | None:
        """What it was brought up from."""
        return self._older

    def backup(self, path: Path) -> None:
        """SQLite's own online backup, synced."""
        _make_empty(path)
        with _translated(path), contextlib.closing(sqlite3.connect(path)) as copy:
            copy.execute("PRAGMA synchronous = EXTRA")
            self.connection.backup(copy)

    def close(self) -> None:
        """Close; the last one to close folds the log into the file."""
        self.connection.close()

    def _run(self, sql: str, *parameters: object) -> list[Any]:
        with _translated(self._path):
            return self.connection.execute(sql, parameters).fetchall()


def create_sqlite(path: Path) -> SqliteMedium:
    """Make a new, empty file (mode 0600); :class:`~myelin.errors.InputError` if there is one."""
    _make_empty(path)
    try:
        connection = _connect(path)
        with _translated(path):
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            for table in _TABLES:
                connection.execute(table)
            connection.execute(f"PRAGMA user_version = {STORE_VERSION}")
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return SqliteMedium(connection, path, None)


def open_sqlite(path: Path) -> SqliteMedium:
    """Open a file, and bring one of an older format up to date."""
    if not path.is_file():
        raise InputError(f"{path}: no ledger there; seal a dataset first")
    connection = _connect(path)
    try:
        with _translated(path):
            older = _bring_up(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
    except BaseException:
        connection.close()
        raise
    return SqliteMedium(connection, path, older)


def _bring_up(connection: sqlite3.Connection, path: Path) -> int | None:
    """Migrate, one format at a time, each in a transaction of its own; gives the format that it had."""
    found = _version(connection)
    if found > STORE_VERSION:
        raise InputError(
            f"{path}: expected a ledger of format {STORE_VERSION} or older, got {found}: a newer Myelin "
            "wrote it; use that one"
        )
    if found == STORE_VERSION:
        return None
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _version(connection) == 0:  # another process may have been faster
            connection.execute("ALTER TABLE entry RENAME TO line")
            connection.execute(f"PRAGMA user_version = {STORE_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return found


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _make_empty(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise InputError(f"{path} exists; a ledger is never overwritten") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _connect(path: Path) -> sqlite3.Connection:
    with _translated(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA synchronous = FULL")
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
