"""SPDM 1.1 measurements as a GPU signs them (DMTF DSP0274): the request, then the response, as one string.

The signature is over everything before it. Measurement blocks are DMTF's (DSP0274 table 44), each a digest;
behind the nonce come NVIDIA's own fields, a list of type, length and value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from myelin.attest.kind import unreadable
from myelin.attest.octets import Octets

__all__ = ["MOST_REPORT_BYTES", "SpdmReport"]

MOST_REPORT_BYTES = 16 << 10
"""Longest report that is looked at."""

_REQUEST_BYTES = 37
_NONCE_BYTES = 32
_SIGNATURE_BYTES = 96
_VERSION_1_1 = b"\x11"
_GET_MEASUREMENTS, _MEASUREMENTS = b"\xe0", b"\x60"
_SIGNED, _ALL_BLOCKS = b"\x01", b"\xff"
_DMTF = b"\x01"
_MOST_BLOCKS = 128
_DIGEST_BYTES = 48
_MOST_RECORD_BYTES = 8 << 10
_MOST_FIELD_BYTES = 1024
_MOST_FIELDS = 64


@dataclass(frozen=True)
class SpdmReport:
    """A report as read, not yet believed. ``nonce`` is the requester's own, from the request.

    ``blocks`` maps an index, from 1, to a SHA-384 digest; ``fields`` maps NVIDIA's type number to its value.
    """

    signed: bytes
    nonce: bytes
    blocks: Mapping[int, bytes]
    fields: Mapping[int, bytes]
    signature: bytes

    @classmethod
    def read(cls, data: bytes) -> SpdmReport:
        """Read a request and its response; raises ``evidence_unreadable``."""
        what = "GPU report"
        if len(data) > MOST_REPORT_BYTES:
            raise unreadable(what, f"at most {MOST_REPORT_BYTES} bytes", str(len(data)))
        octets = Octets(data, what, "little")
        octets.constant(_VERSION_1_1, "request, SPDM version 1.1")
        octets.constant(_GET_MEASUREMENTS, "request, code GET_MEASUREMENTS")
        octets.constant(_SIGNED, "request, a signature wanted")
        octets.constant(_ALL_BLOCKS, "request, all measurements")
        nonce = octets.take(_NONCE_BYTES, "request, nonce")
        octets.constant(b"\0", "request, slot 0")
        octets.constant(_VERSION_1_1, "response, SPDM version 1.1")
        octets.constant(_MEASUREMENTS, "response, code MEASUREMENTS")
        octets.constant(b"\0\0", "response, parameters")
        count = octets.uint(1, "response, number of blocks", least=1, most=_MOST_BLOCKS)
        record = octets.sized(3, "response, measurement record", most=_MOST_RECORD_BYTES)
        octets.take(_NONCE_BYTES, "response, the responder's nonce")
        opaque = octets.sized(2, "response, opaque data", most=_MOST_RECORD_BYTES)
        signed = data[: octets.at]
        signature = octets.take(_SIGNATURE_BYTES, "response, signature")
        octets.end()
        return cls(signed, nonce, _blocks(record, count), _fields(opaque), signature)


def _blocks(record: bytes, count: int) -> Mapping[int, bytes]:
    octets = Octets(record, "GPU report, measurement record", "little")
    blocks: dict[int, bytes] = {}
    for _ in range(count):
        index = octets.uint(1, "block, index", least=1, most=_MOST_BLOCKS)
        if index in blocks:
            raise unreadable("GPU report, measurement record", "each index once", f"{index} twice")
        octets.constant(_DMTF, f"block {index}, DMTF's specification")
        value = Octets(octets.sized(2, f"block {index}", most=256), f"GPU report, block {index}", "little")
        value.uint(1, "type of value", most=0x83)
        digest = value.sized(2, "value", most=_DIGEST_BYTES)
        value.end()
        if len(digest) != _DIGEST_BYTES:
            raise unreadable(f"GPU report, block {index}", f"{_DIGEST_BYTES} bytes", str(len(digest)))
        blocks[index] = digest
    octets.end()
    return MappingProxyType(blocks)


def _fields(opaque: bytes) -> Mapping[int, bytes]:
    octets = Octets(opaque, "GPU report, opaque data", "little")
    fields: dict[int, bytes] = {}
    while octets.left:
        kind = octets.uint(2, "field, type")
        if kind in fields or len(fields) == _MOST_FIELDS:
            raise unreadable("GPU report, opaque data", f"up to {_MOST_FIELDS} fields, each once", str(kind))
        fields[kind] = octets.sized(2, f"field {kind}", most=_MOST_FIELD_BYTES)
    return MappingProxyType(fields)
