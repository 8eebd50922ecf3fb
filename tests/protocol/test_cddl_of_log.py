"""``docs/protocol.cddl`` accepts what brokers say to witnesses and what a log shows, and refuses what is
bent."""

import cbor2
import pytest
from cddl_verifier import Validator
from enclave_process import ROOT

from myelin.contract import Head, Statement, Surroundings, acknowledge
from myelin.log import Journal, Log, LogClient, prove, release_leaf
from myelin.wire import decode, encode
from reference_enclave import NOW_S, ReferenceEnclave, make_agreement

VALIDATOR = Validator((ROOT / "docs" / "protocol.cddl").read_text("utf-8"))
AROUND = Surroundings(clock=lambda: NOW_S)


def matches(rule, value):
    return VALIDATOR.validate(value, root_type=rule).valid


@pytest.fixture
def documents(tmp_path):
    agreement = make_agreement(tmp_path)
    owner = agreement.owners[0].identity
    journal = Journal.open(tmp_path / "log", surroundings=AROUND)
    log = Log(agreement.researcher, journal, surroundings=AROUND)

    class Wire:
        where = "log"

        def send(self, verb, frame):
            return log.answer(frame)

        def close(self):
            pass

    client = LogClient("log", agreement.researcher.public.signing_key, lambda _: Wire(), AROUND)
    client.add("contract", agreement.signed.to_bytes())
    statement = Statement(bytes(32), agreement.signed.digest, (Head(3, bytes(32)),), bytes(32))
    signed = statement.sign(owner.signing)
    client.add("head", signed, statement.nonce)
    certificate = decode(ReferenceEnclave(agreement.signed).finish(b"model")[0])[1]
    client.add("release", certificate)
    proof = prove(client, agreement.signed, certificate, None)
    request = {"verb": "acknowledge", "contract": agreement.signed.to_bytes(), "statement": signed}
    return {
        "broker-request": encode(request),
        "head-sign1": signed,
        "acknowledgement-sign1": acknowledge(signed, statement, owner.signing),
        "checkpoint-sign1": proof.checkpoint,
        "release-leaf": release_leaf(certificate),
        "log-proof": proof.to_bytes(),
    }


def test_every_document(documents):
    for rule, document in documents.items():
        assert matches(rule, document), rule
    assert len(decode(documents["log-proof"])[2]) == 3


def test_bent_documents_are_refused(documents):
    proof = cbor2.loads(documents["log-proof"])
    leaf = cbor2.loads(documents["release-leaf"])
    bent = [
        ("log-proof", proof[:3]),
        ("log-proof", ["other", *proof[1:]]),
        ("log-proof", [*proof[:2], [[0, b"\xa0", []]], []]),
        ("release-leaf", leaf | {"kind": "head"}),
        ("release-leaf", leaf | {"run": bytes(31)}),
        ("broker-request", cbor2.loads(documents["broker-request"]) | {"extra": 1}),
    ]
    for rule, value in bent:
        assert not matches(rule, cbor2.dumps(value)), (rule, value)
