"""The table of certificates that a SEV-SNP host hands its guest (AMD publication 56421, GHCB, section
4.1.8.1).

It is what Linux gives as ``auxblob`` beside a report: entries of a GUID, an offset and a length, ended by a
GUID of zeros, then the certificates.
"""

from __future__ import annotations

import struct
import uuid

from myelin.attest.kind import unreadable

__all__ = ["is_certificate_table", "read_certificate_table"]

_CERTIFICATES = {
    uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes_le: "VCEK",
    uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes_le: "VLEK",
    uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782").bytes_le: "ASK",
    uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae").bytes_le: "ARK",
}
_END = bytes(16)
_ENTRY_BYTES = 24
_MOST_ENTRIES = 16


def is_certificate_table(data: bytes) -> bool:
    """Whether one of the first entries, if these are entries, is of a certificate that is known."""
    starts = range(0, _MOST_ENTRIES * _ENTRY_BYTES, _ENTRY_BYTES)
    return any(data[start : start + 16] in _CERTIFICATES for start in starts)


def read_certificate_table(data: bytes, what: str) -> list[bytes]:
    """The certificates in a table, in DER or PEM as they stand there; entries of other kinds are passed over.
    Raises ``evidence_unreadable``."""
    found: list[bytes] = []
    for place in range(_MOST_ENTRIES):
        entry = data[place * _ENTRY_BYTES : (place + 1) * _ENTRY_BYTES]
        if entry[:16] == _END:
            return found
        if len(entry) < _ENTRY_BYTES:
            raise unreadable(what, "an entry of zeros at the end of the table", "the end of the bytes")
        offset, length = struct.unpack_from("<II", entry, 16)
        if offset + length > len(data):
            raise unreadable(what, f"bytes {offset} to {offset + length}", f"{len(data)} in all")
        if entry[:16] in _CERTIFICATES:
            found.append(data[offset : offset + length])
    raise unreadable(what, f"at most {_MOST_ENTRIES} entries", "more")
