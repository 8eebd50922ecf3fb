"""A broker on a Unix socket: bounded frames, bounded clients, bounded patience (protocol section 4)."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import final

from myelin.errors import InputError
from myelin.wire import MOST_BYTES

__all__ = ["BrokerServer"]

_MOST_CLIENTS = 16
_IDLE_TIMEOUT_S = 120.0
_FRAME_TIMEOUT_S = 20.0
_ACCEPT_TIMEOUT_S = 0.2
_log = logging.getLogger("myelin.broker")


@final
class BrokerServer:
    """Serves frames on a Unix socket that only its owner may connect to (mode 0600).

    Args:
        path: where the socket goes; one left by a process that died is replaced.
        answer: from the bytes of a request to the bytes of its answer; called from several threads.

    A client that sends too much, too slowly or nonsense loses its connection; the others do not notice.
    """

    def __init__(self, path: str | Path, answer: Callable[[bytes], bytes]) -> None:
        self._path = Path(path)
        self._answer = answer
        self._stopping = threading.Event()
        self._slots = threading.BoundedSemaphore(_MOST_CLIENTS)
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._guard = threading.Lock()
        self._listener = self._bind()

    def _bind(self) -> socket.socket:
        self._remove_stale()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            mask = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(mask)
            listener.listen(_MOST_CLIENTS)
            listener.settimeout(_ACCEPT_TIMEOUT_S)
        except OSError as error:
            listener.close()
            raise InputError(
                f"{self._path}: no socket can be made there: {error.strerror or error}; choose a short path "
                "in a folder that exists"
            ) from None
        return listener

    def _remove_stale(self) -> None:
        if not self._path.exists():
            return
        if not self._path.is_socket():
            raise InputError(f"{self._path} exists and is no socket; choose another path")
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.closing(probe):
            try:
                probe.connect(str(self._path))
            except OSError:
                self._path.unlink()
                return
        raise InputError(f"{self._path}: a broker answers there already")

    def serve(self) -> None:
        """Serve until :meth:`stop`; then let answers that are being made go out, and remove the socket."""
        try:
            while not self._stopping.is_set():
                try:
                    client, _ = self._listener.accept()
                except TimeoutError:
                    continue
                except OSError:
                    break
                if not self._slots.acquire(blocking=False):
                    client.close()
                    continue
                thread = threading.Thread(target=self._serve_client, args=(client,), daemon=True)
                with self._guard:
                    self._clients.add(client)
                    self._threads = [t for t in self._threads if t.is_alive()] + [thread]
                thread.start()
        finally:
            self._finish()

    def stop(self) -> None:
        """Ask :meth:`serve` to end; may be called from a signal handler."""
        self._stopping.set()

    def __enter__(self) -> BrokerServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._finish()

    def _finish(self) -> None:
        self._stopping.set()
        self._listener.close()
        with self._guard:
            clients, threads = list(self._clients), list(self._threads)
        for client in clients:  # no new request is read; an answer in the making is still sent
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RD)
        for thread in threads:
            thread.join(_FRAME_TIMEOUT_S)
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _serve_client(self, client: socket.socket) -> None:
        try:
            while not self._stopping.is_set():
                frame = _read_frame(client)
                if frame is None:
                    return
                answer = self._answer(frame)
                client.settimeout(_FRAME_TIMEOUT_S)
                client.sendall(len(answer).to_bytes(4, "little") + answer)
        except OSError as error:
            _log.info("client gone: %s", error.__class__.__name__)
        except Exception as error:  # one client's trouble must not stop the broker; no text, it may be secret
            _log.error("request failed: %s", error.__class__.__name__)
        finally:
            with self._guard:
                self._clients.discard(client)
            client.close()
            self._slots.release()


def _read_frame(client: socket.socket) -> bytes | None:
    """One frame, or ``None`` at the end, for a length past the limit, or after the time for it."""
    client.settimeout(_IDLE_TIMEOUT_S)
    head = client.recv(1)
    if not head:
        return None
    client.settimeout(_FRAME_TIMEOUT_S)
    head += _read_exactly(client, 3)
    length = int.from_bytes(head, "little")
    if len(head) < 4:
        return None
    if length > MOST_BYTES:
        _log.warning("client refused: a frame of %d bytes, at most %d", length, MOST_BYTES)
        return None
    frame = _read_exactly(client, length)
    return frame if len(frame) == length else None


def _read_exactly(client: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = client.recv(min(65536, count - len(parts)))
        if not part:
            break
        parts += part
    return bytes(parts)
