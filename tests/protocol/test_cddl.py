"""``docs/protocol.cddl`` accepts every document and message of a real run, and refuses what is bent."""

from __future__ import annotations

import re
import struct

import cbor2
import pytest
from cddl_verifier import Validator
from enclave_process import ROOT, EnclaveProcess
from second_implementation import cbor, sha256
from test_both_sides import (
    POLICY,
    World,
    bind,
    contract_signatures,
    deposit_all,
    fetch_all,
    grant_all,
    load_all,
)

CDDL = (ROOT / "docs" / "protocol.cddl").read_text("utf-8")


VALIDATOR = Validator(CDDL)


def matches(rule: str, value: bytes) -> bool:
    return VALIDATOR.validate(value, root_type=rule).valid


class Recording(EnclaveProcess):
    """A boot whose messages and answers are kept."""

    def __init__(self, seed: int, *, is_asked: bool = False) -> None:
        super().__init__(seed, is_asked=is_asked)
        self.messages: list[tuple[bytes, bytes]] = []

    def send(self, message: bytes) -> bytes:
        reply = super().send(message)
        self.messages.append((message, reply))
        return reply


@pytest.fixture(scope="module")
def run() -> tuple[World, list[tuple[bytes, bytes]], list[bytes]]:
    world = World()
    with Recording(21) as enclave:
        hpke_key, signing_key = bind(world, enclave)
        enclave.call(3, sha256(b"nonce"), POLICY)
        boot = sha256(cbor(["myelin/boot/v1", hpke_key, signing_key]))
        grant_all(world, enclave, hpke_key, boot, resume=False)
        deposit_all(world, enclave, signing_key, boot)
        load_all(world, enclave)
        enclave.call(9, 100)
        outputs = fetch_all(enclave)
        enclave.send(cbor([99]))
        return world, enclave.messages[:-1], outputs


REQUESTS = {
    0: ("launch", "launched"),
    1: ("describe", "described"),
    2: ("bind-contract", "bound"),
    3: ("attest", "attested"),
    4: ("give-grant", "counted"),
    5: ("shares", "shared"),
    6: ("deposited", "counted"),
    7: ("data-begin", "counted"),
    8: ("data-chunk", "counted"),
    9: ("train", "progressed"),
    10: ("release", "released"),
    11: ("fetch", "fetched"),
}


def test_every_message_and_answer(run):
    seen = set()
    for message, reply in run[1]:
        code = cbor2.loads(message)[0]
        seen.add(code)
        request, answer = REQUESTS[code]
        assert matches(request, message), request
        assert matches("request", message)
        assert matches(answer, reply), answer
        assert matches("answer", reply)
    assert seen == set(REQUESTS)
    assert matches("refusal", cbor([1, 104, "no message has code 99"]))


def test_evidence_that_is_asked_for():
    world = World()
    with Recording(21, is_asked=True) as enclave:
        bind(world, enclave)
        wanted = enclave.send(cbor([3, sha256(b"nonce"), POLICY]))
        given = enclave.send(cbor([12, cbor(["media/type", b"evidence"])]))
        assert matches("evidence-wanted", wanted)
        assert matches("answer", wanted)
        assert not matches("attested", wanted)
        assert given == cbor([0, cbor(["media/type", b"evidence"])])
        assert matches("attested", given)
        request = enclave.messages[-1][0]
        assert matches("give-evidence", request)
        assert matches("request", request)
        dropped = enclave.send(request)
        assert cbor2.loads(dropped)[:2] == [1, 201]


def test_every_document(run):
    world, _, (bundle, sealed_model) = run
    signatures = contract_signatures(world)
    _, certificate, evidence = cbor2.loads(bundle)
    header = world.files[0].prefix
    (length,) = struct.unpack("<I", header[8:12])
    documents = {
        "contract-map": world.contract,
        "dp-event": cbor(world.event),
        "signed-contract": cbor(["myelin-contract", world.contract, [*signatures[:3], None]]),
        "certificate-bundle": bundle,
        "certificate-sign1": certificate,
        "certificate-map": cbor2.loads(certificate)[2],
        "evidence-cmw": evidence,
        "simulated-evidence": evidence,
        "sealed-model": sealed_model,
        "dataset-header": header[12 : 12 + length],
        "deposit-map": cbor(world.parties[0].share),
        "resume-grant": cbor({"data_key": bytes(32), "mode": "resume"} | world.parties[0].share),
    }
    for rule, document in documents.items():
        assert matches(rule, document), rule


def test_bent_documents_are_refused(run):
    world = run[0]
    contract = cbor2.loads(world.contract)
    grant = dict.fromkeys(("run", "share", "check")) | {"data_key": bytes(32), "mode": "fresh"}
    assert matches("contract-map", cbor(contract))
    assert matches("grant-map", cbor(grant))
    bent = [
        ("contract-map", contract | {"extra": 1}),
        ("contract-map", {k: v for k, v in contract.items() if k != "policy"}),
        ("contract-map", contract | {"version": 1}),
        ("contract-map", contract | {"anchors": ["witnesses", "tpm"]}),
        ("contract-map", contract | {"measurement": bytes(31)}),
        ("contract-map", contract | {"name": ""}),
        ("contract-map", contract | {"parties": contract["parties"][:1]}),
        ("contract-map", contract | {"event": contract["event"] | {"steps": -1}}),
        ("contract-map", contract | {"event": contract["event"] | {"steps": 1.5}}),
        ("grant-map", grant | {"mode": "resume"}),
        ("grant-map", grant | {"run": bytes(32)}),
        ("attest", [3, bytes(31), bytes(32)]),
        ("request", [13]),
        ("give-evidence", [12]),
        ("give-evidence", [12, b"no envelope"]),
        ("evidence-wanted", [2, bytes(63)]),
        ("fetch", [11, 0, 0, 524_289]),
        ("data-chunk", [8, 0, bytes(65_553)]),
    ]
    for rule, value in bent:
        assert not matches(rule, cbor(value)), (rule, value)


def test_every_rule_is_of_use():
    """Each rule is used by another one, or stands for a whole document or message."""
    rules = re.findall(r"^([a-z0-9-]+) =", CDDL, re.MULTILINE)
    assert len(rules) == len(set(rules))
    code = re.sub(r";.*|\"[^\"]*\"", "", CDDL)
    used = {rule for rule in rules if len(re.findall(rf"(?<![\w-]){rule}(?![\w-])(?!:)", code)) > 1}
    documents = {"boot-array", "report-array", "transcript", "signed-contract", "certificate-bundle"}
    documents |= {
        "sealed-model",
        "answer",
        "request",
        "grant-map",
        "deposit-map",
        "broker-request",
        "broker-answer",
        "log-proof",
    }
    documents |= {
        "simulated-evidence",
        "dataset-header",
        "grant-info",
        "deposit-info",
        "dataset-info",
        "dataset-key-info",
        "model-info",
    }
    assert set(rules) - used == documents - used
