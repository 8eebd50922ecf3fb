"""What an image is as an enclave, in one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ..manifest import MOST_IMAGE_BYTES, measure, read_manifest
from .layout import enclave_pages
from .mrenclave import mrenclave

__all__ = ["MISC_SELECT", "SgxEnclave", "read_enclave"]

ATTRIBUTES = 1 << 2
"""64-bit mode, and nothing else: no debugging, no provisioning key, no launch key."""

MISC_SELECT = 0
"""Nothing is saved on an exception but registers."""

_XFRM = {"x86-64-v3": 0x7, "x86-64-v3-vaes": 0x7, "x86-64-v4": 0xE7}
"""Which registers each target uses: x87, SSE and AVX; and those of AVX-512."""


@dataclass(frozen=True)
class SgxEnclave:
    """An image as an enclave: its MRENCLAVE, its attributes, and the digest of the file that it is made of.

    ``attributes`` and ``xfrm`` are the words of ATTRIBUTES that it is started with; ``memory_bytes`` is how
    much enclave memory its pages take.
    """

    image: bytes
    mrenclave: bytes
    attributes: int
    xfrm: int
    memory_bytes: int


def read_enclave(path: str | Path) -> SgxEnclave:
    """Compute what an image file is as an enclave.

    Raises:
        InputError: the file cannot be read, is no image, or is for a target that is not known.
    """
    target = read_manifest(path).get("target")
    if target not in _XFRM:
        raise InputError(f"{path}: target {target!r}, expected one of {', '.join(_XFRM)}")
    data = Path(path).read_bytes()
    if len(data) > MOST_IMAGE_BYTES:
        raise InputError(f"{path}: {len(data)} bytes, expected at most {MOST_IMAGE_BYTES}")
    try:
        runs = enclave_pages(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return SgxEnclave(
        image=measure(path),
        mrenclave=mrenclave(runs),
        attributes=ATTRIBUTES,
        xfrm=_XFRM[target],
        memory_bytes=sum(run.size for run in runs),
    )
