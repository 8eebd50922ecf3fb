"""The random words of sampler and noise, in the order in which the enclave uses them. A NumPy reference.

AES-256 in counter mode (NIST SP 800-38A) under a 32-byte key, its counter blocks ``step (u64 LE) ‖ stream
(u32 LE) ‖ block (u32 BE)``, from block 0. The words of a stream are its bytes four by four, little-endian;
256 of them, 64 blocks, are one *group*.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from myelin.errors import InputError

__all__ = ["GROUP_WORDS", "LANES", "block_collisions", "groups"]

GROUP_WORDS: Final = 256
"""Words of one group."""

LANES: Final = 16
"""Words of one row of a group."""

_GROUP_BLOCKS: Final = 64


def groups(key: bytes, step: int, stream: int, first: int, count: int) -> npt.NDArray[np.uint32]:
    """Words of ``count`` groups from group ``first`` on.

    Returns:
        uint32 ``[count, 16, 16]``: ``[g, r, l]`` is word ``256 × (first + g) + 16 × r + l``.

    Errors: :class:`myelin.errors.InputError` for a key that is not 32 bytes, or blocks past the 32-bit
        counter.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if len(key) != 32:
        raise InputError(f"keystream key: expected 32 bytes, got {len(key)}.")
    if not (0 <= step < 2**64 and 0 <= stream < 2**32):
        raise InputError("keystream: expected a step below 2^64 and a stream below 2^32.")
    if first < 0 or count < 0 or (first + count) * _GROUP_BLOCKS > 2**32:
        raise InputError("keystream: expected blocks below 2^32; use another stream or step.")
    counter = struct.pack("<QI", step, stream) + struct.pack(">I", first * _GROUP_BLOCKS % 2**32)
    cipher = Cipher(algorithms.AES(key), modes.CTR(counter))
    words = np.frombuffer(cipher.encryptor().update(bytes(4 * count * GROUP_WORDS)), dtype="<u4")
    return words.reshape(count, LANES, LANES).astype(np.uint32)


def block_collisions(blocks: int) -> float:
    """Bound of what tells so many blocks of one key's streams from independent uniform ones, the cipher taken
    for a random permutation: no two of them are equal (``blocks² / 2^129``)."""
    return blocks * blocks / 2.0**129
