"""How requests get to a broker or a log: bytes out, bytes back. All that is secret in them is sealed already.

An address is a path (frames over a Unix socket), ``http+unix:PATH`` (HTTP over a Unix socket), or
``https://HOST:PORT`` (``http://`` for this machine alone). Both carry the same CBOR maps.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, final
from urllib.parse import urlsplit

import cbor2

from myelin.errors import HostError, InputError, ProtocolError
from myelin.wire import MOST_BYTES

__all__ = ["Asked", "Connect", "Transport", "ask", "connect_to"]

_LOCAL = ("localhost", "127.0.0.1", "::1")


class Transport(Protocol):
    """One connection. Raises :class:`~myelin.errors.HostError` if there is no answer."""

    where: str

    def send(self, verb: str, frame: bytes) -> bytes:
        """Send one request and wait for its answer, at most a frame long."""

    def close(self) -> None:
        """Close the connection."""


Connect: TypeAlias = Callable[[str], Transport]
"""Opens a transport to an address."""

Asked = dict[str, Any]
"""The fields of an answer."""


def ask(transport: Transport, request: Mapping[str, Any]) -> Asked:
    """Send a request and read its answer; a refusal is raised as :class:`~myelin.errors.ProtocolError`."""
    verb = str(request["verb"])
    try:
        answer = cbor2.loads(transport.send(verb, cbor2.dumps(dict(request), canonical=True)))
    except (OSError, http.client.HTTPException, cbor2.CBORDecodeError) as error:
        raise HostError(f"{transport.where}: {verb} was not answered: {error}") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        raise HostError(f"{transport.where}: answer is not a map with `ok`")
    if not answer["ok"]:
        number, message = answer.get("error"), answer.get("message")
        if not isinstance(number, int) or not isinstance(message, str):
            raise HostError(f"{transport.where}: refusal lacks `error` or `message`")
        raise ProtocolError(number, message)
    return answer


def connect_to(address: str | Path, *, timeout_s: float = 60.0, ca: Path | None = None) -> Transport:
    """Open a transport; ``ca`` is a file of certificates to trust beside none of the system's.

    Raises :class:`~myelin.errors.HostError` if nobody answers, :class:`~myelin.errors.InputError` for an
    address that is none.
    """
    text = str(address)
    if text.startswith("http+unix:"):
        return _Http(_UnixHttp(text.removeprefix("http+unix:"), timeout_s), text)
    if not text.startswith(("http:", "https:")):
        return _Frames(Path(address), timeout_s)
    parts = urlsplit(text)
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise InputError(f"address: expected https://HOST:PORT, http+unix:PATH or a path, got {text[:200]!r}")
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        secure = http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=timeout_s, context=context
        )
        return _Http(secure, text)
    if parts.hostname not in _LOCAL:
        raise InputError(f"address: expected https:// for another machine, got {text[:200]!r}")
    return _Http(http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_s), text)


@final
class _Frames:
    """``u32 little-endian length ‖ frame`` over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.where = f"broker at {path}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise HostError(
                f"no broker answers at {path}: {error.strerror or error}; start it with `myelin broker run`"
            ) from error

    def send(self, verb: str, frame: bytes) -> bytes:
        self._socket.sendall(struct.pack("<I", len(frame)) + frame)
        (length,) = struct.unpack("<I", self._read(4))
        if length > MOST_BYTES:
            raise HostError(f"{self.where}: frame of {length} bytes, at most {MOST_BYTES}")
        return self._read(length)

    def close(self) -> None:
        self._socket.close()

    def _read(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            part = self._socket.recv(length - len(parts))
            if not part:
                raise HostError(f"{self.where} closed the connection")
            parts += part
        return bytes(parts)


class _UnixHttp(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@final
class _Http:
    """``POST /v1/VERB`` with the request's map as the body; the answer's body is the answer, whatever the
    status."""

    def __init__(self, connection: http.client.HTTPConnection, where: str) -> None:
        self.where = f"broker at {where}"
        self._connection = connection
        try:
            connection.connect()
        except OSError as error:
            raise HostError(
                f"no broker answers at {where}: {error.strerror or error}; `myelin broker serve` starts it"
            ) from error

    def send(self, verb: str, frame: bytes) -> bytes:
        self._connection.request("POST", f"/v1/{verb}", frame, {"Content-Type": "application/cbor"})
        response = self._connection.getresponse()
        body = response.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES or response.getheader("Content-Type") != "application/cbor":
            raise HostError(f"{self.where}: HTTP {response.status}, expected a CBOR answer")
        return body

    def close(self) -> None:
        self._connection.close()
