"""An audit log: one JSON object a line, each with the hash of the line before.

Whoever takes a line out, changes one or cuts the file off in its middle is noticed by :func:`check_audit`,
and, by its last hash, whoever cuts off the end. It says who asked for what and what came of it; it holds no
key, grant or share. Each line is on the disk before the answer that it tells of leaves.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, final

from myelin.contract import Surroundings
from myelin.errors import InputError, ProtocolError

__all__ = ["AuditLog", "AuditState", "check_audit"]

_MOST_LOG_BYTES = 1 << 30
_SEGMENT_BYTES = 64 << 20
_MOST_TEXT = 1024
_FIRST = "0" * 64


@dataclass(frozen=True)
class AuditState:
    """How many whole lines a log has, and the hash of the last one (64 hex digits; zeros of none)."""

    lines: int
    last: str
    torn_bytes: int = 0


def check_audit(data: bytes, where: str) -> AuditState:
    """Check a whole audit log; raises :class:`~myelin.errors.InputError` with the first line that does not
    fit.

    A later segment begins with a line that says so, and gives the hash that the one before ended with.
    A last line without its end is what a power failure leaves: it is counted as torn, not as a line.
    """
    last, lines, start = _FIRST, data.split(b"\n"), 0
    for number, line in enumerate(lines[:-1]):
        try:
            read = json.loads(line)
            if number == 0 and read["event"] == "continued":
                start, last = read["n"], read["prev"]
            good = isinstance(read, dict) and (read["n"], read["prev"]) == (start + number, last)
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise InputError(
                f"{where}: line {number + 1} does not follow the one before: lines were changed or taken out"
            )
        last = hashlib.sha256(line).hexdigest()
    return AuditState(start + len(lines) - 1, last, len(lines[-1]))


@final
class AuditLog:
    """An open audit log; its file is made if it is not there. For several threads.

    A file that has reached 64 MiB is put aside under its name with the number of its last line, and another
    begins that continues it.
    """

    def __init__(self, path: Path, surroundings: Surroundings) -> None:
        self._path = path
        self._around = surroundings
        self._lock = threading.Lock()
        self._state = AuditState(0, _FIRST)
        self._size_bytes = 0
        if surroundings.files.exists(path):
            data = surroundings.files.read(path, _MOST_LOG_BYTES)
            self._state = check_audit(data, str(path))
            torn = self._state.torn_bytes
            self._size_bytes = len(data) - torn
            if torn:  # its answer never left; the next line must not be glued to it
                surroundings.files.write(path, data[: len(data) - torn])
                self.write("torn", {"bytes": torn})

    @property
    def state(self) -> AuditState:
        """Lines so far and the last one's hash."""
        return self._state

    def write(self, happened: str, facts: Mapping[str, object]) -> None:
        """Append a line, durably; raises ``ledger_unwritable``."""
        with self._lock:
            if self._size_bytes >= _SEGMENT_BYTES:
                self._put_aside()
            line = self._line(happened, facts)
            try:
                self._around.files.append(self._path, line + b"\n")
            except OSError as error:
                raise ProtocolError.named(
                    "ledger_unwritable", f"audit log {self._path}: {error.strerror}; nothing was released"
                ) from None
            self._took(line)

    def _line(self, happened: str, facts: Mapping[str, object]) -> bytes:
        now = datetime.fromtimestamp(self._around.clock(), timezone.utc)
        fields = {
            **{key: _plain(value) for key, value in facts.items()},
            "n": self._state.lines,
            "prev": self._state.last,
            "at": now.isoformat(timespec="milliseconds"),
            "event": happened,
        }
        return json.dumps(fields, ensure_ascii=True).encode()

    def _took(self, line: bytes) -> None:
        self._size_bytes += len(line) + 1
        self._state = AuditState(self._state.lines + 1, hashlib.sha256(line).hexdigest())

    def _put_aside(self) -> None:
        """Copy the file under another name, and replace it by one that continues it; both whole or not at
        all."""
        files = self._around.files
        aside = self._path.with_name(f"{self._path.name}.{self._state.lines}")
        try:
            files.write(aside, files.read(self._path, _MOST_LOG_BYTES))
            line = self._line("continued", {"from": aside.name})
            files.write(self._path, line + b"\n")
        except (OSError, InputError) as error:
            raise ProtocolError.named("ledger_unwritable", f"audit log {self._path}: {error}") from None
        self._size_bytes = 0
        self._took(line)


def _plain(value: object) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return value[:_MOST_TEXT]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float) or value is None else str(value)[:_MOST_TEXT]
