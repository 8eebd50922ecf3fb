"""Nonces that a broker chose: 32 random bytes, single use, ten minutes."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from myelin.errors import ProtocolError

__all__ = ["Nonces"]

_NONCE_LIFE_S = 600
_MOST_NONCES = 4096


@final
@dataclass
class Nonces:
    """Nonces that were issued and not used.

    They live in memory. A broker that restarts knows none of them, so it refuses them: the host asks again.
    """

    draw: Callable[[int], bytes] = os.urandom
    _issued: OrderedDict[bytes, float] = field(default_factory=OrderedDict, repr=False)

    def issue(self, now_s: float) -> bytes:
        """Draw a nonce. If too many are open, the oldest is forgotten."""
        while len(self._issued) >= _MOST_NONCES:
            self._issued.popitem(last=False)
        nonce = self.draw(32)
        self._issued[nonce] = now_s
        return nonce

    def use(self, nonce: bytes, now_s: float) -> None:
        """Use up a nonce; raises ``nonce_unknown``."""
        issued_s = self._issued.pop(nonce, None)
        if issued_s is None:
            raise ProtocolError.named("nonce_unknown", "this nonce was not issued here, or was used before")
        if not 0 <= now_s - issued_s <= _NONCE_LIFE_S:
            raise ProtocolError.named("nonce_unknown", f"this nonce is older than {_NONCE_LIFE_S} s")
