"""SGX: MRENCLAVE of an image, and what a SIGSTRUCT adds to it."""

from __future__ import annotations

from pathlib import Path

from myelin.attest import RealEvidence
from myelin.errors import InputError
from myelin.image.sgx import Sigstruct, read_enclave
from myelin.measure.measured import Measured, Part

__all__ = ["measure_sgx"]


def measure_sgx(image: Path, sigstruct: Sigstruct | None = None) -> Measured:
    """The register of an image as an SGX enclave: MRENCLAVE, which depends on nothing but the image file.

    With the structure that starts it MRSIGNER is in it too, which a policy needs that asks for a least
    security version: anybody may sign an image and say that it is of any.

    Raises:
        InputError: the file is no image, or the structure is of another enclave.
    """
    enclave = read_enclave(image)
    what = f"the image as an enclave of {enclave.memory_bytes:,} bytes, all of them measured"
    registers = [("mrenclave", enclave.mrenclave)]
    words = f"attributes {enclave.attributes:#x} (64-bit mode), registers {enclave.xfrm:#x}, no debugging"
    parts = [Part("mrenclave", what, enclave.image), Part("attributes", words, None)]
    if sigstruct is not None:
        started = (sigstruct.mrenclave, sigstruct.attributes, sigstruct.xfrm, sigstruct.misc_select)
        if started != (enclave.mrenclave, enclave.attributes, enclave.xfrm, 0):
            raise InputError(
                f"SIGSTRUCT: expected one for {image} (MRENCLAVE {enclave.mrenclave.hex()}), got one for "
                f"{sigstruct.mrenclave.hex()} with attributes {sigstruct.attributes:#x}, registers "
                f"{sigstruct.xfrm:#x}; sign the image again"
            )
        registers.append(("mrsigner", sigstruct.mrsigner))
        versions = f"product {sigstruct.product_id}, security version {sigstruct.security_version}"
        parts.append(Part("mrsigner", f"the key that signed, for {versions}", None))
    return Measured(RealEvidence.SGX, tuple(registers), tuple(parts))
