"""Runs an image inside this process: maps its segments, calls its entry. No lock-down, so for tests only."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import cbor2
from elftools.elf.elffile import ELFFile

REPLY, IDLE, SLOT_BUSY, REFUSED, DEAD = range(5)
MESSAGE_BYTES = 1 << 20
SHARED_BYTES = 4096 + 2 * MESSAGE_BYTES
_MAP_FIXED_NOREPLACE = 0x100000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def _map(address: int, size: int, flags: int) -> int:
    got = _libc.mmap(
        address, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags, -1, 0
    )
    if got in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), f"mmap {size} bytes at {address:#x}")
    return got


class InProcess:
    """One mapped image. Use as a context manager; only one at a time fits (fixed addresses)."""

    def __init__(self, path: Path) -> None:
        self._maps: list[tuple[int, int]] = []
        with path.open("rb") as file:
            elf = ELFFile(file)
            for segment in elf.iter_segments("PT_LOAD"):
                size = -(-segment["p_memsz"] // 4096) * 4096
                address = _map(segment["p_vaddr"], size, _MAP_FIXED_NOREPLACE)
                self._maps.append((address, size))
                ctypes.memmove(address, segment.data(), segment["p_filesz"])
                protection = segment["p_flags"]
                elf_to_prot = (protection & 4) >> 2 | (protection & 2) | (protection & 1) << 2
                _libc.mprotect(address, size, elf_to_prot)
            entry = elf.header["e_entry"]
        self.shared = _map(0, SHARED_BYTES, 0)
        self._maps.append((self.shared, SHARED_BYTES))
        self.enter = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p)(entry)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for address, size in self._maps:
            _libc.munmap(address, size)

    def raw(self, request: bytes) -> tuple[int, bytes]:
        """One message on slot 0; answers the exit code and the reply."""
        ctypes.c_uint64.from_address(self.shared).value = len(request)
        ctypes.memmove(self.shared + 4096, request, min(len(request), MESSAGE_BYTES))
        code = self.enter(0, self.shared)
        length = ctypes.c_uint64.from_address(self.shared + 8).value
        return code, ctypes.string_at(self.shared + 4096 + MESSAGE_BYTES, length)

    def call(self, *message: object) -> list[object]:
        """One CBOR message that must be answered with REPLY."""
        code, reply = self.raw(cbor2.dumps(list(message), canonical=True))
        assert code == REPLY, code
        answer = cbor2.loads(reply)
        assert isinstance(answer, list)
        return answer

    def lending(self, threads: int, action: Callable[[], object]) -> object:
        """Runs ``action`` while ``threads`` threads are lent on slots 1, 2, …"""
        over = threading.Event()
        codes: set[int] = set()

        def lend(slot: int) -> None:
            while not over.is_set():
                codes.add(self.enter(slot, self.shared))

        lent = [threading.Thread(target=lend, args=(slot,)) for slot in range(1, threads + 1)]
        for thread in lent:
            thread.start()
        try:
            return action()
        finally:
            over.set()
            for thread in lent:
                thread.join()
            assert codes <= {IDLE, DEAD}, codes
