"""Reading a private key for a command, asking for its passphrase where it has one."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from myelin.contract import Identity, read_bounded
from myelin.errors import InputError

__all__ = ["load_identity", "read_passphrase", "store_path", "witness_path"]


def read_passphrase(path: Path) -> str:
    """First line of a file that holds a passphrase."""
    try:
        line = read_bounded(path, 4096).decode("utf-8").split("\n")[0]
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected UTF-8 text") from None
    if not line:
        raise InputError(f"{path}: expected a passphrase in the first line, got nothing")
    return line


def load_identity(key: Path, passphrase_file: Path | None = None) -> Identity:
    """Read a private key; asks on the terminal for the passphrase of an encrypted one."""
    if not Identity.is_encrypted(key):
        return Identity.load(key)
    if passphrase_file is not None:
        return Identity.load(key, passphrase=read_passphrase(passphrase_file))
    if not sys.stdin.isatty():
        raise InputError(f"{key} is encrypted: give --passphrase-file, or run this in a terminal")
    return Identity.load(key, passphrase=typer.prompt(f"Passphrase of {key}", hide_input=True, err=True))


def store_path(key: Path, store: Path | None) -> Path:
    """Where an owner's store is: as given, or beside the key."""
    return store if store is not None else key.with_suffix(".store")


def witness_path(key: Path) -> Path:
    """Where the store's witness is: beside the key."""
    return key.with_suffix(".witness")
