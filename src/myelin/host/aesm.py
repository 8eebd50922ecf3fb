"""Quotes from Intel's architectural enclave service manager (AESM), over its socket.

AESM is a service of the machine that talks to Intel's quoting enclave. The host is nobody whom its answers
are meant for: it carries them to a verifier, which believes the signatures in them and nothing else. What it
needs is small: four requests of its protocol (``messages.proto`` of Intel's SGX software), each a field of
one message, each over a connection of its own.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from myelin.errors import HostError

__all__ = ["AESM_SOCKET", "Aesm"]

AESM_SOCKET = Path("/var/run/aesmd/aesm.socket")

_INIT_QUOTE, _QUOTE_SIZE, _GET_QUOTE, _KEY_COUNT, _KEYS = 15, 16, 17, 21, 22
"""Fields of both the request and the response: initQuoteEx to getSupportedAttKeyIDs."""

_TIMEOUT_FIELD, _TIMEOUT_US = 9, 30_000_000
_TIMEOUT_S = 35.0
_KEY_BYTES, _ALGORITHM_AT, _ECDSA_P256 = 256, 154, 2
_MOST_KEYS = 16
_MOST_ANSWER_BYTES = 64 << 10
_TARGET_INFO_BYTES, _REPORT_BYTES, _REPORT_BODY_BYTES, _QUOTE_HEADER_BYTES = 512, 432, 384, 48
_MOST_QUOTE_BYTES = 32 << 10
_VARINT, _BYTES = 0, 2
_ADVICE = {
    2: "AESM finds no SGX device",
    24: "AESM finds no SGX device",
    12: "AESM could not reach the provisioning service; see its configuration of the PCCS",
    18: "AESM is busy; try again",
    42: "AESM has no certificate for this platform; register it with Intel, and see the PCCS",
}

_Value = int | bytes


class Aesm:
    """The service at a socket. Every method raises :class:`~myelin.errors.HostError` that says what AESM
    lacks."""

    def __init__(self, path: Path = AESM_SOCKET) -> None:
        """``path`` is where its socket is; nothing is opened yet."""
        self._path = path
        self._key: bytes | None = None

    def target_info(self) -> bytes:
        """Whom a report has to be made for: TARGETINFO of the quoting enclave, 512 bytes."""
        key = self._attestation_key()
        size = _number(self._ask(_INIT_QUOTE, {1: key, 3: 0}), 3, "length of the public key's name")
        if size > _MOST_ANSWER_BYTES:
            raise HostError(f"AESM: a public key's name of {size} bytes; at most {_MOST_ANSWER_BYTES}")
        answer = self._ask(_INIT_QUOTE, {1: key, 3: 1, 4: size})
        return _octets(answer, 2, "TARGETINFO", _TARGET_INFO_BYTES)

    def quote(self, report: bytes) -> bytes:
        """Have a REPORT (432 bytes) for :meth:`target_info` quoted: signed by the quoting enclave."""
        if len(report) != _REPORT_BYTES:
            raise HostError(f"a report of {len(report)} bytes, expected {_REPORT_BYTES}")
        key = self._attestation_key()
        size = _number(self._ask(_QUOTE_SIZE, {1: key}), 2, "length of a quote")
        if not _QUOTE_HEADER_BYTES + _REPORT_BODY_BYTES < size <= _MOST_QUOTE_BYTES:
            raise HostError(f"AESM: a quote of {size} bytes; at most {_MOST_QUOTE_BYTES} are taken")
        quote = _octets(self._ask(_GET_QUOTE, {1: report, 2: key, 4: size}), 2, "quote", size)
        if quote[_QUOTE_HEADER_BYTES:][:_REPORT_BODY_BYTES] != report[:_REPORT_BODY_BYTES]:
            raise HostError("AESM: the quote is of another report than was given")
        return quote

    def _attestation_key(self) -> bytes:
        """The name of the key for ECDSA quotes (DCAP), which is the only kind that verifiers take."""
        if self._key is None:
            count = _number(self._ask(_KEY_COUNT, {}), 2, "number of attestation keys")
            if not 0 < count <= _MOST_KEYS:
                raise HostError(f"AESM: {count} attestation keys, expected 1 to {_MOST_KEYS}")
            size = count * _KEY_BYTES
            names = _octets(self._ask(_KEYS, {1: size}), 2, "attestation keys", size)
            kept = [names[at : at + _KEY_BYTES] for at in range(0, size, _KEY_BYTES)]
            ecdsa = [name for name in kept if _algorithm(name) == _ECDSA_P256]
            if not ecdsa:
                raise HostError(
                    "AESM has no key for ECDSA quotes; install its plug-in (libsgx-aesm-ecdsa-plugin, "
                    "libsgx-aesm-quote-ex-plugin) and Intel's quoting enclave"
                )
            self._key = ecdsa[0]
        return self._key

    def _ask(self, field: int, fields: Mapping[int, _Value]) -> dict[int, _Value]:
        """Send one request and return the fields of its answer, once its error code is zero."""
        body = _encode({**fields, _TIMEOUT_FIELD: _TIMEOUT_US})
        answer = _decode(self._exchange(_encode({field: body})))
        found = answer.get(field)
        if len(answer) != 1 or not isinstance(found, bytes):
            raise HostError(f"AESM: expected an answer to request {field}, got fields {sorted(answer)}")
        values = _decode(found)
        code = values.get(1)
        if code != 0:
            shown = code if isinstance(code, int) else "none"
            advice = _ADVICE.get(code, "see its log") if isinstance(code, int) else "see its log"
            raise HostError(f"AESM answers request {field} with error {shown}: {advice}")
        return values

    def _exchange(self, message: bytes) -> bytes:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                link.settimeout(_TIMEOUT_S)
                link.connect(str(self._path))
                link.sendall(struct.pack("<I", len(message)) + message)
                (size,) = struct.unpack("<I", _receive(link, 4))
                if size > _MOST_ANSWER_BYTES:
                    raise HostError(f"AESM: an answer of {size} bytes; at most {_MOST_ANSWER_BYTES}")
                return _receive(link, size)
        except OSError as error:
            raise HostError(
                f"AESM at {self._path}: {error.strerror or error}; start the service aesmd, or join its group"
            ) from None


def _algorithm(name: bytes) -> int:
    return int.from_bytes(name[_ALGORITHM_AT : _ALGORITHM_AT + 4], "little")


def _receive(link: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = link.recv(size)
        if not part:
            raise HostError("AESM closed the connection inside its answer")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _number(values: Mapping[int, _Value], field: int, what: str) -> int:
    value = values.get(field)
    if not isinstance(value, int):
        raise HostError(f"AESM: expected a {what} in field {field}, got none")
    return value


def _octets(values: Mapping[int, _Value], field: int, what: str, size: int) -> bytes:
    value = values.get(field)
    if not isinstance(value, bytes) or len(value) != size:
        got = f"{len(value)} bytes" if isinstance(value, bytes) else "none"
        raise HostError(f"AESM: expected {what} of {size} bytes in field {field}, got {got}")
    return value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _encode(fields: Mapping[int, _Value]) -> bytes:
    """A message of Protocol Buffers with numbers and byte strings, in order of field."""
    out = bytearray()
    for field, value in sorted(fields.items()):
        if isinstance(value, int):
            out += _varint(field << 3 | _VARINT) + _varint(value)
        else:
            out += _varint(field << 3 | _BYTES) + _varint(len(value)) + value
    return bytes(out)


def _decode(data: bytes) -> dict[int, _Value]:
    """The fields of such a message; what has another kind, or comes twice, is refused."""
    fields: dict[int, _Value] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = 0
        for place in range(10):
            if at == len(data):
                break
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value
        raise HostError("AESM: an answer that is not of its protocol's form")

    while at < len(data):
        tag = varint()
        value: _Value = varint()
        if tag & 7 == _BYTES:
            size = int(value)
            value = data[at : at + size]
            at += size
        if tag & 7 not in (_VARINT, _BYTES) or at > len(data) or tag >> 3 in fields:
            raise HostError("AESM: an answer that is not of its protocol's form")
        fields[tag >> 3] = value
    return fields
