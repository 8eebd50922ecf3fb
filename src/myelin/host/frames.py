"""Frames over pipes: ``u32 little-endian length ‖ bytes``, with a deadline, in bounded memory."""

from __future__ import annotations

import os
import select
import struct
import time

__all__ = ["EndOfStreamError", "FrameError", "receive_frame", "send_bytes", "send_frame"]

_PREFIX_BYTES = 4
_STEP_BYTES = 1 << 20


class FrameError(Exception):
    """A frame is longer than the limit: the other side does not keep to the form."""


class EndOfStreamError(Exception):
    """The other side closed its end."""


def _wait(descriptor: int, event: int, deadline_s: float | None) -> None:
    """Wait until ``descriptor`` is ready or has failed; ``TimeoutError`` at ``deadline_s`` (monotonic)."""
    poll = select.poll()
    poll.register(descriptor, event)
    left_ms = None if deadline_s is None else max(0, 1000 * (deadline_s - time.monotonic()))
    if not poll.poll(left_ms):
        raise TimeoutError


def send_frame(descriptor: int, message: bytes, deadline_s: float | None) -> None:
    """Write one frame to a non-blocking descriptor.

    Raises ``TimeoutError`` at the deadline, :class:`EndOfStreamError` when nobody reads any more.
    """
    send_bytes(descriptor, struct.pack("<I", len(message)) + message, deadline_s)


def send_bytes(descriptor: int, data: bytes, deadline_s: float | None) -> None:
    """Write bytes as they are; raises as :func:`send_frame` does."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            _wait(descriptor, select.POLLOUT, deadline_s)
        except BrokenPipeError:
            raise EndOfStreamError from None


def receive_frame(descriptor: int, most_bytes: int, deadline_s: float | None) -> bytes:
    """Read one frame of at most ``most_bytes`` from a non-blocking descriptor.

    Raises ``TimeoutError`` at the deadline, :class:`EndOfStreamError` when the stream ends before the frame
    does, :class:`FrameError` when it is longer than it may be.
    """
    (length,) = struct.unpack("<I", _receive(descriptor, _PREFIX_BYTES, deadline_s))
    if length > most_bytes:
        raise FrameError(f"a frame of {length} bytes; at most {most_bytes}")
    return _receive(descriptor, length, deadline_s)


def _receive(descriptor: int, count: int, deadline_s: float | None) -> bytes:
    parts: list[bytes] = []
    while count:
        try:
            part = os.read(descriptor, min(count, _STEP_BYTES))
        except BlockingIOError:
            _wait(descriptor, select.POLLIN, deadline_s)
            continue
        if not part:
            raise EndOfStreamError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
