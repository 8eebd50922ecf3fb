"""Things in another order, from another place, for another boot, twice, or missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myelin.contract import open_dataset, seal_dataset
from myelin.contract.ledger import Ledger
from myelin.errors import ProtocolError
from myelin.host import Enclave, EnclaveSession
from myelin.host.messages import Code
from myelin.wire import decode, encode
from world import FAR_FUTURE_S, Host, World


def refused(*names: str) -> Any:
    class Refused:
        def __enter__(self) -> None:
            self.context = pytest.raises(ProtocolError)
            self.info = self.context.__enter__()

        def __exit__(self, *details: Any) -> Any:
            handled = self.context.__exit__(*details)
            assert self.info.value.name in names, self.info.value
            return handled

    return Refused()


def ready_for_data(host: Host) -> None:
    host.bind()
    host.grants()
    host.deposits()


# Chunks and files


def send(host: Host, index: int, header: bytes, chunks: list[tuple[int, bytes]]) -> None:
    host.session.data_begin(index, header)
    for number, chunk in chunks:
        host.session.data_chunk(number, chunk)


@pytest.mark.parametrize("numbering", ["as sent", "as sealed"])
def test_reordered_chunks(world: World, numbering: str) -> None:
    with Host(world) as host, refused("data_chunk_invalid", "out_of_order"):
        ready_for_data(host)
        header, chunks = host.pieces(0)
        order = [1, 0]
        send(
            host, 0, header, [(i if numbering == "as sealed" else n, chunks[i]) for n, i in enumerate(order)]
        )


@pytest.mark.parametrize("numbering", ["as sent", "as sealed"])
def test_repeated_chunk(world: World, numbering: str) -> None:
    with Host(world) as host, refused("data_chunk_invalid", "out_of_order"):
        ready_for_data(host)
        header, chunks = host.pieces(0)
        send(host, 0, header, [(0, chunks[0]), (0 if numbering == "as sealed" else 1, chunks[0])])


def test_dropped_chunk(world: World) -> None:
    with Host(world) as host, refused("data_chunk_invalid", "out_of_order"):
        ready_for_data(host)
        header, chunks = host.pieces(0)
        send(host, 0, header, [(0, chunks[1])])


def test_dropped_last_chunk_never_trains(world: World) -> None:
    with Host(world) as host, refused("out_of_order"):
        ready_for_data(host)
        header, chunks = host.pieces(0)
        send(host, 0, header, [(0, chunks[0])])
        host.session.train(1)


def test_chunks_of_another_owner(world: World) -> None:
    with Host(world) as host, refused("data_chunk_invalid"):
        ready_for_data(host)
        header, _ = host.pieces(0)
        _, others = host.pieces(1)
        send(host, 0, header, list(enumerate(others)))


def test_files_of_owners_exchanged(world: World) -> None:
    with Host(world) as host, refused("data_header_invalid", "data_chunk_invalid"):
        ready_for_data(host)
        header, chunks = host.pieces(1)
        send(host, 0, header, list(enumerate(chunks)))


def test_another_dataset_of_the_same_owner(world: World, tmp_path: Path) -> None:
    """Sealed with the owner's own key, form and size, but not the file that the contract names."""
    owner = world.owners[0]
    key = Ledger(owner.store, lambda events, delta: 0.0).data_key(owner.digest)
    plain = b"".join(open_dataset(owner.sealed, key))
    records = np.frombuffer(plain, world.schema.record_dtype).copy()
    records["label"][0] = (records["label"][0] + 1) % 3
    owner.sealed = seal_dataset(lambda: iter([records]), world.schema, tmp_path / "other.sealed", key).path
    with Host(world) as host, refused("data_digest_mismatch"):
        host.run()


# Images, plans, contracts


def test_another_image(world: World, tmp_path: Path) -> None:
    """One byte of the initial parameters changed: it still runs, and is not what was signed."""
    content = bytearray(world.image.read_bytes())
    place = content.find(b"attacked")
    assert place > 0
    content[place] ^= 1
    world.image = tmp_path / "other.myelin"
    world.image.write_bytes(content)
    with Host(world) as host, refused("wrong_measurement"):
        host.run()


def test_another_image_under_a_contract_that_names_it_meets_no_policy_of_the_owners(world: World) -> None:
    """The host rewrites the contract for its own image; the signatures are then missing."""
    changed = dataclasses.replace(world.contract, measurement=bytes(32))
    with Host(world) as host, refused("signature_missing"):
        host.run(signed=world.sign(changed, skip=("north", "south")))


def test_another_plan(world: World) -> None:
    with Host(world) as host, refused("wrong_plan"):
        host.run(signed=world.changed(plan=bytes(32)))


@pytest.mark.parametrize(
    "field",
    [
        "noise_multiplier_e9",
        "clipping_norm_e9",
        "sensitivity_e9",
        "sampling_threshold",
        "capacity",
        "expected_batch_size",
        "steps",
        "parameters",
    ],
)
def test_another_mechanism(world: World, field: str) -> None:
    """All sign another mechanism than the image has."""
    event = dataclasses.replace(world.contract.event, **{field: getattr(world.contract.event, field) + 1})
    with Host(world) as host, refused("wrong_plan", "contract_malformed"):
        host.run(signed=world.changed(event=event))


@pytest.mark.parametrize("who", ["north", "south", "researcher"])
def test_one_signature_missing(world: World, who: str) -> None:
    signed = world.sign(world.contract, skip=(who,))
    with Host(world) as host, refused("signature_missing"):
        host.run(signed=signed)
    with Host(world) as host, refused("signature_missing"):
        host.bind()
        host.signed = signed
        host.grant(0)
    assert world.debits() == [0, 0]


def test_an_expired_contract(world: World) -> None:
    world.owners[0].clock = lambda: FAR_FUTURE_S + 1
    with Host(world) as host, refused("contract_expired"):
        host.run()
    assert world.debits() == [0, 0]


# Evidence, boots, brokers


def test_evidence_of_an_earlier_boot(world: World) -> None:
    with Host(world) as first:
        first.bind()
        request = first.release_request(world.owners[0])
        owner = world.owners[0]
        grant = owner.ask(**request)["grant"]
    with Host(world) as second:
        second.bind()
        keys = second.session.describe()
        replay = {**request, "hpke_key": keys.hpke_key, "signing_key": keys.signing_key}
        replay["nonce"] = owner.ask(verb="challenge")["nonce"]
        with refused("evidence_refused"):
            owner.ask(**replay)
        with refused("grant_unsealable"):
            second.session.grant(0, grant)
    assert world.debits() == [1, 0]


def test_evidence_for_another_nonce(world: World) -> None:
    owner = world.owners[0]
    with Host(world) as host:
        host.bind()
        request = host.release_request(owner)
        with refused("evidence_refused"):
            owner.ask(**{**request, "nonce": owner.ask(verb="challenge")["nonce"]})
        owner.ask(**request)
        with refused("nonce_unknown"):
            owner.ask(**request)
    assert world.debits() == [1, 0]


def test_a_nonce_does_not_outlive_its_broker(world: World) -> None:
    owner = world.owners[0]
    with Host(world) as host:
        host.bind()
        request = host.release_request(owner)
        owner.restart()
        with refused("nonce_unknown"):
            owner.ask(**request)
    assert world.debits() == [0, 0]


def test_the_same_boot_gets_the_same_answer_and_no_second_debit(world: World) -> None:
    owner = world.owners[0]
    with Host(world) as host:
        host.bind()
        first = owner.ask(**host.release_request(owner))
        owner.restart()
        again = owner.ask(**host.release_request(owner))
    assert (first["grant"], first["debited"], again["debited"]) == (again["grant"], True, False)
    assert world.debits() == [1, 0]


def test_a_grant_for_one_owner_is_none_for_another(world: World) -> None:
    with Host(world) as host, refused("grant_unsealable"):
        host.bind()
        owner = world.owners[0]
        host.session.grant(1, owner.ask(**host.release_request(owner))["grant"])


# Order, repetition, size


def test_every_message_out_of_order(world: World) -> None:
    """In each state every message that does not belong there is refused, and the run goes on to its end."""
    early: dict[str, Any] = {
        "attest": lambda s: s.attest(bytes(32), bytes(32)),
        "grant": lambda s: s.grant(0, bytes(1200)),
        "shares": lambda s: s.shares(),
        "deposited": lambda s: s.deposited(0, bytes(100)),
        "data_begin": lambda s: s.data_begin(0, world.owners[0].sealed.read_bytes()[:200]),
        "data_chunk": lambda s: s.data_chunk(0, bytes(100)),
        "train": lambda s: s.train(1),
        "release": lambda s: s.release(),
        "fetch": lambda s: s.fetch(0, 0, 1),
    }
    with Host(world) as host:
        for call in early.values():
            with refused("out_of_order"):
                call(host.session)
        host.bind()
        for name in early.keys() - {"attest", "grant"}:
            with refused("out_of_order"):
                early[name](host.session)
        host.grants()
        for name in ("deposited", "data_chunk", "train", "release", "fetch"):
            with refused("out_of_order"):
                early[name](host.session)
        host.deposits()
        for name in ("data_chunk", "train", "release", "fetch"):
            with refused("out_of_order"):
                early[name](host.session)
        host.data()
        for name in ("release", "fetch"):
            with refused("out_of_order"):
                early[name](host.session)
        host.session.train(1)
        with refused("out_of_order"):
            host.session.release()
        host.steps()
        assert len(host.outputs()) == 2


def test_messages_sent_twice(world: World) -> None:
    with Host(world) as host:
        host.bind()
        with refused("already_given"):
            host.bind()
        owner = world.owners[0]
        grant = owner.ask(**host.release_request(owner))["grant"]
        host.session.grant(0, grant)
        with refused("already_given"):
            host.session.grant(0, grant)
        host.grant(1)
        host.deposits()
        receipt_again = host.session.shares()
        assert [d.sealed for d in receipt_again.deposits] == [
            d.sealed for d in host.session.shares().deposits
        ]
        host.data()
        with refused("out_of_order", "already_given"):
            host.data()
        host.steps()
        assert host.outputs() == host.outputs()
    assert world.debits() == [1, 1]


def test_a_host_may_not_launch(world: World) -> None:
    with Host(world) as host:
        answer = decode(host.enclave.call(encode([0, bytes(32), 1])))
    assert isinstance(answer, list) and answer[:2] == [1, 202]


def test_truncated_messages(world: World) -> None:
    sent: list[bytes] = []
    with Host(world) as host:
        honest = host.enclave.call

        def record(message: bytes, timeout_s: float | None = None) -> bytes:
            sent.append(message)
            return honest(message, timeout_s)

        host.enclave.call = record  # type: ignore[method-assign]
        host.run()
    with Enclave.start(world.image, threads=1) as enclave:
        for message in sent:
            for cut in {1, len(message) // 2, len(message) - 1} - {0, len(message)}:
                answer = decode(enclave.call(message[:cut]))
                assert isinstance(answer, list) and answer[0] == 1 and answer[1] in (102, 103, 104), answer
        assert EnclaveSession(enclave).describe().state == "launched"


def test_oversized_messages(world: World) -> None:
    with Enclave.start(world.image, threads=1) as enclave:
        in_a_field = decode(enclave.call(encode([int(Code.GRANT), 0, bytes((1 << 20) - 16)])))
        as_a_whole = decode(enclave.call(bytes((1 << 20) + 1)))
        assert isinstance(in_a_field, list) and in_a_field[:2] in ([1, 101], [1, 201]), in_a_field
        assert isinstance(as_a_whole, list) and as_a_whole[:2] == [1, 101], as_a_whole
        assert EnclaveSession(enclave).describe().state == "launched"
