"""The socket: honest clients are served while hostile ones come and go, and stopping is clean."""

import contextlib
import os
import socket
import threading
import time

import pytest

from myelin.contract import BrokerServer, server
from myelin.errors import InputError
from myelin.train import BrokerConnection
from reference_enclave import ReferenceEnclave


@contextlib.contextmanager
def serving(path, answer):
    with BrokerServer(path, answer) as running:
        thread = threading.Thread(target=running.serve)
        thread.start()
        try:
            yield running
        finally:
            running.stop()
            thread.join(30)
            assert not thread.is_alive()


def connect(path):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(10)
    client.connect(str(path))
    return client


def ask(client, frame):
    client.sendall(len(frame).to_bytes(4, "little") + frame)
    size = int.from_bytes(receive(client, 4), "little")
    return receive(client, size)


def receive(client, size):
    parts = b""
    while len(parts) < size and (part := client.recv(size - len(parts))):
        parts += part
    return parts


def test_the_hosts_client_talks_to_the_broker(tmp_path, agreement, enclave):
    """Both sides of the transport, over a real socket: challenge, release, deposit."""
    owner = agreement.owners[0]
    with serving(tmp_path / "s", owner.broker.answer), BrokerConnection(tmp_path / "s") as broker:
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        nonce, policy = broker.challenge()
        evidence = enclave.attest(nonce, policy)
        contract = agreement.signed.to_bytes()
        grant = broker.release(contract, evidence, enclave.hpke_key, enclave.signing_key, nonce, "fresh")
        assert (grant.party, grant.debited) == (0, True)
        enclave.accept({"party": grant.party, "grant": grant.sealed})
        _, sealed, signature = enclave.shares()[0]
        assert broker.deposit(agreement.signed.digest, enclave.boot, sealed, signature)
    assert not (tmp_path / "s").exists()


def test_several_clients_at_once_spend_the_budget_once_each(tmp_path, agreement):
    """Three runs fit; six boots ask at the same time."""
    owner = agreement.owners[0]
    outcomes = []

    def run():
        enclave = ReferenceEnclave(agreement.signed)
        with BrokerConnection(tmp_path / "s") as broker:
            nonce, policy = broker.challenge()
            evidence = enclave.attest(nonce, policy)
            contract = agreement.signed.to_bytes()
            try:
                broker.release(contract, evidence, enclave.hpke_key, enclave.signing_key, nonce, "fresh")
                outcomes.append("released")
            except Exception as error:
                outcomes.append(error.name)

    with serving(tmp_path / "s", owner.broker.answer):
        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == ["budget_exhausted"] * 3 + ["released"] * 3
    assert owner.debits() == 3


def test_hostile_clients(tmp_path):
    with serving(tmp_path / "s", lambda frame: frame[::-1]):
        honest = connect(tmp_path / "s")
        for junk in (b"", b"\x01", b"\xff\xff\xff\xff", b"\x01\x00\x10\x00" + b"x" * 10, b"\x05\0\0\0abc"):
            hostile = connect(tmp_path / "s")
            hostile.sendall(junk)
            hostile.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert hostile.recv(10) == b""
            hostile.close()
        silent = connect(tmp_path / "s")
        assert ask(honest, b"abc") == b"cba"
        largest = bytes(1 << 20)
        assert ask(honest, b"x" + largest[1:])[-1:] == b"x"
        silent.close()
        honest.close()


def test_more_clients_than_slots_are_turned_away(tmp_path):
    with serving(tmp_path / "s", lambda frame: frame):
        clients = [connect(tmp_path / "s") for _ in range(16)]
        assert all(ask(client, b"a") == b"a" for client in clients)
        late = connect(tmp_path / "s")
        assert late.recv(1) == b""
        clients.pop().close()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if ask(connect(tmp_path / "s"), b"b") == b"b":
                    break
        else:
            pytest.fail("no slot came free")
        for client in clients:
            client.close()


def test_slow_clients_lose_their_connection(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_FRAME_TIMEOUT_S", 0.3)
    with serving(tmp_path / "s", lambda frame: frame):
        slow = connect(tmp_path / "s")
        slow.sendall(b"\x05\0")
        assert slow.recv(1) == b""


def test_a_failing_answer_hurts_only_its_client(tmp_path, caplog):
    def answer(frame):
        if frame == b"bad":
            raise ValueError("a secret")
        return frame

    with serving(tmp_path / "s", answer):
        bad, good = connect(tmp_path / "s"), connect(tmp_path / "s")
        bad.sendall(b"\x03\0\0\0bad")
        assert bad.recv(1) == b""
        assert ask(good, b"good") == b"good"
    assert "ValueError" in caplog.text
    assert "a secret" not in caplog.text


def test_stopping_lets_the_answer_in_the_making_go_out(tmp_path):
    started, go_on = threading.Event(), threading.Event()

    def answer(frame):
        started.set()
        go_on.wait(10)
        return frame

    with serving(tmp_path / "s", answer) as running:
        client = connect(tmp_path / "s")
        client.sendall(b"\x01\0\0\0a")
        started.wait(10)
        running.stop()
        threading.Timer(0.3, go_on.set).start()
        assert receive(client, 5) == b"\x01\0\0\0a"
    assert not (tmp_path / "s").exists()


def test_places_for_the_socket(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match="no socket"):
        BrokerServer(tmp_path / "file", bytes)
    with pytest.raises(InputError, match="no socket can be made"):
        BrokerServer(tmp_path / ("x" * 200), bytes)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "s"))
    stale.close()
    with serving(tmp_path / "s", bytes), pytest.raises(InputError, match="answers there already"):
        BrokerServer(tmp_path / "s", bytes)
    assert os.listdir(tmp_path) == ["file"]
