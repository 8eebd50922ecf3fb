"""The service on real sockets: a run over HTTP and TLS, hostile clients, stopping, the audit log, metrics."""

import contextlib
import datetime
import signal
import socket
import subprocess
import sys
import time

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from myelin.broker import AuditLog, Rates, check_audit, listen_on
from myelin.contract import Ledger, Store, Surroundings
from myelin.errors import HostError, InputError, ProtocolError
from myelin.train import BrokerConnection
from reference_enclave import ReferenceEnclave, make_agreement, one_each


@pytest.fixture
def agreement(tmp_path):
    """An agreement that is in force by the real clock, whose first owner's files a process may use."""
    agreement = make_agreement(tmp_path)
    agreement.signed = agreement.changed(expires_s=int(time.time()) + 3600)
    owner = agreement.owners[0]
    owner.identity.save(tmp_path)
    agreement.signed.save(tmp_path / "two.contract")
    owner.store.close()
    return agreement


@contextlib.contextmanager
def serving(folder, *options):
    """`myelin broker serve` as a process; the log is in ``serve.log``."""
    words = ["broker", "serve", "--owner", "north.key", "--insecure-accept-simulated-evidence", *options]
    log_path = folder / "serve.log"
    before = log_path.read_text().count("broker at") if log_path.exists() else 0
    with open(log_path, "a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "myelin.cli", *map(str, words)], cwd=folder, stdout=log, stderr=log
        )
    try:
        for _ in range(600):
            if log_path.read_text().count("broker at") > before:
                break
            assert process.poll() is None, (folder / "serve.log").read_text()
            time.sleep(0.05)
        time.sleep(0.2)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(40)


def certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def run_release(agreement, address, ca=None, boot=None):
    boot = boot or ReferenceEnclave(agreement.signed)
    with BrokerConnection(address, ca=ca) as broker:
        nonce, policy = broker.challenge()
        evidence = boot.attest(nonce, policy)
        return boot, broker.release(
            agreement.signed.to_bytes(), evidence, boot.hpke_key, boot.signing_key, nonce, "fresh"
        )


def get(path, target):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        parts = b""
        while part := client.recv(65536):
            parts += part
        return parts.decode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_release_and_a_deposit_over_tls(tmp_path, agreement):
    certificate(tmp_path)
    port = free_port()
    tls = ("--tls-certificate", "tls.crt", "--tls-key", "tls.key")
    with serving(tmp_path, "--listen", f"127.0.0.1:{port}", *tls):
        address = f"https://localhost:{port}"
        boot, grant = run_release(agreement, address, tmp_path / "tls.crt")
        assert (grant.party, grant.debited) == (0, True)
        accepted = boot.accept({"party": 0, "grant": grant.sealed})
        assert accepted["data_key"] == agreement.owners[0].data_key
        _, sealed, signature = boot.shares()[0]
        with BrokerConnection(address, ca=tmp_path / "tls.crt") as broker:
            assert broker.deposit(agreement.signed.digest, boot.boot, sealed, signature)
        with pytest.raises(HostError):  # whoever does not trust the certificate sends nothing
            run_release(agreement, address)


def test_hostile_clients_do_not_stop_it(tmp_path, agreement):
    with serving(tmp_path, "--socket", "s"):
        path = tmp_path / "s"
        assert path.stat().st_mode & 0o777 == 0o600
        slow = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(20)]
        for index, client in enumerate(slow):
            client.connect(str(path))
            client.sendall(b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\n"[: 10 + index])  # and then nothing

        def post(head, body=b""):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(10)
                client.connect(str(path))
                client.sendall(head.encode() + b"\r\n\r\n" + body)
                return client.recv(65536).decode("latin1").split("\r\n")[0]

        kind = "Content-Type: application/cbor"
        line = "POST /v1/challenge HTTP/1.1\r\nHost: x"
        assert " 413 " in post(f"{line}\r\n{kind}\r\nContent-Length: 99999999")
        chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        assert " 413 " in post(
            f"{line}\r\n{kind}\r\nTransfer-Encoding: chunked", chunk + chunk + b"0\r\n\r\n"
        )
        assert " 400 " in post(f"{line}\r\nContent-Length: 2", b"\xa0\xa0")
        assert " 400 " in post(f"{line}\r\n{kind}\r\nContent-Length: 1", b"\xff")
        assert " 400 " in post("X" * 40000)
        assert " 404 " in post(f"POST /v1/open HTTP/1.1\r\nHost: x\r\n{kind}\r\nContent-Length: 1", b"\xa0")
        other = cbor2.dumps({"verb": "release"})
        assert " 400 " in post(f"{line}\r\n{kind}\r\nContent-Length: {len(other)}", other)
        _, grant = run_release(agreement, f"http+unix:{path}")
        assert grant.debited
        for client in slow:  # their heads were not whole in ten seconds
            client.settimeout(15)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
            client.close()
        assert "alive" in get(path, "/healthz")


def test_stopping_finishes_and_leaves_a_whole_story(tmp_path, agreement):
    with serving(tmp_path, "--socket", "s") as process:
        boot, first = run_release(agreement, f"http+unix:{tmp_path / 's'}")
        assert " 200 " in get(tmp_path / "s", "/readyz")
        text = get(tmp_path / "s", "/metrics")
        assert 'myelin_broker_events_total{event="released"} 1' in text
        assert "myelin_broker_epsilon_budget 3" in text
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not (tmp_path / "s").exists()
    audit = (tmp_path / "north.audit.jsonl").read_bytes()
    assert check_audit(audit, "x").lines == 4
    for word in (b"started", b"reserved", b"released", b"stopped", boot.boot.hex().encode()):
        assert word in audit
    for secret in (agreement.owners[0].data_key, first.sealed):
        for shown in (audit, text.encode(), (tmp_path / "serve.log").read_bytes()):
            assert secret.hex().encode() not in shown and secret not in shown
    with serving(tmp_path, "--socket", "s"):  # and the same boot gets the same answer from the next process
        _, again = run_release(agreement, f"http+unix:{tmp_path / 's'}", boot=boot)
    assert (again.sealed, again.debited) == (first.sealed, False)


def test_dry_run_says_what_it_would_do_and_does_nothing(tmp_path, agreement):
    with serving(tmp_path, "--socket", "s", "--dry-run", "--contract", "two.contract"):
        with pytest.raises(ProtocolError) as caught:
            run_release(agreement, f"http+unix:{tmp_path / 's'}")
        assert caught.value.name == "rehearsal"
        assert "would release the key of dataset" in caught.value.detail
    shown = (tmp_path / "serve.log").read_text()
    assert "DRY RUN" in shown and "yes every party has signed" in shown and "NO" not in shown
    owner = agreement.owners[0]
    with Store.open(tmp_path / "north.store", owner.identity) as store:
        assert Ledger(store, one_each).debits() == []


def test_dry_run_says_why_not(tmp_path, agreement):
    words = [sys.executable, "-m", "myelin.cli", "broker", "revoke", "contract", "two.contract"]
    subprocess.run([*words, "--owner", "north.key", "--reason", "objected"], cwd=tmp_path, check=True)
    options = ("--socket", "s", "--dry-run", "--contract", "two.contract")
    with serving(tmp_path, *options), pytest.raises(ProtocolError, match="revoked"):
        run_release(agreement, f"http+unix:{tmp_path / 's'}")
    assert "NO nothing is revoked" in (tmp_path / "serve.log").read_text()


def test_where_it_listens(tmp_path):
    with pytest.raises(InputError, match="expected TLS"):
        listen_on(None, ("0.0.0.0", 0), None, None)
    with pytest.raises(InputError, match="one of them"):
        listen_on(None, None, None, None)
    with pytest.raises(InputError, match="both"):
        listen_on(None, ("127.0.0.1", 0), tmp_path / "x", None)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is no socket"):
        listen_on(tmp_path / "file", None, None, None)


def test_the_audit_log_shows_what_was_done_to_it(tmp_path):
    around, path = Surroundings(clock=lambda: 1_800_000_000.5), tmp_path / "a.jsonl"
    log = AuditLog(path, around)
    for n in range(5):
        log.write("refused", {"name": "nonce_unknown", "n_th": n, "boot": bytes(32)})
    whole = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert check_audit(whole, "x") == log.state
    lines = whole.splitlines(keepends=True)
    for wrong in (
        lines[1:],
        lines[:2] + lines[3:],
        [lines[0], lines[1].replace(b"n_th", b"m_th"), *lines[2:]],
    ):
        with pytest.raises(InputError, match="changed or taken out"):
            check_audit(b"".join(wrong), "x")
    assert check_audit(b"".join(lines[:3]), "x").last != log.state.last  # what was cut off shows by the hash
    path.write_bytes(whole + b'{"n": 5, "pr')  # a power failure
    again = AuditLog(path, around)
    again.write("started", {})
    assert check_audit(path.read_bytes(), "x").lines == 7
    assert b'"event": "torn"' in path.read_bytes()


def test_a_long_audit_log_goes_on_in_another_file(tmp_path, monkeypatch):
    monkeypatch.setattr("myelin.broker.audit._SEGMENT_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    for _ in range(4):
        log = AuditLog(path, Surroundings(clock=lambda: 1_800_000_000.0))
        for _ in range(10):
            log.write("refused", {"name": "nonce_unknown"})
    parts = sorted(tmp_path.iterdir(), key=lambda part: int(part.suffix[1:]) if part != path else 1 << 30)
    assert len(parts) > 3
    last = "0" * 64
    for part in parts:  # each continues the one before
        data = part.read_bytes()
        assert f'"prev": "{last}"'.encode() in data.split(b"\n")[0]
        last = check_audit(data, "x").last
    assert check_audit(path.read_bytes(), "x") == log.state


def test_an_audit_log_that_cannot_be_written_lets_nothing_out(tmp_path):
    agreement = make_agreement(tmp_path)
    owner = agreement.owners[0]

    def full(happened, facts):
        if happened == "released":
            raise ProtocolError.named("ledger_unwritable", "disk full")

    boot = ReferenceEnclave(agreement.signed)
    owner.restart(observe=full)
    with pytest.raises(ProtocolError, match="ledger_unwritable"):
        owner.ask(boot.request(owner))
    owner.restart()
    answer = owner.ask(boot.request(owner))
    assert (answer["debited"], owner.debits()) == (False, 1)


def test_rates():
    now = [0.0]
    rates = Rates(lambda: now[0], burst=3, per_s=1, all_together=2)
    assert [rates.allow("a") for _ in range(4)] == [True, True, True, False]
    assert [rates.allow("b") for _ in range(4)] == [True, True, True, False]
    assert not rates.allow("c")  # six were all that all together have
    now[0] = 1.0
    assert [rates.allow("c"), rates.allow("a"), rates.allow("a")] == [True, True, False]
    for n in range(10_000):
        rates.allow(str(n))
    assert len(rates._buckets) <= 4096


def test_names_that_are_only_a_path(tmp_path):
    with pytest.raises(HostError, match="no broker answers"):
        BrokerConnection(tmp_path / "none")
    with pytest.raises(InputError, match="https:// for another machine"):
        BrokerConnection("http://example.org:80")
