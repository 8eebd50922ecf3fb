"""A log: what it takes in, what it shows, and how a fork or a removal is seen by everyone who asks or
verifies."""

import shutil
import sqlite3

import pytest

from myelin.certificate import LogClaim, verify
from myelin.contract import Head, Identity, Statement, Surroundings, ask
from myelin.errors import InputError, ProtocolError
from myelin.log import Journal, Log, LogClient, LogProof, contract_leaf, prove, read_leaf, release_leaf
from myelin.wire import decode, encode
from reference_enclave import NOW_S, ReferenceEnclave, make_agreement, one_each

AROUND = Surroundings(clock=lambda: NOW_S)


class Server:
    """A log over a file, as a transport to itself."""

    where = "log"

    def __init__(self, path, identity):
        self.path, self.identity = path, identity
        self.open()

    def open(self):
        self.journal = Journal.open(self.path, surroundings=AROUND)
        self.log = Log(self.identity, self.journal, surroundings=AROUND)

    def send(self, verb, frame):
        return self.log.answer(frame)

    def close(self):
        pass

    def client(self, seen=None):
        return LogClient("log", self.identity.public.signing_key, lambda _: self, AROUND, seen)

    def put_back(self, copy):
        self.journal.close()
        shutil.copy(copy, self.path)
        self.open()


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path / "public.log", Identity.generate("public log"))


@pytest.fixture
def agreement(tmp_path):
    return make_agreement(tmp_path)


def state(agreement, heads, nonce, ledger=bytes(32), owner=0):
    statement = Statement(ledger, agreement.signed.digest, tuple(heads), nonce)
    return statement.sign(agreement.owners[owner].identity.signing)


def add_head(server, agreement, heads, **options):
    nonce = bytes([len(heads)]) * 32
    return server.client().add("head", state(agreement, heads, nonce, **options), nonce)


def heads(*digests):
    return [Head(n + 1, bytes([d]) * 32) for n, d in enumerate(digests)]


def released(agreement):
    enclave = ReferenceEnclave(agreement.signed)
    bundle, _ = enclave.finish(b"model")
    return bundle, decode(bundle)[1]


def test_what_is_taken_in_is_shown(server, agreement):
    client = server.client()
    checkpoint, found = client.add("contract", agreement.signed.to_bytes())
    assert (checkpoint.size, checkpoint.origin, found.index) == (1, "public log", 0)
    assert read_leaf(found.leaf)["measurement"] == agreement.contract.measurement
    assert add_head(server, agreement, heads(1))[1].index == 1
    assert add_head(server, agreement, heads(1))[1] is None  # no news
    _, signed = released(agreement)
    assert client.add("release", signed)[1].index == 2
    assert client.add("contract", agreement.signed.to_bytes())[1].index == 0  # once
    assert client.find(contract_leaf(agreement.signed))[1].index == 0
    assert client.find(b"\xa0")[1] is None
    server.journal.close()
    server.open()
    assert client.find(release_leaf(signed))[1].index == 2


def test_what_is_refused(server, agreement):
    client = server.client()
    _, signed = released(agreement)

    def refused(name, kind, document, nonce=None):
        with pytest.raises(ProtocolError) as caught:
            client.add(kind, document, nonce)
        assert caught.value.name == name, caught.value
        assert len(server.journal.leaves) == len(server.journal.hashes)

    refused("wrong_contract", "release", signed)
    refused("not_a_party", "head", state(agreement, heads(1), bytes(32)), bytes(32))
    refused("signature_missing", "contract", agreement.sign(agreement.contract, skip="south").to_bytes())
    client.add("contract", agreement.signed.to_bytes())
    refused("nonce_unknown", "head", state(agreement, heads(1), bytes(32)), b"x" * 32)
    refused("malformed_message", "note", b"x")
    flipped = bytearray(signed)
    flipped[-1] ^= 1
    refused("signature_invalid", "release", bytes(flipped))
    stranger = Statement(bytes(32), agreement.signed.digest, tuple(heads(1)), bytes(32))
    refused("not_a_party", "head", stranger.sign(agreement.researcher.signing), bytes(32))
    add_head(server, agreement, heads(1))
    refused("not_a_party", "head", state(agreement, heads(1, 2), bytes(32), owner=1), bytes(32))
    for wrong in (heads(2), heads(2, 3), [], [Head(2, b"\1" * 32)]):
        refused("ledger_rolled_back", "head", state(agreement, wrong, bytes(32)), bytes(32))
    assert len(server.journal.leaves) == 2


def test_any_frame_is_answered(server):
    for frame in (b"", b"\xff", encode([]), encode({"verb": "x"}), encode({"verb": "leaves"}),
                  encode({"verb": "leaves", "start": 0, "count": 0}),
                  encode({"verb": "consistency", "first": 0, "second": 9}),
                  encode({"verb": "checkpoint", "nonce": b"short"}), bytes((1 << 20) + 1)):  # fmt: skip
        assert decode(server.log.answer(frame))["ok"] is False


def test_a_log_that_takes_back_or_forks_is_seen_by_who_asks_again(tmp_path, server, agreement):
    seen = tmp_path / "log.seen"
    client = server.client(seen)
    client.add("contract", agreement.signed.to_bytes())
    server.journal.close()
    shutil.copy(server.path, tmp_path / "short")
    server.open()
    add_head(server, agreement, heads(1))
    client.find(b"")
    for n in range(2, 5):
        add_head(server, agreement, heads(*range(1, n + 1)))
        client.find(b"")
    server.put_back(tmp_path / "short")
    with pytest.raises(ProtocolError, match=r"log_inconsistent.*removed: it had 5"):
        client.find(b"")
    for n in range(1, 9):  # it grows another history, past the old length
        add_head(server, agreement, heads(*range(11, 11 + n)))
    with pytest.raises(ProtocolError, match=r"log_inconsistent.*two versions"):
        client.find(b"")
    server.client().find(b"")  # who saw nothing before sees nothing: that is why everyone keeps a checkpoint


def test_answers_of_another_log_or_to_another_question(server, agreement):
    client = server.client()
    other = LogClient("log", agreement.researcher.public.signing_key, lambda _: server, AROUND)
    with pytest.raises(ProtocolError, match="signature_invalid"):
        other.find(b"")

    class Replay:
        where = "log"
        answer = None

        def send(self, verb, frame):
            Replay.answer = Replay.answer or server.log.answer(frame)
            return Replay.answer

        def close(self):
            pass

    replayed = LogClient("log", client.signing_key, lambda _: Replay(), AROUND)
    replayed.find(b"")
    with pytest.raises(ProtocolError, match=r"nonce_unknown.*another question"):
        replayed.find(b"")


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE line SET body = (SELECT body FROM line WHERE number = 0) WHERE number = 1",
        "UPDATE line SET chain = zeroblob(32) WHERE number = 1",
        "DELETE FROM line WHERE number = 1",
        "DELETE FROM line WHERE number = 2",
        "DELETE FROM line",
        "DELETE FROM head",
        "UPDATE head SET mac = zeroblob(32)",
    ],
)
def test_a_tampered_file_is_not_served(server, agreement, tamper):
    server.client().add("contract", agreement.signed.to_bytes())
    add_head(server, agreement, heads(1))
    add_head(server, agreement, heads(1, 2))
    server.journal.close()
    with sqlite3.connect(server.path) as connection:
        connection.execute(tamper)
    connection.close()
    with pytest.raises(ProtocolError, match="ledger_damaged"):
        server.open()


def checks_of(result):
    found, todo = {}, [result.checks]
    while todo:
        check = todo.pop()
        found[check.name] = check.passed
        todo += check.children
    return found


def judged(agreement, bundle, proof, server, seen=None):
    claim = LogClaim(proof, server.identity.public.signing_key, seen)
    result = verify(
        bundle, agreement.signed, allow_simulated=True, now_s=NOW_S, accountant=one_each, log=claim
    )
    return result, checks_of(result)


def test_verify_with_a_log(tmp_path, server, agreement):
    agreement.signed = agreement.changed(anchors=("log",))
    bundle, signed = released(agreement)
    client = server.client()
    client.add("contract", agreement.signed.to_bytes())
    early = prove(client, agreement.signed, None, None)
    add_head(server, agreement, heads(1))
    add_head(server, agreement, heads(2), ledger=b"\1" * 32, owner=1)
    client.add("release", signed)
    proof = LogProof.from_bytes(prove(client, agreement.signed, signed, early.checkpoint).to_bytes())
    result, checks = judged(agreement, bundle, proof, server, early.checkpoint)
    assert result.verified, checks
    assert checks["release in the log"] and checks["ledger of south in the log"]

    result, checks = judged(agreement, bundle, early, server)
    assert not result.verified
    assert (checks["contract in the log"], checks["release in the log"]) == (True, False)
    assert not checks["ledger of north in the log"]

    result, checks = judged(agreement, bundle, early, server, proof.checkpoint)  # entries were taken out
    assert (result.verified, checks["log checkpoint"]) == (False, False)

    forked = Server(tmp_path / "fork.log", server.identity)
    other = agreement.changed(name="another", anchors=("log",))
    forked.client().add("contract", other.to_bytes())
    forked.client().add("contract", agreement.signed.to_bytes())
    forked.client().add("release", signed)
    fork = prove(forked.client(), agreement.signed, signed, None)
    assert not judged(agreement, bundle, fork, server, early.checkpoint)[0].verified
    with pytest.raises(InputError, match="give the contract"):
        verify(bundle, now_s=NOW_S, log=LogClaim(proof, server.identity.public.signing_key))
    plain = verify(bundle, agreement.signed, allow_simulated=True, now_s=NOW_S, accountant=one_each)
    assert any("--log-proof" in item for item in plain.not_checked)


def test_a_leaf_that_was_never_under_the_root(server, agreement):
    bundle, signed = released(agreement)
    server.client().add("contract", agreement.signed.to_bytes())
    proof = prove(server.client(), agreement.signed, signed, None)
    item = proof.included[0]
    wrong = type(item)(item.index, release_leaf(signed), item.path)
    forged = LogProof(proof.checkpoint, (item, wrong), ())
    result, checks = judged(agreement, bundle, forged, server)
    assert (result.verified, checks["log checkpoint"]) == (False, False)


def test_files_that_are_no_proof():
    for data in (
        b"",
        b"\x80",
        encode(["other", b"", [], []]),
        encode(["myelin-log-proof", b"", [[0, b""]], []]),
    ):
        with pytest.raises(ProtocolError):
            LogProof.from_bytes(data)


def test_checkpoints_are_asked_for(server):
    answer = ask(server, {"verb": "checkpoint", "nonce": None})
    assert answer["index"] is None and answer["checkpoint"]
