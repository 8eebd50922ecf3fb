"""Files written whole or not at all: to a temporary name, to the disk, then into place."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from myelin.errors import InputError

__all__ = ["read_bounded", "replacing", "sync_directory", "write_new", "write_whole"]


def read_bounded(path: str | Path, most_bytes: int) -> bytes:
    """Read a file of at most ``most_bytes``; :class:`~myelin.errors.InputError` if missing or longer."""
    try:
        with open(path, "rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > most_bytes:
        raise InputError(f"{path}: expected at most {most_bytes} bytes, got more; is it the right file?")
    return data


@contextlib.contextmanager
def replacing(path: str | Path, *, mode: int = 0o644, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its name, durably, when the block ends well.

    If the block raises, ``path`` is as it was and the temporary file is gone; after a power failure it may be
    left under a name that starts with ``.`` and ends with ``.part``. With ``overwrite`` false, an existing
    ``path`` raises :class:`~myelin.errors.InputError`.
    """
    path = Path(path)
    if not overwrite and (path.exists() or path.is_symlink()):
        raise InputError(f"{path} exists and is not overwritten; choose another name or remove it")
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if not overwrite and path.exists():  # made by somebody meanwhile
            raise FileExistsError(path)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, FileExistsError):
            raise InputError(f"{path} exists and is not overwritten") from None
        if isinstance(error, OSError):
            raise InputError(
                f"{path}: cannot be written: {error.strerror}; nothing was left behind"
            ) from error
        raise


def write_whole(path: str | Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write or replace a file durably, whole or not at all."""
    with replacing(path, mode=mode) as file:
        file.write(data)


def write_new(path: str | Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file that must not exist yet, durably, whole or not at all."""
    with replacing(path, mode=mode, overwrite=False) as file:
        file.write(data)


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
