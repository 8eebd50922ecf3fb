"""The registers of an AWS Nitro enclave, from its image or from what an image would be made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from myelin.attest import RealEvidence
from myelin.measure.eif import Eif, build_eif
from myelin.measure.measured import Measured, Part

__all__ = ["measure_nitro", "measure_nitro_parts"]


def measure_nitro(image: bytes) -> Measured:
    """PCR0, PCR1, PCR2 of an image, and PCR8 if it is signed; :class:`~myelin.errors.InputError` if it cannot
    be read."""
    eif = Eif.read(image)
    parts = [
        Part("pcr0", "kernel", _sha384(eif.kernel)),
        Part("pcr0", "command line", _sha384(eif.command_line.encode())),
        *(
            Part("pcr0", f"ramdisk {place}", _sha384(ramdisk))
            for place, ramdisk in enumerate(eif.ramdisks, 1)
        ),
        Part("pcr1", "kernel, command line, ramdisk 1", None),
        Part("pcr2", "the ramdisks after the first" if eif.ramdisks[1:] else "nothing: one ramdisk", None),
    ]
    if eif.certificate:
        parts.append(Part("pcr8", "the signer's certificate", _sha384(eif.certificate)))
    return Measured(RealEvidence.NITRO, eif.registers(), tuple(parts))


def measure_nitro_parts(kernel: bytes, initrds: Sequence[bytes], command_line: str) -> Measured:
    """The registers of the unsigned image that :func:`~myelin.measure.eif.build_eif` makes of these."""
    return measure_nitro(build_eif(kernel, initrds, command_line))


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()
