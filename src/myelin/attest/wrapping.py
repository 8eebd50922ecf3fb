"""What vendors' tools and other frameworks put around evidence in a file, taken off before it is judged.

Verifiers take only what hardware gave. A wrapping proves nothing and is bound by nothing, so it is taken off
here, once, and what it says besides is not looked at.
"""

from __future__ import annotations

import re

from myelin.attest.kind import RealEvidence

__all__ = ["unwrapped"]

_MOST_HEX_BYTES = 64 << 10
_DSTACK_NITRO = b"\0\2"
"""dstack's envelope: version 0, variant Nitro, the document behind its SCALE length, further fields."""


def unwrapped(kind: RealEvidence, data: bytes) -> bytes:
    """The evidence of ``kind`` in a file: GPU reports may be in hex, Nitro documents in dstack's envelope.

    Anything else comes back as it is.
    """
    if kind is RealEvidence.NVIDIA:
        text = data.strip()
        if len(text) <= _MOST_HEX_BYTES and re.fullmatch(rb"(?i)(?:[0-9a-f]{2})+", text):
            return bytes.fromhex(text.decode("ascii"))
    if kind is RealEvidence.NITRO and data[:2] == _DSTACK_NITRO and len(data) >= 4 and data[2] & 3 == 1:
        size = int.from_bytes(data[2:4], "little") >> 2
        return data[4 : 4 + size] if 4 + size <= len(data) else data
    return data
