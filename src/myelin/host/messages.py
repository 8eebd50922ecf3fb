"""The host's side of every message between host and enclave (``docs/protocol.md`` section 6).

For each message but ``launch`` and ``evidence``, which are the loader's, one function that encodes the
request and one that decodes the answer's results. An answer that says an error raises
:class:`~myelin.errors.ProtocolError` with the enclave's own number; an answer that is not of its form raises
:class:`~myelin.errors.HostError`, since whoever sent it is not an enclave that keeps to the protocol. An
answer that wants evidence reaches a host only where nothing answers it on the way, and raises
:class:`~myelin.errors.HostError` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from myelin.errors import HostError, ProtocolError
from myelin.wire import DIGEST_BYTES, SEALING_KEY_BYTES, SIGNING_KEY_BYTES, Shape, Value, decode, encode

__all__ = [
    "MOST_FETCH_BYTES",
    "Code",
    "Deposit",
    "Description",
    "Shares",
    "attest_request",
    "contract_request",
    "data_begin_request",
    "data_chunk_request",
    "deposited_request",
    "describe_request",
    "fetch_request",
    "grant_request",
    "read_count",
    "read_description",
    "read_digest",
    "read_evidence",
    "read_lengths",
    "read_part",
    "read_progress",
    "read_shares",
    "release_request",
    "shares_request",
    "train_request",
]

MOST_FETCH_BYTES = 512 * 1024
"""Most bytes that one ``fetch`` asks for."""

_MOST_PARTIES = 32
_MOST_OUTPUTS = _MOST_PARTIES + 1
_MOST_DETAIL_CHARACTERS = 512
_SHAPE = Shape()
_REFUSED, _EVIDENCE_WANTED = 1, 2
_REPORT_DATA_BYTES = 64
_NOBODY_VOUCHES = (
    "the image wants evidence, and nothing that runs it here vouches for anything: run it on tdx, snp, sgx "
    "or nitro (`myelin host IMAGE` says what this machine has), or, for a rehearsal, build it with "
    "`myelin build --attester simulated`"
)


class Code(IntEnum):
    """The messages' codes. ``launch`` (0) and ``evidence`` (12) are missing: a host that sends one is
    refused."""

    DESCRIBE = 1
    CONTRACT = 2
    ATTEST = 3
    GRANT = 4
    SHARES = 5
    DEPOSITED = 6
    DATA_BEGIN = 7
    DATA_CHUNK = 8
    TRAIN = 9
    RELEASE = 10
    FETCH = 11


@dataclass(frozen=True)
class Description:
    """What an enclave says of itself: this boot's two public keys, its plan's digest, its state's name."""

    hpke_key: bytes
    signing_key: bytes
    plan_digest: bytes
    state: str


@dataclass(frozen=True)
class Deposit:
    """One owner's sealed share of the job key, signed by the enclave, for that owner's broker to keep."""

    party: int
    sealed: bytes
    signature: bytes


@dataclass(frozen=True)
class Shares:
    """The run's name (its first boot's id) and the deposits, one per owner; none when the run is resumed."""

    run: bytes
    deposits: tuple[Deposit, ...]


def describe_request() -> bytes:
    """Ask for the keys of this boot, the plan's digest and the state."""
    return encode([Code.DESCRIBE.value])


def contract_request(contract: bytes, signatures: Sequence[bytes | None]) -> bytes:
    """Bind a contract: its bytes and every party's detached signature, in order of party."""
    return encode([Code.CONTRACT.value, contract, list(signatures)])


def attest_request(nonce: bytes, policy: bytes) -> bytes:
    """Ask for evidence for key release: the broker's nonce and its policy's digest."""
    return encode([Code.ATTEST.value, nonce, policy])


def grant_request(party: int, sealed: bytes) -> bytes:
    """Hand over an owner's grant."""
    return encode([Code.GRANT.value, party, sealed])


def shares_request() -> bytes:
    """Ask for the deposits."""
    return encode([Code.SHARES.value])


def deposited_request(party: int, receipt: bytes) -> bytes:
    """Hand over a broker's receipt for its deposit."""
    return encode([Code.DEPOSITED.value, party, receipt])


def data_begin_request(dataset: int, header: bytes) -> bytes:
    """Begin a sealed dataset: its index in the contract and the file's first part up to the chunks."""
    return encode([Code.DATA_BEGIN.value, dataset, header])


def data_chunk_request(chunk: int, ciphertext: bytes) -> bytes:
    """Hand over one chunk of the dataset that was begun."""
    return encode([Code.DATA_CHUNK.value, chunk, ciphertext])


def train_request(most_steps: int) -> bytes:
    """Train at most ``most_steps`` steps now."""
    return encode([Code.TRAIN.value, most_steps])


def release_request() -> bytes:
    """Ask for the outputs' lengths: the certificate, then a sealed model per recipient."""
    return encode([Code.RELEASE.value])


def fetch_request(output: int, offset: int, length: int) -> bytes:
    """Ask for ``length`` bytes of an output, at most :data:`MOST_FETCH_BYTES`."""
    return encode([Code.FETCH.value, output, offset, length])


def _unreadable(why: str) -> HostError:
    return HostError(f"the enclave's answer is not of its form: {why}")


def _results(answer: bytes, count: int) -> list[Value]:
    """The ``count`` results of an answer, or its error raised."""
    try:
        items = _SHAPE.array(decode(answer, what="answer"), "answer")
        status = _SHAPE.uint(items[0] if items else None, "answer, status", most=_EVIDENCE_WANTED)
        _SHAPE.array(items, "answer", size={_REFUSED: 3, _EVIDENCE_WANTED: 2}.get(status, count + 1))
        if status == _EVIDENCE_WANTED:
            _SHAPE.bytes(items[1], "answer, report data", size=_REPORT_DATA_BYTES)
            raise HostError(_NOBODY_VOUCHES)
        number = _SHAPE.uint(items[1], "answer, error number", most=999) if status == _REFUSED else None
    except ProtocolError as error:
        raise _unreadable(error.detail) from None
    if number is None:
        return items[1:]
    detail = items[2]
    if not isinstance(detail, str):
        raise _unreadable("answer, error detail: expected text")
    shown = "".join(c if c.isprintable() else "?" for c in detail[:_MOST_DETAIL_CHARACTERS])
    raise ProtocolError(number, shown)


class _Refused(Shape):
    """The same checks, for what the enclave answers: its form is the host's problem, not the protocol's."""

    def refuse(self, what: str, expected: str, got: str) -> ProtocolError:
        raise _unreadable(f"{what}: expected {expected}, got {got}")


_ANSWER = _Refused()


def read_description(answer: bytes) -> Description:
    """Read the answer to ``describe``."""
    hpke, signing, plan, state = _results(answer, 4)
    return Description(
        hpke_key=_ANSWER.bytes(hpke, "hpke_pk", size=SEALING_KEY_BYTES),
        signing_key=_ANSWER.bytes(signing, "signing_pk", size=SIGNING_KEY_BYTES),
        plan_digest=_ANSWER.bytes(plan, "plan digest", size=DIGEST_BYTES),
        state=_ANSWER.text(state, "state name"),
    )


def read_digest(answer: bytes) -> bytes:
    """Read the answer to ``contract``: the contract's digest."""
    (digest,) = _results(answer, 1)
    return _ANSWER.bytes(digest, "contract digest", size=DIGEST_BYTES)


def read_evidence(answer: bytes) -> bytes:
    """Read the answer to ``attest``: the evidence in its envelope."""
    (evidence,) = _results(answer, 1)
    return _ANSWER.bytes(evidence, "evidence")


def read_count(answer: bytes) -> int:
    """Read an answer that is one number: owners, receipts or chunks still missing, or a dataset's chunks."""
    (count,) = _results(answer, 1)
    return _ANSWER.uint(count, "count")


def read_shares(answer: bytes) -> Shares:
    """Read the answer to ``shares``."""
    run, items = _results(answer, 2)
    deposits = []
    for item in _ANSWER.array(items, "shares", most=_MOST_PARTIES):
        party, sealed, signature = _ANSWER.array(item, "share", size=3)
        deposits.append(
            Deposit(
                party=_ANSWER.uint(party, "share, party id", most=_MOST_PARTIES - 1),
                sealed=_ANSWER.bytes(sealed, "share, sealed"),
                signature=_ANSWER.bytes(signature, "share, signature"),
            )
        )
    return Shares(run=_ANSWER.bytes(run, "run", size=DIGEST_BYTES), deposits=tuple(deposits))


def read_progress(answer: bytes) -> tuple[int, int]:
    """Read the answer to ``train``: steps done, steps in all."""
    done, total = _results(answer, 2)
    most = _ANSWER.uint(total, "steps in all")
    return _ANSWER.uint(done, "steps done", most=most), most


def read_lengths(answer: bytes) -> tuple[int, ...]:
    """Read the answer to ``release``: each output's length in bytes."""
    (lengths,) = _results(answer, 1)
    return tuple(
        _ANSWER.uint(length, "output length")
        for length in _ANSWER.array(lengths, "outputs", most=_MOST_OUTPUTS)
    )


def read_part(answer: bytes, length: int) -> bytes:
    """Read the answer to ``fetch``: exactly the ``length`` bytes that were asked for."""
    (part,) = _results(answer, 1)
    return _ANSWER.bytes(part, "output bytes", size=length)
