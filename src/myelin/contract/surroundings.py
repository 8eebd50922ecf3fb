"""Everything that a broker takes from outside itself, in one place: time, randomness, files, sealing.

Production's defaults are the operating system's. Whoever gives others (a simulation) decides every run from
outside: with the same clock, draws, media and files, a broker does the same again. Nothing in this room or in
:mod:`myelin.broker` reads a clock, draws a number or touches a file that must last by another way.
Signatures are deterministic (RFC 6979). The durability of the ledger is its medium's: :class:`Medium`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final

from myelin.contract.files import read_bounded, write_whole
from myelin.contract.medium import Medium, create_sqlite, open_sqlite
from myelin.wire import seal_to

__all__ = ["Disk", "Files", "Seal", "Surroundings"]


class Files(Protocol):
    """Small files that are written whole or not at all."""

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""

    def read(self, path: Path, most_bytes: int) -> bytes:
        """Its bytes; :class:`~myelin.errors.InputError` if it is missing or longer."""

    def write(self, path: Path, data: bytes) -> None:
        """Replace it, durably, readable by its owner alone; as :func:`~myelin.contract.write_whole`."""

    def append(self, path: Path, data: bytes) -> None:
        """Add to its end, durably, making it (mode 0600) if it is not there."""


@final
class Disk:
    """Files of the operating system."""

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.exists()

    def read(self, path: Path, most_bytes: int) -> bytes:
        """Its bytes, bounded."""
        return read_bounded(path, most_bytes)

    def write(self, path: Path, data: bytes) -> None:
        """Temporary file, ``fsync``, rename, ``fsync`` of the folder."""
        write_whole(path, data, mode=0o600)

    def append(self, path: Path, data: bytes) -> None:
        """One ``write`` behind the end, then ``fsync``; of a new file the folder too."""
        new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


class Seal(Protocol):
    """HPKE to a public key; the default is :func:`~myelin.wire.seal_to`, which draws on its own."""

    def __call__(self, public_key: bytes, plaintext: bytes, info: bytes, *, what: str = ...) -> bytes:
        """Seal ``plaintext`` to ``public_key``, bound to ``info``."""


@dataclass(frozen=True)
class Surroundings:
    """What is outside of a broker.

    ``clock`` is Unix time in seconds, ``timer`` a clock that never goes back (rates, waiting), ``draw`` gives
    random bytes, ``open_medium`` and ``create_medium`` the place of a ledger's entries, ``files`` small
    files, ``seal`` the sealing of grants.
    """

    clock: Callable[[], float] = time.time
    timer: Callable[[], float] = time.monotonic
    draw: Callable[[int], bytes] = os.urandom
    open_medium: Callable[[Path], Medium] = open_sqlite
    create_medium: Callable[[Path], Medium] = create_sqlite
    files: Files = field(default_factory=Disk)
    seal: Seal = seal_to
