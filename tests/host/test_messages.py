"""Messages between host and enclave: known answers, and what is not an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myelin.errors import HostError, ProtocolError
from myelin.host import Deposit, Description, Shares, messages

KNOWN_REQUESTS: dict[str, tuple[bytes, str]] = {
    "describe": (messages.describe_request(), "81 01"),
    "contract": (messages.contract_request(b"\xc0", [b"\x01\x02", None]), "83 02 41c0 82 420102 f6"),
    "attest": (messages.attest_request(b"nn", b"pp"), "83 03 426e6e 427070"),
    "grant": (messages.grant_request(2, b"g"), "83 04 02 4167"),
    "shares": (messages.shares_request(), "81 05"),
    "deposited": (messages.deposited_request(31, b"r"), "83 06 181f 4172"),
    "data_begin": (messages.data_begin_request(0, b"h"), "83 07 00 4168"),
    "data_chunk": (messages.data_chunk_request(70_000, b"c" * 24), "83 08 1a00011170 5818" + "63" * 24),
    "train": (messages.train_request(300), "82 09 19012c"),
    "release": (messages.release_request(), "81 0a"),
    "fetch": (messages.fetch_request(1, 1 << 32, 524_288), "84 0b 01 1b0000000100000000 1a00080000"),
}


@pytest.mark.parametrize("name", KNOWN_REQUESTS)
def test_requests_are_these_bytes(name: str) -> None:
    request, known = KNOWN_REQUESTS[name]
    assert request == bytes.fromhex(known)


def answer(*items: object) -> bytes:
    return cbor2.dumps(list(items), canonical=True)


@pytest.mark.parametrize("read", [messages.read_evidence, messages.read_lengths])
def test_evidence_that_nobody_here_can_make_says_what_to_do(read: Callable[[bytes], Any]) -> None:
    with pytest.raises(
        HostError, match=r"nothing that runs it here vouches.*tdx, snp, sgx or nitro.*rehearsal"
    ):
        read(answer(2, bytes(64)))
    for bent in (answer(2, bytes(63)), answer(2), answer(2, bytes(64), 0), answer(3, bytes(64))):
        with pytest.raises(HostError, match="not of its form"):
            read(bent)


HPKE, SIGNING, DIGEST = bytes(1216), bytes(65), bytes(32)
READERS: dict[str, tuple[Callable[[bytes], Any], bytes, object]] = {
    "description": (
        messages.read_description,
        answer(0, HPKE, SIGNING, DIGEST, "waiting for a contract"),
        Description(HPKE, SIGNING, DIGEST, "waiting for a contract"),
    ),
    "digest": (messages.read_digest, answer(0, DIGEST), DIGEST),
    "evidence": (messages.read_evidence, answer(0, b"cmw"), b"cmw"),
    "count": (messages.read_count, answer(0, 3), 3),
    "shares": (
        messages.read_shares,
        answer(0, DIGEST, [[1, b"s", b"c"]]),
        Shares(DIGEST, (Deposit(1, b"s", b"c"),)),
    ),
    "no shares": (messages.read_shares, answer(0, DIGEST, []), Shares(DIGEST, ())),
    "progress": (messages.read_progress, answer(0, 7, 200), (7, 200)),
    "lengths": (messages.read_lengths, answer(0, [5, 0, 1 << 33]), (5, 0, 1 << 33)),
    "part": (lambda data: messages.read_part(data, 2), answer(0, b"ab"), b"ab"),
}


@pytest.mark.parametrize("name", READERS)
def test_answers_are_read(name: str) -> None:
    read, data, value = READERS[name]
    assert read(data) == value


@pytest.mark.parametrize("name", READERS)
def test_a_refusal_carries_the_enclaves_own_number(name: str) -> None:
    with pytest.raises(ProtocolError, match=r"^out_of_order \(201\): train before the data$") as caught:
        READERS[name][0](answer(1, 201, "train before the data"))
    assert (caught.value.number, caught.value.name) == (201, "out_of_order")


def test_what_a_refusal_says_is_cut_and_made_printable() -> None:
    with pytest.raises(ProtocolError) as caught:
        messages.read_count(answer(1, 102, "\x1b[31m" + "x" * 10_000))
    assert len(caught.value.detail) <= 512
    assert caught.value.detail.isprintable()


NOT_ANSWERS: dict[str, tuple[str, bytes]] = {
    "nothing": ("count", b""),
    "not an array": ("count", b"\x00"),
    "an empty array": ("count", b"\x80"),
    "another status": ("count", answer(2, 0)),
    "a status that is true": ("count", answer(True, 3)),
    "too few results": ("progress", answer(0, 7)),
    "too many results": ("count", answer(0, 3, 3)),
    "bytes behind the end": ("count", answer(0, 3) + b"\x00"),
    "an integer in its longer form": ("count", b"\x82\x00\x18\x03"),
    "an array without a length": ("count", b"\x9f\x00\x03\xff"),
    "a negative count": ("count", answer(0, -1)),
    "a count that is text": ("count", answer(0, "3")),
    "a count that is a float": ("count", answer(0, 3.0)),
    "a short key": ("description", answer(0, HPKE[1:], SIGNING, DIGEST, "state")),
    "a long digest": ("digest", answer(0, DIGEST + b"\0")),
    "a state with control characters": ("description", answer(0, HPKE, SIGNING, DIGEST, "\x1b[2J")),
    "more steps done than there are": ("progress", answer(0, 201, 200)),
    "a share of four": ("shares", answer(0, DIGEST, [[1, b"s", b"c", b"x"]])),
    "a share of nobody": ("shares", answer(0, DIGEST, [[32, b"s", b"c"]])),
    "more shares than parties": ("shares", answer(0, DIGEST, [[1, b"s", b"c"]] * 33)),
    "more outputs than parties": ("lengths", answer(0, [1] * 34)),
    "fewer bytes than asked for": ("part", answer(0, b"a")),
    "more bytes than asked for": ("part", answer(0, b"abc")),
    "a refusal without detail": ("count", answer(1, 201)),
    "a refusal whose detail is bytes": ("count", answer(1, 201, b"x")),
    "a refusal without a number": ("count", answer(1, "201", "x")),
}


@pytest.mark.parametrize("name", NOT_ANSWERS)
def test_what_is_not_an_answer_is_refused(name: str) -> None:
    reader, data = NOT_ANSWERS[name]
    with pytest.raises(HostError, match=r"^the enclave's answer is not of its form: "):
        READERS[reader][0](data)


@given(st.binary(max_size=200), st.sampled_from(sorted(READERS)))
def test_any_bytes_give_a_named_error(data: bytes, name: str) -> None:
    try:
        READERS[name][0](data)
    except (HostError, ProtocolError):
        return
    assert data[1:2] == b"\x00"


@given(st.data(), st.sampled_from(sorted(READERS)))
def test_a_changed_answer_gives_a_value_or_a_named_error(data: st.DataObject, name: str) -> None:
    read, original, _ = READERS[name]
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(changed))
    except (HostError, ProtocolError) as error:
        assert str(error)
