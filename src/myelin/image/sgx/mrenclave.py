"""MRENCLAVE: what the processor's measurement of an enclave will be (Intel SDM, 3D: ECREATE to EEXTEND).

It is the SHA-256 of what happens to an enclave before it starts: its creation, each page's addition with its
place and rights, and each 256 bytes of each page.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .layout import ENCLAVE_BYTES, PAGE_BYTES, SSA_FRAME_PAGES, PageRun

__all__ = ["mrenclave"]

_CHUNK_BYTES, _BLOCK_BYTES = 256, 64
_CHUNKS = PAGE_BYTES // _CHUNK_BYTES
_PAGES_AT_ONCE = 1024
_WORDS = 8
_CHUNK_WORDS = (_BLOCK_BYTES + _CHUNK_BYTES) // _WORDS


def _word(name: bytes) -> int:
    return int.from_bytes(name.ljust(_WORDS, b"\0"), "little")


_EADD, _EEXTEND = _word(b"EADD"), _word(b"EEXTEND")


def mrenclave(
    runs: Iterable[PageRun], size: int = ENCLAVE_BYTES, ssa_frame_pages: int = SSA_FRAME_PAGES
) -> bytes:
    """The measurement of an enclave of ``size`` bytes with these pages, all of them measured: 32 bytes.

    Linux adds each page and measures it before the next, and so does this.
    """
    digest = hashlib.sha256(struct.pack("<8sIQ44x", b"ECREATE", ssa_frame_pages, size))
    for run in runs:
        for start in range(0, run.size, PAGE_BYTES * _PAGES_AT_ONCE):
            pages = min(_PAGES_AT_ONCE, (run.size - start) // PAGE_BYTES)
            digest.update(_records(run, start, pages).data)
    return digest.digest()


def _records(run: PageRun, start: int, pages: int) -> npt.NDArray[np.uint64]:
    """What goes into the digest for ``pages`` pages of a run, from byte ``start`` on, as 64-bit words."""
    content = run.content[start : start + pages * PAGE_BYTES].ljust(pages * PAGE_BYTES, b"\0")
    addresses = np.uint64(run.address + start) + np.arange(pages, dtype="<u8") * np.uint64(PAGE_BYTES)
    words = np.zeros((pages, _BLOCK_BYTES // _WORDS + _CHUNKS * _CHUNK_WORDS), "<u8")
    words[:, 0], words[:, 1], words[:, 2] = _EADD, addresses, run.flags
    chunks = words[:, _BLOCK_BYTES // _WORDS :].reshape(pages, _CHUNKS, _CHUNK_WORDS)
    chunks[:, :, 0] = _EEXTEND
    chunks[:, :, 1] = addresses[:, None] + np.arange(_CHUNKS, dtype="<u8") * np.uint64(_CHUNK_BYTES)
    data = np.frombuffer(content, "<u8").reshape(pages, _CHUNKS, _CHUNK_BYTES // _WORDS)
    chunks[:, :, _BLOCK_BYTES // _WORDS :] = data
    return words
