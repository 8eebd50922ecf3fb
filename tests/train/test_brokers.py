"""What the host's client makes of brokers that answer badly: an error in words, never a traceback."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import cbor2
import pytest

from myelin.errors import HostError, ProtocolError
from myelin.train import BrokerConnection


def answering(path: Path, raw: bytes) -> threading.Thread:
    """A broker that reads a little and answers these bytes."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)

    def serve() -> None:
        with server, server.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(raw)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def frame(value: object) -> bytes:
    content = cbor2.dumps(value)
    return struct.pack("<I", len(content)) + content


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "closed the connection"),
        (struct.pack("<I", 1 << 31), "at most"),
        (struct.pack("<I", 3) + b"\xff\xff\xff", "was not answered"),
        (frame([1, 2]), "not a map"),
        (frame({"ok": "yes"}), "not a map with `ok`"),
        (frame({"ok": False, "error": "many", "message": 3}), "refusal lacks"),
        (frame({"ok": True, "nonce": b"short", "policy": bytes(32)}), "`nonce`"),
        (frame({"ok": True, "nonce": bytes(32)}), "`policy`"),
    ],
)
def test_a_bad_answer_is_named(tmp_path: Path, raw: bytes, says: str) -> None:
    thread = answering(tmp_path / "socket", raw)
    with BrokerConnection(tmp_path / "socket", timeout_s=5) as broker, pytest.raises(HostError, match=says):
        broker.challenge()
    thread.join()


def test_a_refusal_keeps_its_number(tmp_path: Path) -> None:
    answering(tmp_path / "socket", frame({"ok": False, "error": 801, "message": "spent"}))
    with (
        BrokerConnection(tmp_path / "socket", timeout_s=5) as broker,
        pytest.raises(ProtocolError) as refusal,
    ):
        broker.challenge()
    assert refusal.value.name == "budget_exhausted"


def test_no_broker_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="myelin broker run"):
        BrokerConnection(tmp_path / "nobody")
