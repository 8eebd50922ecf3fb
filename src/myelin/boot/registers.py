"""What a measured boot of the files leaves in a TPM's register 9, computed from the files alone."""

from __future__ import annotations

import hashlib

__all__ = ["kernel_register"]

_ADDED_BY_FIRMWARE = " initrd=initrd"
"""What OVMF writes behind the command line of a kernel that comes with an initrd."""


def kernel_register(command_line: str, initrd: bytes) -> bytes:
    """Register 9 of the SHA-256 bank, which the kernel's EFI stub extends (drivers/firmware/efi/libstub).

    First with its load options, the command line as OVMF hands it on, in UTF-16 with the terminating zero,
    then with the initrd.
    """
    options = (command_line + _ADDED_BY_FIRMWARE).encode("utf-16-le") + b"\0\0"
    value = bytes(32)
    for measured in (options, initrd):
        value = hashlib.sha256(value + hashlib.sha256(measured).digest()).digest()
    return value
