"""Starts a loader with an image signed on the spot: ``signed_loader.py LOADER KEY WORDS…``.

Tests start loaders with an image alone; an SGX enclave needs SIGSTRUCT besides.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from myelin.errors import InputError
from myelin.image.sgx import SIGSTRUCT_BYTES, enclave_pages, mrenclave, read_key, sign_enclave


def signed(image: bytes, key: Path) -> bytes:
    """SIGSTRUCT of an image; nothing but zeros where it is none, for the loader to refuse."""
    try:
        measured = mrenclave(enclave_pages(image))
    except InputError:
        return bytes(SIGSTRUCT_BYTES)
    xfrm = 0xE7 if b"x86-64-v4" in image else 0x7
    return sign_enclave(measured, read_key(key.read_bytes()), attributes=4, xfrm=xfrm)


def main(loader: str, key: str, words: list[str]) -> None:
    image = int(words[words.index("--image-fd") + 1]) if "--image-fd" in words else 3
    structure = os.memfd_create("sigstruct", 0)
    try:
        content = os.pread(image, os.fstat(image).st_size, 0)
    except OSError:
        content = b""
    os.write(structure, signed(content, Path(key)))
    os.lseek(structure, 0, os.SEEK_SET)
    os.execve(loader, [loader, *words, "--backend", "sgx", "--sigstruct-fd", str(structure)], {})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
