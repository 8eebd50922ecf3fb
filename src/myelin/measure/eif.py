"""AWS Nitro's enclave image format (EIF), version 4: written, read, and measured.

A header, then sections one after the other: kernel, command line, metadata, ramdisks. All integers are
big-endian. A CRC-32 covers everything but itself; it finds accidents, not attacks. What counts are the
registers: SHA-384 over the contents of sections, extended once onto zeros (AWS's "Cryptographic attestation"
and the crate ``aws-nitro-enclaves-image-format``). Metadata are in no register.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from myelin.errors import InputError
from myelin.measure.blob import Blob

__all__ = ["MOST_EIF_BYTES", "Eif", "build_eif", "eif_registers"]

MOST_EIF_BYTES = 2 << 30
"""Longest image that is written or read."""

_MAGIC, _VERSION = b".eif", 4
_MOST_SECTIONS = 32
_HEADER = struct.Struct(">4sHHQQHH32Q32QII")
_SECTION = struct.Struct(">HHQ")
_KERNEL, _COMMAND_LINE, _RAMDISK, _SIGNATURE, _METADATA = range(1, 6)
_NAMES = {
    _KERNEL: "kernel",
    _COMMAND_LINE: "command line",
    _RAMDISK: "ramdisk",
    _SIGNATURE: "signature",
    _METADATA: "metadata",
}
_MOST_BYTES = {_COMMAND_LINE: 4096, _SIGNATURE: 64 << 10, _METADATA: 64 << 10}
_MOST_CPUS, _MOST_MEMORY_BYTES = 1024, 1 << 46
_EPOCH = "1970-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class Eif:
    """An image as read: its CRC agrees and every byte is accounted for.

    ``certificate`` is the DER of the signer's certificate, or empty; that the signature is good is for the
    hypervisor to check, which does not start the image otherwise.
    """

    kernel: bytes
    command_line: str
    ramdisks: tuple[bytes, ...]
    metadata: bytes
    certificate: bytes
    memory_bytes: int
    processors: int

    @classmethod
    def read(cls, data: bytes) -> Eif:
        """Read an image for x86-64; :class:`~myelin.errors.InputError` names the field that is wrong."""
        if len(data) > MOST_EIF_BYTES:
            raise InputError(f"EIF: expected at most {MOST_EIF_BYTES} bytes, got {len(data)}")
        blob = Blob(data, "EIF", "big")
        fields = _HEADER.unpack(blob.take(0, _HEADER.size, "header"))
        magic, version, flags, memory, processors, reserved, count = fields[:7]
        offsets, sizes, unused, crc = fields[7:39], fields[39:71], fields[71], fields[72]
        if (magic, version) != (_MAGIC, _VERSION):
            raise blob.wrong("header", f"'.eif' of version {_VERSION}", f"{magic!r} of version {version}")
        if flags or reserved or unused:
            raise blob.wrong("header, flags", "0 (x86-64) and no other field in use", f"{flags:#x}")
        if not 3 <= count <= _MOST_SECTIONS:
            raise blob.wrong("header, number of sections", f"3 to {_MOST_SECTIONS}", str(count))
        if not 1 <= processors <= _MOST_CPUS or not 1 <= memory <= _MOST_MEMORY_BYTES:
            raise blob.wrong("header", "some memory and processors", f"{memory} bytes, {processors}")
        found, at = [], _HEADER.size
        for place in range(_MOST_SECTIONS):
            if place >= count:
                if offsets[place] or sizes[place]:
                    raise blob.wrong("header, places of sections", f"{count}", "more")
                continue
            kind, contents = _section(blob, at, offsets[place], sizes[place])
            found.append((kind, contents))
            at += _SECTION.size + len(contents)
        if at != len(data):
            raise blob.wrong(f"after its end (byte {at})", "nothing", f"{len(data) - at} bytes")
        if crc != _crc(data):
            raise blob.wrong("CRC-32", f"{_crc(data):08x}", f"{crc:08x}")
        return cls(*_contents(blob, found), memory, processors)

    def registers(self) -> tuple[tuple[str, bytes], ...]:
        """PCR0 (all), PCR1 (kernel, command line, first ramdisk), PCR2 (other ramdisks), and PCR8 (the
        signer) if the image is signed."""
        registers = eif_registers(self.kernel, self.ramdisks, self.command_line)
        return (*registers, ("pcr8", _extended([self.certificate]))) if self.certificate else registers


def build_eif(
    kernel: bytes,
    initrds: Sequence[bytes],
    cmdline: str,
    *,
    name: str = "myelin",
    version: str = "1",
    memory_bytes: int = 1 << 30,
    processors: int = 2,
) -> bytes:
    """Write an unsigned image for x86-64. The same arguments give the same bytes: there is no time in it.

    Args:
        kernel: a bzImage.
        initrds: the ramdisks, which Linux unpacks over one another. By AWS's custom the first one boots and
            the others are the application: PCR1 covers that one, PCR2 those.
        cmdline: the kernel's command line, ASCII.
        name: of the image, in the metadata.
        version: of the image, in the metadata.
        memory_bytes: memory that the enclave has unless its host says otherwise.
        processors: likewise.

    Raises:
        InputError: what an image cannot have.
    """
    line = _command_line(cmdline)
    if not kernel or not initrds or not all(initrds):
        raise InputError("EIF: expected a kernel and at least one ramdisk, none of them empty")
    if len(initrds) > _MOST_SECTIONS - 3:
        raise InputError(f"EIF: expected at most {_MOST_SECTIONS - 3} ramdisks, got {len(initrds)}")
    if not 1 <= processors <= _MOST_CPUS or not 1 <= memory_bytes <= _MOST_MEMORY_BYTES:
        raise InputError(f"EIF: expected some memory and processors, got {memory_bytes} and {processors}")
    metadata = _metadata(name, version)
    contents = [
        (_KERNEL, kernel), (_COMMAND_LINE, line), (_METADATA, metadata),
        *((_RAMDISK, initrd) for initrd in initrds),
    ]  # fmt: skip
    offsets, at = [], _HEADER.size
    for _, data in contents:
        offsets.append(at)
        at += _SECTION.size + len(data)
    if at > MOST_EIF_BYTES:
        raise InputError(f"EIF: expected at most {MOST_EIF_BYTES} bytes, got {at}")
    sizes = [len(data) for _, data in contents]
    rest = [0] * (_MOST_SECTIONS - len(contents))
    head = (_MAGIC, _VERSION, 0, memory_bytes, processors, 0, len(contents))
    header = _HEADER.pack(*head, *offsets, *rest, *sizes, *rest, 0, 0)
    body = b"".join(_SECTION.pack(kind, 0, len(data)) + data for kind, data in contents)
    return header[:-4] + struct.pack(">I", _crc(header + body)) + body


def eif_registers(
    kernel: bytes, ramdisks: Sequence[bytes], command_line: str
) -> tuple[tuple[str, bytes], ...]:
    """PCR0 to PCR2 of an image with these parts, 48 bytes each."""
    line = _command_line(command_line)
    return (
        ("pcr0", _extended([kernel, line, *ramdisks])),
        ("pcr1", _extended([kernel, line, *ramdisks[:1]])),
        ("pcr2", _extended(ramdisks[1:])),
    )


def _extended(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha384()
    for part in parts:
        digest.update(part)
    return hashlib.sha384(bytes(48) + digest.digest()).digest()


def _crc(image: bytes) -> int:
    """CRC-32 of an image without the field that holds it, the header's last."""
    view = memoryview(image)
    return zlib.crc32(view[_HEADER.size :], zlib.crc32(view[: _HEADER.size - 4]))


def _command_line(text: str) -> bytes:
    if not text.isascii() or not text.isprintable() or not 1 <= len(text) <= _MOST_BYTES[_COMMAND_LINE]:
        raise InputError(
            f"command line: expected 1 to {_MOST_BYTES[_COMMAND_LINE]} printable ASCII characters"
        )
    return text.encode()


def _metadata(name: str, version: str) -> bytes:
    """The metadata that AWS's tools want to find, with a fixed time."""
    fields = {
        "ImageName": name,
        "ImageVersion": version,
        "BuildMetadata": {
            "BuildTime": _EPOCH,
            "BuildTool": "myelin",
            "BuildToolVersion": "1",
            "OperatingSystem": "Linux",
            "KernelVersion": "Unknown",
        },
        "DockerInfo": None,
        "CustomMetadata": None,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def _section(blob: Blob, at: int, offset: int, size: int) -> tuple[int, bytes]:
    kind, flags, length = _SECTION.unpack(blob.take(at, _SECTION.size, "header of a section"))
    name = f"section {_NAMES.get(kind, kind)}"
    if kind not in _NAMES or flags:
        raise blob.wrong(
            f"{name} (byte {at})", "a known type without flags", f"type {kind}, flags {flags:#x}"
        )
    if (offset, size) != (at, length):
        raise blob.wrong(
            name, f"{length} bytes at {at}, as in the section", f"{size} at {offset} in the header"
        )
    if length > _MOST_BYTES.get(kind, MOST_EIF_BYTES):
        raise blob.wrong(name, f"at most {_MOST_BYTES[kind]} bytes", str(length))
    return kind, blob.take(at + _SECTION.size, length, name)


def _contents(
    blob: Blob, found: list[tuple[int, bytes]]
) -> tuple[bytes, str, tuple[bytes, ...], bytes, bytes]:
    by_kind = {kind: [contents for other, contents in found if other == kind] for kind in _NAMES}
    single = all(len(by_kind[kind]) == 1 for kind in (_KERNEL, _COMMAND_LINE, _METADATA))
    if not single or not by_kind[_RAMDISK] or len(by_kind[_SIGNATURE]) > 1:
        got = ", ".join(_NAMES[kind] for kind, _ in found)
        raise blob.wrong("sections", "one kernel, command line and metadata, and ramdisks", got)
    line = by_kind[_COMMAND_LINE][0]
    if not line.isascii() or not line.decode("ascii", "replace").isprintable() or not line:
        raise blob.wrong("command line", "printable ASCII", line[:80].hex())
    certificate = _certificate(blob, by_kind[_SIGNATURE][0]) if by_kind[_SIGNATURE] else b""
    return (
        by_kind[_KERNEL][0],
        line.decode(),
        tuple(by_kind[_RAMDISK]),
        by_kind[_METADATA][0],
        certificate,
    )


def _certificate(blob: Blob, section: bytes) -> bytes:
    """The certificate in a signature: CBOR that has byte strings as lists of numbers, with PEM inside."""
    try:
        value = cbor2.loads(section, max_depth=4, allow_duplicate_keys=False)
        pem = value[0]["signing_certificate"]
        if len(value) != 1 or type(pem) is not list:
            raise ValueError("another shape")
        return x509.load_pem_x509_certificate(bytes(pem)).public_bytes(Encoding.DER)
    except (cbor2.CBORError, ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        raise blob.wrong("signature", "one signature with its certificate in PEM", "another shape") from None
