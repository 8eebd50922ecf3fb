"""Rates: a bucket of tokens for each client, and one for all."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

__all__ = ["Rates"]

_MOST_CLIENTS = 4096


@final
@dataclass
class Rates:
    """``burst`` requests at once, then ``per_s`` a second, for each client; ``all_together`` times that for
    all.

    ``timer`` is a clock in seconds that never goes back. Memory is bounded: of very many clients, the one
    that has not asked for longest is forgotten.
    """

    timer: Callable[[], float]
    burst: float = 20.0
    per_s: float = 2.0
    all_together: float = 10.0
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def allow(self, client: str) -> bool:
        """Take a token for this client and one for all, if both have one."""
        with self._lock:
            now = self.timer()
            own = self._filled(client, now, 1.0)
            everyone = self._filled("", now, self.all_together)
            allowed = own >= 1 and everyone >= 1
            self._put(client, own - allowed, now)
            self._put("", everyone - allowed, now)
            return allowed

    def _filled(self, client: str, now: float, scale: float) -> float:
        tokens, at = self._buckets.get(client, (self.burst * scale, now))
        return min(self.burst * scale, tokens + (now - at) * self.per_s * scale)

    def _put(self, client: str, tokens: float, now: float) -> None:
        self._buckets[client] = (tokens, now)
        self._buckets.move_to_end(client)
        while len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
