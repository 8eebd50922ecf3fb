"""Sealed datasets (protocol section 5): 64 KiB STREAM chunks under a key that only the owner's broker has."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from myelin.contract.files import replacing
from myelin.contract.records import Records
from myelin.contract.schema import DataSchema
from myelin.errors import InputError, ProtocolError
from myelin.wire import DIGEST_BYTES, Shape, decode, digest, encode, info

__all__ = [
    "CHUNK_BYTES",
    "DatasetHeader",
    "SealedDataset",
    "open_dataset",
    "read_dataset_header",
    "seal_dataset",
    "sealed_dataset",
]

CHUNK_BYTES = 65536
"""Plaintext bytes of every chunk but the last."""

_MAGIC = b"MYELDS01"
_TAG_BYTES = 16
_MOST_HEADER_BYTES = 4096
_MOST_RECORDS = 1 << 31
_REFUSAL = "data_header_invalid"
_KEYS = ("version", "schema", "records", "record_bytes", "chunk_bytes", "salt", "commitment")


@dataclass(frozen=True)
class DatasetHeader:
    """The public head of a sealed dataset: digest of its schema, record count, bytes a record, a salt, and a
    commitment to the data key.

    A chunk's tag alone does not say which key it was made with: one file could be made to open to different
    records under two keys. With the commitment, one digest stands for one set of records.
    """

    schema: bytes
    records: int
    record_bytes: int
    salt: bytes
    commitment: bytes

    @property
    def plaintext_bytes(self) -> int:
        """Bytes of all records."""
        return self.records * self.record_bytes

    @property
    def chunks(self) -> int:
        """Chunks that the records are cut into; at least one."""
        return -(-self.plaintext_bytes // CHUNK_BYTES)

    def to_bytes(self) -> bytes:
        """Deterministic CBOR of the header."""
        return encode(
            {
                "version": 1,
                "schema": self.schema,
                "records": self.records,
                "record_bytes": self.record_bytes,
                "chunk_bytes": CHUNK_BYTES,
                "salt": self.salt,
                "commitment": self.commitment,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> DatasetHeader:
        """Read a header; raises ``data_header_invalid``."""
        shape = Shape(_REFUSAL, _REFUSAL)
        value = decode(data, most_bytes=_MOST_HEADER_BYTES, refusal=_REFUSAL, what="dataset header")
        fields = shape.map(value, "dataset header", _KEYS)
        shape.uint(fields["version"], "dataset header, version", least=1, most=1)
        shape.uint(fields["chunk_bytes"], "dataset header, chunk_bytes", least=CHUNK_BYTES, most=CHUNK_BYTES)
        header = cls(
            shape.bytes(fields["schema"], "dataset header, schema", size=DIGEST_BYTES),
            shape.uint(fields["records"], "dataset header, records", least=1, most=_MOST_RECORDS),
            shape.uint(fields["record_bytes"], "dataset header, record_bytes", least=5, most=1 << 27),
            shape.bytes(fields["salt"], "dataset header, salt", size=32),
            shape.bytes(fields["commitment"], "dataset header, commitment", size=32),
        )
        if header.chunks > 1 << 32:
            raise shape.refuse("dataset header", f"at most {1 << 32} chunks", str(header.chunks))
        return header


@dataclass(frozen=True)
class SealedDataset:
    """A sealed file: where it is, the digest of the whole file, and its header."""

    path: Path
    digest: bytes
    header: DatasetHeader


def _derived(data_key: bytes, salt: bytes, context: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, context).derive(data_key)


def _commitment(data_key: bytes, salt: bytes) -> bytes:
    return _derived(data_key, salt, info("myelin/dataset-key/v1"))


def _cipher(data_key: bytes, header: DatasetHeader) -> ChaCha20Poly1305:
    context = info("myelin/dataset/v1", digest(header.to_bytes()))
    return ChaCha20Poly1305(_derived(data_key, header.salt, context))


def _nonce(index: int, last: bool) -> bytes:
    return bytes(7) + index.to_bytes(4, "big") + bytes([last])


def seal_dataset(
    read: Callable[[], Iterator[Records]],
    schema: DataSchema,
    out: str | Path,
    data_key: bytes,
    *,
    keep: Callable[[SealedDataset], None] = lambda sealed: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SealedDataset:
    """Seal the records that ``read()`` yields into the new file ``out``.

    ``read`` is called twice: once to check and count, before anything is written, and once to encrypt.
    ``keep`` is called when all is on disk but the file has no name yet: it must store the data key durably,
    so that no sealed file ever exists whose key is lost. ``progress`` gets records done and in all. Memory is
    bounded by the reader's block. Nothing is left behind on any failure.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"{out} exists and is not overwritten; choose another name or remove it")
    records = 0
    for block in read():
        records += len(block)
        progress(0, records)
    salt = os.urandom(32)
    header = DatasetHeader(schema.digest, records, schema.record_bytes, salt, _commitment(data_key, salt))
    raw = header.to_bytes()
    hasher = hashlib.sha256()
    with replacing(out, overwrite=False) as file:

        def write(data: bytes) -> None:
            hasher.update(data)
            file.write(data)

        write(_MAGIC + len(raw).to_bytes(4, "little") + raw)
        for chunk in _chunks(read(), header, _cipher(data_key, header), progress):
            write(chunk)
        sealed = SealedDataset(out, hasher.digest(), header)
        file.flush()
        os.fsync(file.fileno())
        keep(sealed)
    return sealed


def _chunks(
    blocks: Iterator[Records],
    header: DatasetHeader,
    cipher: ChaCha20Poly1305,
    progress: Callable[[int, int], None],
) -> Iterator[bytes]:
    """Encrypt, holding back what may be the last chunk, which is marked as such."""
    pending = bytearray()
    index = done = 0
    for block in blocks:
        pending += block.tobytes()
        done += len(block)
        while len(pending) > CHUNK_BYTES:
            yield cipher.encrypt(_nonce(index, False), bytes(pending[:CHUNK_BYTES]), None)
            del pending[:CHUNK_BYTES]
            index += 1
        progress(done, header.records)
    if done != header.records:
        raise InputError(
            f"the data changed while it was read: {header.records} records, then {done}; seal again"
        )
    yield cipher.encrypt(_nonce(index, True), bytes(pending), None)


def read_dataset_header(path: str | Path) -> tuple[DatasetHeader, bytes]:
    """Read the header of a sealed file: its content, and its bytes with magic and length as on disk."""
    try:
        with open(path, "rb") as file:
            start = file.read(12)
            length = int.from_bytes(start[8:12], "little")
            if start[:8] != _MAGIC or len(start) < 12 or length > _MOST_HEADER_BYTES:
                raise InputError(f"{path}: expected a sealed dataset, got a file that does not start as one")
            raw = file.read(length)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return DatasetHeader.from_bytes(raw), start + raw
    except ProtocolError as error:
        raise InputError(f"{path}: {error.detail}") from None


def sealed_dataset(path: str | Path) -> SealedDataset:
    """Read the public facts of a sealed file; its length must fit its header."""
    path = Path(path)
    header, raw = read_dataset_header(path)
    expected = len(raw) + header.plaintext_bytes + header.chunks * _TAG_BYTES
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
        size = file.tell()
    if size != expected:
        raise InputError(f"{path}: expected {expected} bytes for {header.records} records, got {size}")
    return SealedDataset(path, hasher.digest(), header)


def open_dataset(path: str | Path, data_key: bytes) -> Iterator[bytes]:
    """Decrypt a sealed file chunk by chunk, for its owner; raises ``data_header_invalid`` for another key,
    ``data_chunk_invalid``."""
    header, raw = read_dataset_header(path)
    if not hmac.compare_digest(header.commitment, _commitment(data_key, header.salt)):
        raise ProtocolError.named("data_header_invalid", f"{path}: sealed with another key")
    cipher = _cipher(data_key, header)
    left = header.plaintext_bytes
    with open(path, "rb") as file:
        file.seek(len(raw))
        for index in range(header.chunks):
            size = min(left, CHUNK_BYTES)
            left -= size
            try:
                yield cipher.decrypt(_nonce(index, left == 0), file.read(size + _TAG_BYTES), None)
            except InvalidTag:
                raise ProtocolError.named("data_chunk_invalid", f"{path}: chunk {index}") from None
        if file.read(1):
            raise ProtocolError.named("data_chunk_invalid", f"{path}: bytes after the last chunk")
