"""The store: durable, chained, encrypted, and honest after a kill, a full disk, tampering and a rollback."""

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from myelin.contract import Budget, Identity, Ledger, Store
from myelin.errors import InputError, ProtocolError
from reference_enclave import BUDGET, NOW_S, ReferenceEnclave, make_agreement, one_each

TESTS = Path(__file__).parents[1]


@pytest.fixture
def identity():
    return Identity.generate("north")


@pytest.fixture
def store(tmp_path, identity):
    with Store.create(tmp_path / "s.store", identity, BUDGET, at_s=NOW_S) as opened:
        yield opened


def fill(store, count=3):
    for n in range(count):
        with store.transaction():
            store.append("note", {"n": n}, f"secret number {n}".encode())


def test_entries_come_back_with_their_secrets(tmp_path, identity, store):
    fill(store)
    with Store.open(tmp_path / "s.store", identity) as again:
        assert [e.body["n"] for e in again.entries("note")] == [0, 1, 2]
        assert again.secret(again.entries("note")[2]) == b"secret number 2"
        assert again.budget == BUDGET
        fill(store, 1)  # another process appends; this one takes it in
        assert len(again.entries("note")) == 4


def test_file_is_private_and_shows_no_secret(tmp_path, store):
    fill(store)
    files = sorted(tmp_path.iterdir())
    assert [p.name for p in files] == ["s.store", "s.store-shm", "s.store-wal"]
    for path in files:
        assert b"secret number" not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
    store.close()
    assert [p.name for p in tmp_path.iterdir()] == ["s.store"]


def test_another_owners_key_does_not_open_it(tmp_path, store):
    with pytest.raises(ProtocolError, match="ledger_damaged"):
        Store.open(tmp_path / "s.store", Identity.generate("north"))


def test_a_ledger_is_never_overwritten_or_missing(tmp_path, identity, store):
    with pytest.raises(InputError, match="never overwritten"):
        Store.create(tmp_path / "s.store", identity, BUDGET, at_s=NOW_S)
    with pytest.raises(InputError, match="no ledger"):
        Store.open(tmp_path / "other.store", identity)
    assert not (tmp_path / "other.store").exists()


def test_failed_transaction_leaves_nothing(tmp_path, identity, store):
    fill(store, 1)
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.append("note", {"n": 9})
        raise ZeroDivisionError
    assert len(store.entries()) == 2
    fill(store, 1)
    with Store.open(tmp_path / "s.store", identity) as again:
        assert len(again.entries()) == 3
    with pytest.raises(RuntimeError):
        store.append("note", {"n": 1})


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE line SET body = (SELECT body FROM line WHERE number = 1) WHERE number = 2",
        "UPDATE line SET kind = 'other' WHERE number = 2",
        "UPDATE line SET secret = (SELECT secret FROM line WHERE number = 1) WHERE number = 2",
        "UPDATE line SET secret = NULL WHERE number = 3",
        "UPDATE line SET number = 9 WHERE number = 3",
        "DELETE FROM line WHERE number = 2",
        "DELETE FROM line WHERE number = 3",
        "DELETE FROM line",
        "DELETE FROM head",
        "DROP TABLE head",
        "UPDATE head SET entries = 3",
        "UPDATE head SET salt = zeroblob(32)",
        "UPDATE line SET body = 'text' WHERE number = 2",
        "INSERT INTO line SELECT 4, kind, body, secret, chain FROM line WHERE number = 3",
    ],
)
def test_tampering_is_noticed(tmp_path, identity, store, tamper):
    fill(store)
    store.close()
    connection = sqlite3.connect(tmp_path / "s.store")
    connection.execute(tamper)
    connection.commit()
    connection.close()
    with pytest.raises(ProtocolError, match="ledger_damaged"):
        Store.open(tmp_path / "s.store", identity)


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to look like a file" * 20])
def test_files_that_are_no_store(tmp_path, identity, content):
    (tmp_path / "x.store").write_bytes(content)
    with pytest.raises(ProtocolError, match="ledger_damaged"):
        Store.open(tmp_path / "x.store", identity)


def test_flipped_bytes_never_pass_for_another_ledger(tmp_path, identity, store):
    """Wherever a byte flips, the store either says the same as before or is refused."""
    fill(store)
    store.close()
    raw = (tmp_path / "s.store").read_bytes()
    refused = 0
    for place in range(0, len(raw), 97):
        flipped = bytearray(raw)
        flipped[place] ^= 0x41
        (tmp_path / "f.store").write_bytes(flipped)
        try:
            with Store.open(tmp_path / "f.store", identity) as opened:
                assert [e.body.get("n") for e in opened.entries()] == [None, 0, 1, 2]
        except ProtocolError as error:
            assert error.name in ("ledger_damaged", "ledger_unwritable")
            refused += 1
    assert refused > 3


def test_an_older_copy_put_back_is_noticed(tmp_path, identity):
    path, witness = tmp_path / "s.store", tmp_path / "s.witness"
    with Store.create(path, identity, BUDGET, at_s=NOW_S, witness=witness) as store:
        fill(store, 1)
        store.backup(tmp_path / "old")
        fill(store, 2)
    Store.open(path, identity, witness=witness).close()
    shutil.copy(tmp_path / "old", path)
    with pytest.raises(ProtocolError, match=r"ledger_damaged.*older copy"):
        Store.open(path, identity, witness=witness)
    with Store.open(path, identity) as forked:  # who grows the old copy past the new one is noticed too
        fill(forked, 5)
    with pytest.raises(ProtocolError, match=r"ledger_damaged.*not the one"):
        Store.open(path, identity, witness=witness)
    witness.write_bytes(b"\x82\x01")
    with pytest.raises(ProtocolError, match="ledger_damaged"):
        Store.open(path, identity, witness=witness)


def test_full_disk_releases_nothing_and_costs_nothing(tmp_path):
    agreement = make_agreement(tmp_path)
    owner = agreement.owners[0]
    (pages,) = owner.store._medium.connection.execute("PRAGMA page_count").fetchone()
    owner.store._medium.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ProtocolError, match="ledger_unwritable"):
        for _ in range(3):  # the first may still fit into what is allocated
            owner.ask(ReferenceEnclave(agreement.signed).request(owner))
    debits = owner.debits()
    owner.store._medium.connection.execute("PRAGMA max_page_count = 1000000")
    with Store.open(tmp_path / "north.store", owner.identity) as again:
        assert len(Ledger(again, one_each).debits()) == debits
    owner.ask(ReferenceEnclave(agreement.signed).request(owner))
    assert owner.debits() == debits + 1


CHILD = """
import os, pickle, resource, signal, sys
sys.path.insert(0, {tests!r})
from reference_enclave import *
from myelin.contract import Broker, Store, Identity, Surroundings
from myelin.errors import ProtocolError

identity = Identity.load({folder!r} + "/north.key")
store = Store.open({folder!r} + "/north.store", identity)
broker = Broker(identity, store, POLICY, accountant=one_each, surroundings=Surroundings(clock=lambda: NOW_S))
request = decode(open({folder!r} + "/request", "rb").read())
nonce = decode(broker.answer(encode({{"verb": "challenge"}})))["nonce"]
{before}
# The nonce of the request is the one that this process issued: put it under the request's name.
broker._nonces._issued[request["nonce"]] = NOW_S
answer = decode(broker.answer(encode(request)))
{after}
"""


def child(folder, before="", after=""):
    code = textwrap.dedent(CHILD).format(tests=str(TESTS), folder=str(folder), before=before, after=after)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.fixture
def waiting(tmp_path):
    """An agreement whose first owner's broker runs in another process, and a request for it on file."""
    from myelin.wire import encode

    agreement = make_agreement(tmp_path)
    owner = agreement.owners[0]
    owner.identity.save(tmp_path)
    enclave = ReferenceEnclave(agreement.signed)
    (tmp_path / "request").write_bytes(encode(enclave.request(owner)))
    return owner, enclave


def test_killed_between_debit_and_answer(tmp_path, waiting):
    """SIGKILL right after the commit: the debit stands, and the same boot then gets that very answer."""
    owner, enclave = waiting
    result = child(tmp_path, before=KILL.replace("LEFT", "2"))
    assert result.returncode == -9, result.stderr
    assert [d.state for d in Ledger(owner.store, one_each).debits()] == ["released"]
    written = Ledger(owner.store, one_each).answer(enclave.signed.digest, enclave.boot, "fresh")
    answer = owner.ask(enclave.request(owner))
    assert answer["grant"] == written.grant
    assert (answer["debited"], owner.debits()) == (False, 1)
    assert enclave.accept(answer)["data_key"] == owner.data_key


def test_killed_between_reservation_and_commit(tmp_path, waiting):
    """SIGKILL after the first phase: it is counted, no grant exists, and the same boot is answered for it."""
    owner, enclave = waiting
    result = child(tmp_path, before=KILL.replace("LEFT", "1"))
    assert result.returncode == -9, result.stderr
    ledger = Ledger(owner.store, one_each)
    assert [d.state for d in ledger.debits()] == ["reserved"]
    assert ledger.spent() == 1
    assert ledger.answer(enclave.signed.digest, enclave.boot) is None
    answer = owner.ask(enclave.request(owner))
    assert (answer["debited"], owner.debits()) == (True, 1)
    assert enclave.accept(answer)["data_key"] == owner.data_key


KILL = """
class KilledAfterCommit:
    left = LEFT
    def __init__(self, inner): self.inner = inner
    def __enter__(self): return self.inner.__enter__()
    def __exit__(self, *error):
        self.inner.__exit__(*error)
        KilledAfterCommit.left -= 1
        if not KilledAfterCommit.left:
            os.kill(os.getpid(), signal.SIGKILL)
whole = store.transaction
store.transaction = lambda: KilledAfterCommit(whole())
"""


def test_killed_before_the_commit(tmp_path, waiting):
    """SIGKILL with everything written but not committed: nothing happened."""
    owner, enclave = waiting
    kill = """
append = store.append
def killed(*given):
    append(*given)
    os.kill(os.getpid(), signal.SIGKILL)
store.append = killed
"""
    assert child(tmp_path, before=kill).returncode == -9
    assert owner.debits() == 0
    answer = owner.ask(enclave.request(owner))
    assert (answer["debited"], owner.debits()) == (True, 1)


def test_file_size_limit_while_the_ledger_writes(tmp_path, waiting):
    """The operating system refuses to let the file grow (EFBIG): nothing released, nothing debited."""
    owner, _ = waiting
    before = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = os.path.getsize(store._path)
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
"""
    after = """
assert answer["name"] == "ledger_unwritable", answer
assert "grant" not in answer
"""
    result = child(tmp_path, before=before, after=after)
    assert result.returncode == 0, result.stderr
    assert owner.debits() == 0


def test_missing_folder_and_read_only_store(tmp_path, identity):
    with pytest.raises(InputError, match="cannot be written"):
        Store.create(tmp_path / "no" / "s.store", identity, BUDGET, at_s=NOW_S)
    assert Budget.of("1", "1e-5").allows(1.0)
    assert os.listdir(tmp_path) == []
