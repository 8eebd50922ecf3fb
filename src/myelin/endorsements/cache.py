"""What was fetched, kept: content by its digest, and for each request which content came, and when.

A cache saves the vendors' services and works where they do not. How old its content may be is said by whoever
fetches; whether it is believed, and how old it may be in the vendor's own words, by the appraisal.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from myelin.contract import write_whole
from myelin.endorsements.transport import Answer, Request
from myelin.errors import InputError

__all__ = ["Cache", "Kept"]

_MOST_RECORD_BYTES = 64 << 10
_MOST_CONTENT_BYTES = 4 << 20


@dataclass(frozen=True)
class Kept:
    """An answer and the time it came at."""

    answer: Answer
    fetched_s: int


@dataclass(frozen=True)
class Cache:
    """A folder: ``content/SHA256`` and ``requests/SHA256.json``. Damaged entries are as if absent."""

    folder: Path

    def find(self, request: Request) -> Kept | None:
        """What was kept for a request, whatever its age."""
        try:
            record = json.loads(_read(self._record(request), _MOST_RECORD_BYTES))
            digest, fetched_s, headers = record["content"], record["fetched_s"], record["headers"]
            if not re.fullmatch("[0-9a-f]{64}", digest) or type(fetched_s) is not int:
                return None
            body = _read(self.folder / "content" / digest, _MOST_CONTENT_BYTES)
        except (OSError, ValueError, LookupError, TypeError):
            return None
        if hashlib.sha256(body).hexdigest() != digest or record.get("url") != request.url:
            return None
        if not isinstance(headers, dict) or not all(isinstance(v, str) for v in headers.values()):
            return None
        return Kept(Answer(headers, body), fetched_s)

    def keep(self, request: Request, kept: Kept, headers: frozenset[str]) -> None:
        """Keep an answer with those of its headers that are named: content first, then what points at it."""
        digest = hashlib.sha256(kept.answer.body).hexdigest()
        record = {
            "url": request.url,
            "content": digest,
            "fetched_s": kept.fetched_s,
            "headers": {name: value for name, value in kept.answer.headers.items() if name in headers},
        }
        try:
            for name in ("content", "requests"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / "content" / digest, kept.answer.body)
            write_whole(self._record(request), json.dumps(record, indent=1).encode())
        except OSError as error:
            raise InputError(f"{self.folder}: the cache cannot be written: {error.strerror}") from None

    def _record(self, request: Request) -> Path:
        asked = hashlib.sha256(request.url.encode() + b"\0" + (request.body or b"")).hexdigest()
        return self.folder / "requests" / f"{asked}.json"


def _read(path: Path, most: int) -> bytes:
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError("longer than anything kept")
    return data
