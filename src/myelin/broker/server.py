"""uvicorn with bounds that it does not have itself: on the time a request's head may take, and on
connections.

Stopping (SIGTERM, SIGINT) closes the listener, lets requests that are being handled finish, and then
returns, so that what is durable is also answered; a second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from myelin.errors import InputError

__all__ = ["Listen", "listen_on", "serve_http"]

_HEAD_TIMEOUT_S = 10.0
_KEEP_ALIVE_S = 15
_GRACE_S = 30
_MOST_CONNECTIONS = 128
_MOST_HEAD_BYTES = 16 << 10
_BACKLOG = 64


class _Bounded(H11Protocol):
    """Ends a connection whose request's head is not whole in time, and every one above the limit."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        if len(self.connections) > _MOST_CONNECTIONS:
            self.transport.close()
            return
        self._arm()

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_TIMEOUT_S, self._too_slow)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._arm()  # a head begins
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._disarm()  # its head is whole; its body has a timeout in the application

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)


@dataclass(frozen=True)
class Listen:
    """A bound socket, and TLS for it where it is not a Unix socket."""

    socket: socket.socket
    context: ssl.SSLContext | None
    path: Path | None

    def close(self) -> None:
        """Close, and remove a Unix socket's file."""
        self.socket.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()


def listen_on(
    unix: Path | None, address: tuple[str, int] | None, certificate: Path | None, key: Path | None
) -> Listen:
    """Bind a Unix socket (mode 0600) or a port with TLS 1.3; without TLS a port of this machine alone.

    Raises :class:`~myelin.errors.InputError`.
    """
    if (unix is None) == (address is None):
        raise InputError("listen: give a socket or an address, one of them")
    if unix is not None:
        return Listen(_bind_unix(unix), None, unix)
    host, port = cast("tuple[str, int]", address)
    context = None
    if certificate is not None and key is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"{certificate}, {key}: expected a certificate and its key: {error}") from None
    elif certificate is not None or key is not None:
        raise InputError("TLS: give the certificate and its key, both")
    elif host not in ("127.0.0.1", "::1", "localhost"):
        raise InputError(
            f"listen: expected TLS for {host}; give --tls-certificate and --tls-key, or listen on 127.0.0.1"
        )
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
        bound.listen(_BACKLOG)
    except OSError as error:
        raise InputError(f"listen: {host}:{port}: {error.strerror or error}") from None
    return Listen(bound, context, None)


def _bind_unix(path: Path) -> socket.socket:
    if path.exists():
        if not path.is_socket():
            raise InputError(f"{path} exists and is no socket; choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink()
            else:
                raise InputError(f"{path}: a broker answers there already")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        bound.bind(str(path))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise InputError(f"{path}: no socket can be made there: {error.strerror or error}") from None
    finally:
        os.umask(mask)
    return bound


def serve_http(application: ASGIApp, listen: Listen) -> None:
    """Serve until SIGTERM or SIGINT."""
    options: dict[str, Any] = {
        "http": _Bounded,
        "ws": "none",
        "lifespan": "off",
        "loop": "asyncio",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": _KEEP_ALIVE_S,
        "timeout_graceful_shutdown": _GRACE_S,
        "h11_max_incomplete_event_size": _MOST_HEAD_BYTES,
    }
    if listen.context is not None:
        context = listen.context
        options["ssl_context_factory"] = lambda config, default: context
    server = uvicorn.Server(uvicorn.Config(application, **options))
    # uvicorn raises a signal that stopped it again when it is done; being stopped is no failure here.
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listen.socket])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        listen.close()
