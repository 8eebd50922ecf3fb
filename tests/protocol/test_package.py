"""The Rust state machine with the package on the other side: brokers, session, sealed files, certificate."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from enclave_process import EVENT_NUMBERS, MODEL_HEADER, EnclaveProcess
from second_implementation import cbor

from myelin.certificate import CertificateBundle, open_model, verify
from myelin.contract import DpEvent, SignedContract
from myelin.errors import ProtocolError
from myelin.host import EnclaveSession
from reference_enclave import NOW_S, Agreement, make_agreement, one_each, schema

EVENT = DpEvent(dataset_size=30, **EVENT_NUMBERS)


class Boot(EnclaveProcess):
    """What :class:`EnclaveSession` needs of an enclave: messages as bytes."""

    def __init__(self, seed: int, signed: SignedContract) -> None:
        super().__init__(seed, schema().record_bytes)
        self.send(cbor([0, signed.contract.measurement, 1]))

    def call(self, message: bytes, timeout_s: float | None = None) -> bytes:
        return self.send(message)


@pytest.fixture
def agreement(tmp_path: Path) -> Agreement:
    agreement = make_agreement(tmp_path)
    agreement.signed = agreement.changed(event=EVENT)
    return agreement


def admit(agreement: Agreement, session: EnclaveSession, mode: str) -> None:
    signed = agreement.signed
    boot = session.describe()
    assert session.bind_contract(signed.contract_bytes, signed.signatures) == signed.digest
    for index, owner in enumerate(agreement.owners):
        challenge = owner.ask({"verb": "challenge"})
        answer = owner.ask(
            {
                "verb": "release",
                "contract": signed.to_bytes(),
                "evidence": session.attest(challenge["nonce"], challenge["policy"]),
                "hpke_key": boot.hpke_key,
                "signing_key": boot.signing_key,
                "nonce": challenge["nonce"],
                "mode": mode,
            }
        )
        assert (answer["party"], answer["debited"]) == (index, mode == "fresh")
        session.grant(index, answer["grant"])
    shares = session.shares()
    for deposit in shares.deposits:
        request = {"contract": signed.digest, "boot": shares.run, "sealed": deposit.sealed}
        owner = agreement.owners[deposit.party]
        receipt = owner.ask({"verb": "deposit", **request, "signature": deposit.signature})["receipt"]
        session.deposited(deposit.party, receipt)
    assert len(shares.deposits) == (2 if mode == "fresh" else 0)


def finish(agreement: Agreement, session: EnclaveSession) -> list[bytes]:
    for index, owner in enumerate(agreement.owners):
        session.send_dataset(index, owner.sealed)
    assert session.train(100) == (5, 5)
    return [session.fetch_all(i, length) for i, length in enumerate(session.release())]


def test_a_whole_run_verifies_and_opens(agreement: Agreement):
    with Boot(31, agreement.signed) as enclave:
        session = EnclaveSession(enclave)
        admit(agreement, session, "fresh")
        bundle, sealed_model = finish(agreement, session)
    verification = verify(bundle, agreement.signed, allow_simulated=True, now_s=NOW_S, accountant=one_each)
    assert verification.verified, verification
    assert not verify(bundle, agreement.signed, now_s=NOW_S, accountant=one_each).verified
    certificate = CertificateBundle.from_bytes(bundle).certificate
    assert certificate.event == EVENT
    model = open_model(sealed_model, agreement.researcher, contract=agreement.signed, certificate=certificate)
    assert model.startswith(MODEL_HEADER)
    assert struct.unpack("<Q", model[:8]) == (len(MODEL_HEADER) - 8,)


def test_a_killed_run_resumes_without_a_debit(agreement: Agreement):
    with Boot(32, agreement.signed) as enclave:
        session = EnclaveSession(enclave)
        admit(agreement, session, "fresh")
        first = finish(agreement, session)[1]
    with Boot(33, agreement.signed) as enclave:
        session = EnclaveSession(enclave)
        admit(agreement, session, "resume")
        second = finish(agreement, session)[1]
    assert [owner.debits() for owner in agreement.owners] == [1, 1]
    assert first != second
    assert open_model(first, agreement.researcher) == open_model(second, agreement.researcher)


def test_a_contract_that_all_signed_may_still_be_of_another_image(agreement: Agreement):
    changes = [
        ({"measurement": bytes(32)}, "wrong_measurement"),
        ({"plan": bytes(32)}, "wrong_plan"),
        ({"event": DpEvent(dataset_size=30, **{**EVENT_NUMBERS, "steps": 4})}, "wrong_plan"),
        ({"event": DpEvent(dataset_size=30, **EVENT_NUMBERS, clipping=("automatic", 7))}, "wrong_plan"),
    ]
    with Boot(34, agreement.signed) as enclave:
        session = EnclaveSession(enclave)
        for change, name in changes:
            wrong = agreement.changed(**{"event": EVENT, **change})
            with pytest.raises(ProtocolError) as caught:
                session.bind_contract(wrong.contract_bytes, wrong.signatures)
            assert caught.value.name == name, change
        unsigned = agreement.sign(agreement.signed.contract, skip="south")
        with pytest.raises(ProtocolError) as caught:
            session.bind_contract(unsigned.contract_bytes, unsigned.signatures)
        assert caught.value.name == "signature_missing"
        session.bind_contract(agreement.signed.contract_bytes, agreement.signed.signatures)
