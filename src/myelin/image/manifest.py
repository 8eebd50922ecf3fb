"""Reading an image file: its manifest, its plan, its measurement. Needs no compiler."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import cbor2
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ..errors import InputError

__all__ = ["MOST_IMAGE_BYTES", "measure", "read_manifest", "read_plan", "read_section"]

#: Larger files are not read.
MOST_IMAGE_BYTES = 2 << 30

_PIECE_BYTES = 1 << 20


def measure(path: str | Path) -> bytes:
    """The measurement of an image: SHA-256 of the whole file, 32 bytes. InputError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return digest.digest()


def read_section(path: str | Path, name: str) -> bytes:
    """The bytes of one section; InputError where the file is no image or has no such section."""
    try:
        size = Path(path).stat().st_size
        if size > MOST_IMAGE_BYTES:
            raise InputError(f"{path}: {size} bytes, expected at most {MOST_IMAGE_BYTES}")
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(name)
        if section is None:
            raise InputError(f"{path}: expected a Myelin image, got an ELF file without section {name}")
        return bytes(section.data())
    except (ELFError, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a Myelin image, got no readable ELF file: {error}") from None


def read_manifest(path: str | Path) -> dict[str, Any]:
    """What an image says of itself (``.myelin.manifest``), for people. InputError if unreadable.

    The manifest is measured with the rest of the file, but the enclave does not act on it: it runs the plan.
    """
    return _read_map(path, ".myelin.manifest")


def read_plan(path: str | Path) -> dict[str, Any]:
    """The plan that the image runs (``.myelin.plan``). InputError if unreadable."""
    return _read_map(path, ".myelin.plan")


def _read_map(path: str | Path, section: str) -> dict[str, Any]:
    raw = read_section(path, section)
    try:
        value = cbor2.loads(raw)
    except (cbor2.CBORDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: section {section}: expected CBOR, got: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: section {section}: expected a CBOR map, got {type(value).__name__}")
    return value
