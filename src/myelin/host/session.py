"""The protocol with one enclave, as typed calls in the order of ``docs/protocol.md``."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from myelin.errors import InputError
from myelin.host import messages
from myelin.host.messages import Description, Shares

__all__ = ["EnclaveSession"]

_MAGIC = b"MYELDS01"
_PREFIX_BYTES = len(_MAGIC) + 4
_MOST_HEADER_BYTES = 4096
_CHUNK_BYTES = 65_536 + 16


class _Caller(Protocol):
    """What a session needs of an enclave."""

    def call(self, message: bytes, timeout_s: float | None = None) -> bytes: ...


class EnclaveSession:
    """Typed calls over anything with ``call(bytes) -> bytes``, as an :class:`~myelin.host.Enclave` has it.

    Every method raises :class:`~myelin.errors.ProtocolError` with the enclave's own number when it refuses,
    and :class:`~myelin.errors.HostError` when the enclave has ended or answers nothing readable. A refusal
    leaves the enclave's state as it was, unless it is fatal (its detail begins with ``fatal:``).
    """

    def __init__(self, enclave: _Caller) -> None:
        """Talk to ``enclave``; more than one session on it see the same state."""
        self._enclave = enclave

    def describe(self) -> Description:
        """Return the public keys of this boot, the plan's digest and the state. Allowed in any state."""
        return messages.read_description(self._enclave.call(messages.describe_request()))

    def bind_contract(self, contract: bytes, signatures: Sequence[bytes | None]) -> bytes:
        """Bind the contract, once; ``signatures`` by party, ``None`` where missing. Returns its digest."""
        return messages.read_digest(self._enclave.call(messages.contract_request(contract, signatures)))

    def attest(self, nonce: bytes, policy: bytes) -> bytes:
        """Return evidence (a CMW record) for a broker's 32-byte nonce and its policy's digest."""
        return messages.read_evidence(self._enclave.call(messages.attest_request(nonce, policy)))

    def grant(self, party: int, sealed: bytes) -> int:
        """Hand over an owner's grant. Returns how many owners are still missing."""
        return messages.read_count(self._enclave.call(messages.grant_request(party, sealed)))

    def shares(self) -> Shares:
        """Return the run and the deposits for the brokers; no deposits when the run is resumed."""
        return messages.read_shares(self._enclave.call(messages.shares_request()))

    def deposited(self, party: int, receipt: bytes) -> int:
        """Hand over a deposit's receipt. Returns how many receipts are still missing."""
        return messages.read_count(self._enclave.call(messages.deposited_request(party, receipt)))

    def data_begin(self, dataset: int, header: bytes) -> int:
        """Begin dataset ``dataset`` with its file's part before the chunks. Returns the number of chunks."""
        return messages.read_count(self._enclave.call(messages.data_begin_request(dataset, header)))

    def data_chunk(self, chunk: int, ciphertext: bytes) -> int:
        """Hand over one chunk, in order. Returns how many chunks are still missing."""
        return messages.read_count(self._enclave.call(messages.data_chunk_request(chunk, ciphertext)))

    def send_dataset(
        self, dataset: int, path: Path, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Stream a sealed dataset's file into the enclave, one chunk in memory at a time.

        ``progress`` is called with the chunks sent and the chunks in all, first with 0. Whatever the file
        holds behind its last chunk is sent too, for the enclave to refuse: the host does not judge the file.

        Raises ``InputError`` if the file cannot be read or does not begin as a sealed dataset.
        """
        try:
            with open(path, "rb") as file:
                total = self.data_begin(dataset, _header(file, path))
                progress(0, total)
                done = 0
                while chunk := file.read(_CHUNK_BYTES):
                    self.data_chunk(done, chunk)
                    done += 1
                    progress(done, total)
        except OSError as error:
            raise InputError(f"sealed dataset {path}: {error.strerror}") from None
        if done < total:
            raise InputError(f"sealed dataset {path} ends after {done} of {total} chunks; seal it again")

    def train(self, most_steps: int) -> tuple[int, int]:
        """Train at most ``most_steps`` steps now. Returns the steps done so far and the steps in all."""
        return messages.read_progress(self._enclave.call(messages.train_request(most_steps)))

    def release(self) -> tuple[int, ...]:
        """Open the release gate once all steps are done. Returns each output's length in bytes."""
        return messages.read_lengths(self._enclave.call(messages.release_request()))

    def fetch(self, output: int, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of an output from ``offset``; at most 512 KiB at a time."""
        answer = self._enclave.call(messages.fetch_request(output, offset, length))
        return messages.read_part(answer, length)

    def fetch_all(
        self, output: int, length: int, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> bytes:
        """Return a whole output of ``length`` bytes. ``progress`` gets the bytes fetched and in all."""
        content = bytearray()
        while len(content) < length:
            step = min(messages.MOST_FETCH_BYTES, length - len(content))
            content += self.fetch(output, len(content), step)
            progress(len(content), length)
        return bytes(content)


def _header(file: BinaryIO, path: Path) -> bytes:
    """The part of a sealed file before its chunks, by the length that the file itself gives."""
    prefix = file.read(_PREFIX_BYTES)
    if len(prefix) < _PREFIX_BYTES or not prefix.startswith(_MAGIC):
        raise InputError(f"{path} is not a sealed dataset; make one with `myelin seal`")
    (length,) = struct.unpack_from("<I", prefix, len(_MAGIC))
    if length > _MOST_HEADER_BYTES:
        raise InputError(f"{path}: a header of {length} bytes; at most {_MOST_HEADER_BYTES}")
    header = file.read(length)
    if len(header) < length:
        raise InputError(f"{path} ends inside its header; seal it again")
    return prefix + header
