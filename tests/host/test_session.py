"""Typed calls: a sealed file in, outputs out, and files and answers that are not whole."""

from __future__ import annotations

import struct
from pathlib import Path

import cbor2
import pytest

from myelin.errors import HostError, InputError, ProtocolError
from myelin.host import EnclaveSession
from myelin.host.messages import MOST_FETCH_BYTES, Code

CHUNK_BYTES = 65_536 + 16


class Peer:
    """The data and output messages of an enclave, as far as the host can see them: order, lengths, bytes."""

    def __init__(self, chunks: int, outputs: list[bytes]) -> None:
        self.chunks = chunks
        self.outputs = outputs
        self.header = b""
        self.taken: list[bytes] = []

    def call(self, message: bytes, timeout_s: float | None = None) -> bytes:
        code, *fields = cbor2.loads(message)
        return cbor2.dumps(self.answer(code, *fields), canonical=True)

    def answer(self, code: int, *fields: object) -> list[object]:
        if code == Code.DATA_BEGIN:
            assert fields[0] == 2
            self.header = fields[1]  # type: ignore[assignment]
            return [0, self.chunks]
        if code == Code.DATA_CHUNK:
            if fields[0] != len(self.taken) or len(self.taken) == self.chunks:
                return [1, 201, f"chunk {fields[0]} is not next"]
            self.taken.append(fields[1])  # type: ignore[arg-type]
            return [0, self.chunks - len(self.taken)]
        if code == Code.FETCH:
            output, offset, length = fields
            assert length <= MOST_FETCH_BYTES  # type: ignore[operator]
            return [0, self.outputs[output][offset : offset + length]]  # type: ignore[index,operator]
        return [1, 104, "no such message"]


def sealed_file(path: Path, chunks: list[bytes], header: bytes = b"\xa0") -> Path:
    path.write_bytes(b"MYELDS01" + struct.pack("<I", len(header)) + header + b"".join(chunks))
    return path


CHUNKS = [bytes([1]) * CHUNK_BYTES, bytes([2]) * CHUNK_BYTES, bytes([3]) * 100]


def test_a_sealed_file_is_streamed_chunk_by_chunk(tmp_path: Path) -> None:
    peer, seen = Peer(3, []), list[tuple[int, int]]()
    path = sealed_file(tmp_path / "data", CHUNKS, b"\xa1\x00\x00")
    EnclaveSession(peer).send_dataset(2, path, lambda done, total: seen.append((done, total)))
    assert peer.header == b"MYELDS01\x03\0\0\0\xa1\x00\x00"
    assert peer.taken == CHUNKS
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_what_is_behind_the_last_chunk_is_the_enclaves_to_refuse(tmp_path: Path) -> None:
    path = sealed_file(tmp_path / "data", [*CHUNKS[:2], CHUNKS[0]])
    with pytest.raises(ProtocolError, match="chunk 2 is not next"):
        EnclaveSession(Peer(2, [])).send_dataset(2, path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a sealed dataset"),
        (b"MYELDS0", "is not a sealed dataset"),
        (b"MYELDS02" + bytes(100), "is not a sealed dataset"),
        (b"MYELDS01\xff\xff\xff\xff", "a header of 4294967295 bytes; at most 4096"),
        (b"MYELDS01\x08\0\0\0\xa0", "ends inside its header"),
        (b"MYELDS01\x01\0\0\0\xa0" + CHUNKS[0], "ends after 1 of 3 chunks"),
    ],
)
def test_a_file_that_is_not_whole_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        EnclaveSession(Peer(3, [])).send_dataset(2, path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: No such file"):
        EnclaveSession(Peer(3, [])).send_dataset(2, tmp_path / "none")


@pytest.mark.parametrize("length", [0, 1, MOST_FETCH_BYTES, MOST_FETCH_BYTES + 1, 3 * MOST_FETCH_BYTES])
def test_an_output_is_fetched_whole(length: int) -> None:
    output = bytes(i % 251 for i in range(length))
    seen: list[int] = []
    session = EnclaveSession(Peer(0, [b"other", output]))
    assert session.fetch_all(1, length, lambda done, total: seen.append(done)) == output
    assert seen[-1:] == ([length] if length else [])


def test_an_output_that_is_shorter_than_said_is_not_taken() -> None:
    with pytest.raises(HostError, match="output bytes: expected 10 bytes, got 5"):
        EnclaveSession(Peer(0, [b"short"])).fetch_all(0, 10)


def test_refusals_are_raised_with_their_number() -> None:
    session = EnclaveSession(Peer(0, []))
    for call in (session.describe, session.shares, session.release, lambda: session.train(1)):
        with pytest.raises(ProtocolError, match="unknown_message"):
            call()
