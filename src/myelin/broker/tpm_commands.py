"""The few TPM 2.0 commands that an anchor needs, marshalled (TCG TPM 2.0 Library, parts 2 and 3).

Every answer's sizes are checked before they are used. A password session carries the index's authorization in
the clear to the TPM: the path to the TPM (kernel resource manager, or a local socket) is the owner's own
machine.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from myelin.errors import ProtocolError

__all__ = [
    "ATTRIBUTES",
    "SHA256",
    "Exchange",
    "NvIndex",
    "TpmError",
    "exchange_with",
    "nv_define_extend",
    "nv_extend",
    "nv_public",
    "nv_read",
]

Exchange: TypeAlias = Callable[[bytes], bytes]
"""Sends one command to a TPM and gives its response."""

_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_NV_DEFINE, _NV_READ, _NV_READ_PUBLIC, _NV_EXTEND, _STARTUP = 0x12A, 0x14E, 0x169, 0x136, 0x144
_RH_OWNER, _RS_PW, SHA256 = 0x40000001, 0x40000009, 0x000B
_DIGEST_BYTES = 32
_MOST_RESPONSE_BYTES = 4096

_EXTEND_TYPE = 0x4 << 4
_AUTHWRITE, _AUTHREAD, _NO_DA, _WRITTEN = 1 << 2, 1 << 18, 1 << 25, 1 << 29
ATTRIBUTES = _EXTEND_TYPE | _AUTHWRITE | _AUTHREAD | _NO_DA
"""An index that can only be extended (new value = SHA-256(old ‖ data)), by its own authorization alone."""

_RC_HANDLE = 0x08B
_RC_NV_UNINITIALIZED = 0x14A
_RC_INITIALIZE = 0x100


class TpmError(Exception):
    """A response code that is not success."""

    def __init__(self, code: int) -> None:
        super().__init__(f"TPM response code 0x{code:x}")
        self.code = code

    @property
    def no_such_index(self) -> bool:
        """Whether the handle is not defined."""
        return self.code == _RC_HANDLE

    @property
    def never_written(self) -> bool:
        """Whether the index was not extended yet."""
        return self.code == _RC_NV_UNINITIALIZED


@dataclass(frozen=True)
class NvIndex:
    """An index's public area: hash, attributes without the *written* bit, whether it was written, size."""

    hash: int
    attributes: int
    written: bool
    size: int


def exchange_with(address: str | Path, timeout_s: float = 20.0) -> Exchange:
    """An exchange with a device file (``/dev/tpmrm0``) or a Unix socket (``swtpm socket --server``).

    Raises ``anchor_unavailable`` when it does not answer.
    """
    path = Path(address)

    def exchange(command: bytes) -> bytes:
        try:
            if path.is_socket():
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                    client.settimeout(timeout_s)
                    client.connect(str(path))
                    client.sendall(command)
                    head = _receive(client, 10)
                    size = int.from_bytes(head[2:6], "big")
                    if not 10 <= size <= _MOST_RESPONSE_BYTES:
                        raise ProtocolError.named(
                            "anchor_unavailable", f"TPM at {path}: response of {size} bytes"
                        )
                    return head + _receive(client, size - 10)
            with open(path, "r+b", buffering=0) as device:
                device.write(command)
                return device.read(_MOST_RESPONSE_BYTES)
        except OSError as error:
            raise ProtocolError.named(
                "anchor_unavailable", f"TPM at {path}: {error.strerror or error}"
            ) from None

    return exchange


def _receive(client: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = client.recv(count - len(parts))
        if not part:
            raise OSError("the TPM closed the connection")
        parts += part
    return parts


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _password(auth: bytes) -> bytes:
    session = struct.pack(">IHBH", _RS_PW, 0, 0, len(auth)) + auth
    return struct.pack(">I", len(session)) + session


def _run(exchange: Exchange, code: int, body: bytes, *, sessions: bool) -> bytes:
    """Send a command; the response's parameters, without header, parameter size and sessions."""
    tag = _SESSIONS if sessions else _NO_SESSIONS
    response = exchange(struct.pack(">HII", tag, 10 + len(body), code) + body)
    if len(response) < 10 or len(response) > _MOST_RESPONSE_BYTES:
        raise ProtocolError.named("anchor_unavailable", f"TPM: a response of {len(response)} bytes")
    got, size, result = struct.unpack(">HII", response[:10])
    if size != len(response):
        raise ProtocolError.named("anchor_unavailable", f"TPM: {size} bytes announced, {len(response)} came")
    if result == _RC_INITIALIZE and code != _STARTUP:
        _run(exchange, _STARTUP, struct.pack(">H", 0), sessions=False)
        return _run(exchange, code, body, sessions=sessions)
    if result != 0:
        raise TpmError(
            result & 0xBF if result & 0x80 else result & 0xFFF
        )  # which parameter it was is no matter
    if got != tag:
        raise ProtocolError.named("anchor_unavailable", "TPM: a response of another kind")
    if not sessions:
        return response[10:]
    if len(response) < 14:
        raise ProtocolError.named("anchor_unavailable", "TPM: the response ends early")
    (count,) = struct.unpack(">I", response[10:14])
    if 14 + count > len(response):
        raise ProtocolError.named("anchor_unavailable", "TPM: parameters longer than the response")
    return response[14 : 14 + count]


def nv_define_extend(exchange: Exchange, index: int, auth: bytes, owner_auth: bytes = b"") -> None:
    """TPM2_NV_DefineSpace of an extend index with this authorization, by the owner hierarchy's."""
    public = struct.pack(">IHI", index, SHA256, ATTRIBUTES) + _sized(b"") + struct.pack(">H", _DIGEST_BYTES)
    body = struct.pack(">I", _RH_OWNER) + _password(owner_auth) + _sized(auth) + _sized(public)
    _run(exchange, _NV_DEFINE, body, sessions=True)


def nv_public(exchange: Exchange, index: int) -> NvIndex:
    """TPM2_NV_ReadPublic."""
    answer = _run(exchange, _NV_READ_PUBLIC, struct.pack(">I", index), sessions=False)
    try:
        (size,) = struct.unpack_from(">H", answer)
        public = answer[2 : 2 + size]
        found, algorithm, attributes, policy = struct.unpack_from(">IHIH", public)
        (data,) = struct.unpack_from(">H", public, 12 + policy)
    except struct.error:
        raise ProtocolError.named("anchor_unavailable", "TPM: the public area ends early") from None
    if found != index:
        raise ProtocolError.named("anchor_unavailable", "TPM: the public area of another index")
    return NvIndex(algorithm, attributes & ~_WRITTEN, bool(attributes & _WRITTEN), data)


def nv_read(exchange: Exchange, index: int, auth: bytes) -> bytes:
    """TPM2_NV_Read of the 32 bytes of an extend index, by its own authorization."""
    body = struct.pack(">II", index, index) + _password(auth) + struct.pack(">HH", _DIGEST_BYTES, 0)
    answer = _run(exchange, _NV_READ, body, sessions=True)
    if len(answer) != 2 + _DIGEST_BYTES or answer[:2] != struct.pack(">H", _DIGEST_BYTES):
        raise ProtocolError.named("anchor_unavailable", f"TPM: {len(answer)} bytes read, expected 34")
    return answer[2:]


def nv_extend(exchange: Exchange, index: int, auth: bytes, data: bytes) -> None:
    """TPM2_NV_Extend: the index becomes SHA-256(what it was ‖ ``data``)."""
    body = struct.pack(">II", index, index) + _password(auth) + _sized(data)
    _run(exchange, _NV_EXTEND, body, sessions=True)
