"""Intel's quotes, read: SGX version 3, TDX versions 4 and 5 (Intel DCAP quote formats).

Signatures are ``dcap-qvl``'s business. This reader is stricter than any verifier has to be: every byte of a
quote is either signed, or has here its one permitted value, so no two quotes differ and mean the same.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass

from myelin.attest.certificate import read_pem
from myelin.attest.kind import RealEvidence, unreadable

__all__ = ["IntelQuote", "read_quote"]

MOST_QUOTE_BYTES = 64 << 10
"""Longest quote that is looked at."""

_HEADER_BYTES, _SGX_BYTES, _TD10_BYTES, _TD15_BYTES = 48, 384, 584, 648
_SGX, _TDX = 0, 0x81
_ECDSA_P256 = 2
_QE_REPORT_DATA, _PCK_CHAIN = 6, 5
_QE_REPORT_BYTES, _SIGNATURE_BYTES, _KEY_BYTES = 384, 64, 64
_MOST_AUTH_BYTES = 1 << 10


@dataclass(frozen=True)
class IntelQuote:
    """A quote, read but not believed. ``raw`` is the quote without the zero bytes that may follow it;
    ``certificates`` are the DER of the chain inside, the processor's first."""

    kind: RealEvidence
    version: int
    registers: tuple[tuple[str, bytes], ...]
    attributes: bytes
    report_data: bytes
    security_version: int | None
    service_td: bytes
    certificates: tuple[bytes, ...]
    raw: bytes


class _Reader:
    """One pass over the bytes; what it cannot take it refuses by name."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, size: int, what: str) -> bytes:
        if size > len(self.data) - self.at:
            raise unreadable(f"quote, {what}", f"{size} bytes", f"{len(self.data) - self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")


def read_quote(data: bytes) -> IntelQuote:
    """Read a quote; raises ``evidence_unreadable``. Zero bytes after it are allowed: drivers give whole
    pages."""
    if len(data) > MOST_QUOTE_BYTES:
        raise unreadable("quote", f"at most {MOST_QUOTE_BYTES} bytes", str(len(data)))
    reader = _Reader(data)
    version, key_type, tee = struct.unpack("<HHI", reader.take(8, "header"))
    reader.take(_HEADER_BYTES - 8, "header")
    if key_type != _ECDSA_P256:
        raise unreadable("quote, attestation key", "type 2 (ECDSA P-256)", f"type {key_type}")
    if (version, tee) == (3, _SGX):
        kind, body = RealEvidence.SGX, reader.take(_SGX_BYTES, "report")
    elif (version, tee) == (4, _TDX):
        kind, body = RealEvidence.TDX, reader.take(_TD10_BYTES, "report")
    elif (version, tee) == (5, _TDX):
        kind, body = RealEvidence.TDX, _body_of_version_5(reader)
    else:
        raise unreadable("quote, version and kind", "SGX 3, TDX 4 or TDX 5", f"version {version} of {tee:#x}")
    size = reader.number(4, "length of signature data")
    end = reader.at + size
    chain = _read_signature_data(_Reader(reader.take(size, "signature data")), version)
    if any(data[end:]):
        raise unreadable("quote", "nothing but zero bytes after it", f"{len(data) - end} other bytes")
    if kind is RealEvidence.SGX:
        return _sgx(version, body, chain, data[:end])
    return _tdx(version, body, chain, data[:end])


def _body_of_version_5(reader: _Reader) -> bytes:
    body_type, size = reader.number(2, "body type"), reader.number(4, "body size")
    if (body_type, size) not in ((2, _TD10_BYTES), (3, _TD15_BYTES)):
        raise unreadable(
            "quote, body", "TD report 1.0 or 1.5 of its size", f"type {body_type} of {size} bytes"
        )
    return reader.take(size, "report")


def _read_signature_data(reader: _Reader, version: int) -> tuple[bytes, ...]:
    """Walk through signatures and keys to the certificate chain; nothing may be left over anywhere."""
    reader.take(_SIGNATURE_BYTES + _KEY_BYTES, "signature and attestation key")
    if version >= 4:
        outer, size = reader.number(2, "certification data"), reader.number(4, "certification data")
        if outer != _QE_REPORT_DATA or size != len(reader.data) - reader.at:
            raise unreadable("quote, certification data", "type 6, to the end", f"type {outer}, {size} bytes")
    reader.take(_QE_REPORT_BYTES + _SIGNATURE_BYTES, "QE report")
    size = reader.number(2, "QE authentication data")
    if size > _MOST_AUTH_BYTES:
        raise unreadable("quote, QE authentication data", f"at most {_MOST_AUTH_BYTES} bytes", str(size))
    reader.take(size, "QE authentication data")
    inner, size = reader.number(2, "PCK certificates"), reader.number(4, "PCK certificates")
    if inner != _PCK_CHAIN or size != len(reader.data) - reader.at:
        raise unreadable("quote, PCK certificates", "type 5 (a chain), to the end", f"type {inner}")
    text = reader.take(size, "PCK certificates")
    chain = read_pem(text, "quote, PCK certificates")
    if text.removesuffix(b"\0") != b"".join(_pem(der) for der in chain):
        raise unreadable("quote, PCK certificates", "PEM in its usual form", "another form")
    return tuple(chain)


def _pem(der: bytes) -> bytes:
    encoded = base64.b64encode(der)
    lines = [encoded[at : at + 64] for at in range(0, len(encoded), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def _sgx(version: int, body: bytes, chain: tuple[bytes, ...], raw: bytes) -> IntelQuote:
    return IntelQuote(
        RealEvidence.SGX,
        version,
        (
            ("mrenclave", body[64:96]),
            ("mrsigner", body[128:160]),
            ("isvprodid", body[256:258]),
            ("configid", body[192:256]),
            ("isvextprodid", body[32:48]),
            ("isvfamilyid", body[304:320]),
        ),
        body[48:64],
        body[320:384],
        int.from_bytes(body[258:260], "little"),
        b"",
        chain,
        raw,
    )


def _tdx(version: int, body: bytes, chain: tuple[bytes, ...], raw: bytes) -> IntelQuote:
    names = ("mrtd", "mrconfigid", "mrowner", "mrownerconfig", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    return IntelQuote(
        RealEvidence.TDX,
        version,
        (
            ("mrseam", body[16:64]),
            *((name, body[136 + 48 * place : 184 + 48 * place]) for place, name in enumerate(names)),
        ),
        body[120:128],
        body[520:584],
        None,
        body[600:648],
        chain,
        raw,
    )
