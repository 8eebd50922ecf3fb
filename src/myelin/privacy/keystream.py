"""The random words of sampler and noise, in the order in which the enclave uses them. A NumPy reference.

ChaCha20 (RFC 8439) under a 32-byte key and the nonce ``step (u64 LE) ‖ stream (u32 LE)``, block counter from
0. Sixteen consecutive blocks are one *group*; a group's words are ordered by their place in the block first,
and by block second.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from myelin.errors import InputError

__all__ = ["BLOCKS", "groups"]

BLOCKS: Final = 16
"""Blocks of one group."""


def groups(key: bytes, step: int, stream: int, first: int, count: int) -> npt.NDArray[np.uint32]:
    """Words of ``count`` groups from group ``first`` on.

    Returns:
        uint32 ``[count, 16, 16]``: ``[g, w, b]`` is word ``w`` of block ``16 × (first + g) + b``.

    Errors: :class:`myelin.errors.InputError` for a key that is not 32 bytes, or blocks past the 32-bit
        counter.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    if len(key) != 32:
        raise InputError(f"keystream key: expected 32 bytes, got {len(key)}.")
    if not (0 <= step < 2**64 and 0 <= stream < 2**32):
        raise InputError("keystream: expected a step below 2^64 and a stream below 2^32.")
    if first < 0 or count < 0 or (first + count) * BLOCKS > 2**32:
        raise InputError("keystream: expected blocks below 2^32; use another stream or step.")
    nonce = struct.pack("<IQI", first * BLOCKS, step, stream)
    cipher = Cipher(algorithms.ChaCha20(key, nonce), mode=None)
    words = np.frombuffer(cipher.encryptor().update(bytes(count * BLOCKS * 64)), dtype="<u4")
    return np.ascontiguousarray(words.reshape(count, BLOCKS, 16).transpose(0, 2, 1)).astype(np.uint32)
