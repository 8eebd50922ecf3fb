"""Sealed datasets: the format by hand, and refusal of every other order, place, length and key."""

import contextlib
import hashlib
import os

import cbor2
import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from myelin.contract import (
    DataSchema,
    DatasetHeader,
    open_dataset,
    read_dataset_header,
    seal_dataset,
    sealed_dataset,
)
from myelin.errors import InputError, ProtocolError

SCHEMA = DataSchema.model_validate(
    {"dtype": "uint8", "shape": [60], "lower": 0, "upper": 255, "label": {"classes": ["a", "b"]}}
)
KEY = bytes(range(32))


def block(count):
    records = np.zeros(count, SCHEMA.record_dtype)
    records["features"] = np.random.default_rng(1).integers(0, 256, (count, 60))
    return records


def sealed_file(tmp_path, count, split=700):
    records = block(count)

    def read():
        return iter(np.split(records, range(split, count, split)))

    return seal_dataset(read, SCHEMA, tmp_path / "d.sealed", KEY), records.tobytes()


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 2048, 3000])  # 1,024 records fill a chunk exactly
def test_round_trip(tmp_path, count):
    sealed, plain = sealed_file(tmp_path, count)
    assert b"".join(open_dataset(sealed.path, KEY)) == plain
    again = sealed_dataset(sealed.path)
    assert again == sealed
    assert sealed.digest == hashlib.sha256(sealed.path.read_bytes()).digest()
    assert sealed.header.chunks == -(-count * 64 // 65536)


def test_format_by_hand(tmp_path):
    """Sealed from the protocol's text alone, section 5."""
    sealed, plain = sealed_file(tmp_path, 1500)
    raw = sealed.path.read_bytes()
    length = int.from_bytes(raw[8:12], "little")
    header_bytes = raw[12 : 12 + length]
    header = cbor2.loads(header_bytes)
    assert raw[:8] == b"MYELDS01"
    assert header == {
        "version": 1, "schema": SCHEMA.digest, "records": 1500, "record_bytes": 64, "chunk_bytes": 65536,
        "salt": header["salt"],
        "commitment": HKDF(
            hashes.SHA256(), 32, header["salt"], cbor2.dumps(["myelin/dataset-key/v1"])
        ).derive(KEY),
    }  # fmt: skip
    context = cbor2.dumps(["myelin/dataset/v1", hashlib.sha256(header_bytes).digest()])
    key = HKDF(hashes.SHA256(), 32, header["salt"], context).derive(KEY)
    body = raw[12 + length :]
    first = ChaCha20Poly1305(key).encrypt(bytes(7) + bytes(4) + b"\0", plain[:65536], None)
    last = ChaCha20Poly1305(key).encrypt(bytes(7) + b"\0\0\0\1" + b"\1", plain[65536:], None)
    assert body == first + last


def test_every_other_arrangement_of_chunks_is_refused(tmp_path):
    sealed, _ = sealed_file(tmp_path, 2500)
    raw = sealed.path.read_bytes()
    start = 12 + int.from_bytes(raw[8:12], "little")
    size = 65552
    a, b, c = raw[start : start + size], raw[start + size : start + 2 * size], raw[start + 2 * size :]
    for order in (
        [b, a, c],
        [a, a, c],
        [a, c],
        [a, b],
        [a, b, b],
        [a, b, c, b"x"],
        [a, b, c[:-1]],
        [c, b, a],
        [],
    ):
        (tmp_path / "x").write_bytes(raw[:start] + b"".join(order))
        with pytest.raises(ProtocolError, match="data_chunk_invalid"):
            list(open_dataset(tmp_path / "x", KEY))
    other = seal_dataset(lambda: iter([block(2500)]), SCHEMA, tmp_path / "other", KEY).path.read_bytes()
    (tmp_path / "x").write_bytes(raw[:start] + other[start : start + size] + b + c)  # same key, another file
    with pytest.raises(ProtocolError, match="data_chunk_invalid"):
        list(open_dataset(tmp_path / "x", KEY))


def test_flipped_bits(tmp_path):
    sealed, plain = sealed_file(tmp_path, 20)
    raw = sealed.path.read_bytes()
    for place in range(0, len(raw), 7):
        flipped = bytearray(raw)
        flipped[place] ^= 0x10
        (tmp_path / "x").write_bytes(flipped)
        with pytest.raises((ProtocolError, InputError)):
            list(open_dataset(tmp_path / "x", KEY))
        with contextlib.suppress(InputError):
            assert sealed_dataset(tmp_path / "x").digest != sealed.digest
    assert len(plain) == 1280


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_header_is_read_whole_or_refused(data):
    try:
        assert DatasetHeader.from_bytes(data).to_bytes() == data
    except ProtocolError as error:
        assert error.name == "data_header_invalid"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"records": 0},
        {"records": (1 << 31) + 1},
        {"record_bytes": 4},
        {"record_bytes": 1 << 40},
        {"chunk_bytes": 65535},
        {"salt": bytes(31)},
        {"commitment": bytes(33)},
        {"schema": bytes(33)},
        {"records": 1 << 31, "record_bytes": 1 << 27},
        {"extra": 1},
    ],
)
def test_headers_out_of_range(change):
    header = {
        "version": 1, "schema": bytes(32), "records": 1, "record_bytes": 5, "chunk_bytes": 65536,
        "salt": bytes(32), "commitment": bytes(32),
    }  # fmt: skip
    DatasetHeader.from_bytes(cbor2.dumps(header, canonical=True))
    with pytest.raises(ProtocolError, match="data_header_invalid"):
        DatasetHeader.from_bytes(cbor2.dumps({**header, **change}, canonical=True))


def _poly1305_key(key, nonce):
    """The one-time key of RFC 8439, section 2.6: r, clamped, and s."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(4) + nonce), mode=None).encryptor()
    block = cipher.update(bytes(32))
    r = int.from_bytes(block[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    return r, int.from_bytes(block[16:], "little")


def _opens_under_both(keys, nonce, size):
    """Ciphertext and tag that ChaCha20-Poly1305 accepts under both keys: one block solves for equal tags."""
    prime, seed = (1 << 130) - 5, 0
    one_time = [_poly1305_key(key, nonce) for key in keys]
    while True:
        seed += 1
        body = hashlib.shake_256(seed.to_bytes(4, "big")).digest(size - 16)
        blocks = [bytes(16), *(body[i : i + 16] for i in range(0, len(body), 16))]
        lengths = bytes(8) + size.to_bytes(8, "little")
        numbers = [int.from_bytes(b, "little") + (1 << 128) for b in (*blocks, lengths)]
        numbers[0] = 0
        sums = [sum(n * pow(r, len(numbers) - i, prime) for i, n in enumerate(numbers)) for r, _ in one_time]
        powers = [pow(r, len(numbers), prime) for r, _ in one_time]
        for wraps in range(-4, 5):
            wanted = sums[1] + one_time[1][1] - sums[0] - one_time[0][1] + (wraps << 128)
            free = wanted * pow(powers[0] - powers[1], -1, prime) % prime - (1 << 128)
            if not 0 <= free < 1 << 128:
                continue
            tags = {
                ((total + (free + (1 << 128)) * power) % prime + s) % (1 << 128)
                for total, power, (_, s) in zip(sums, powers, one_time, strict=True)
            }
            if len(tags) == 1:
                return free.to_bytes(16, "little") + body + tags.pop().to_bytes(16, "little")


def test_one_file_does_not_open_under_two_keys(tmp_path):
    """What the cipher alone allows: one ciphertext, one digest, other records under another key."""
    keys = [KEY, bytes(32)]
    salt, nonce = bytes(32), bytes(11) + b"\1"

    def derived(key, *context):
        return HKDF(hashes.SHA256(), 32, salt, cbor2.dumps(list(context))).derive(key)

    header = DatasetHeader(SCHEMA.digest, 4, 64, salt, derived(KEY, "myelin/dataset-key/v1"))
    raw = header.to_bytes()
    chunk_keys = [derived(key, "myelin/dataset/v1", hashlib.sha256(raw).digest()) for key in keys]
    chunk = _opens_under_both(chunk_keys, nonce, 4 * 64)
    opened = [ChaCha20Poly1305(key).decrypt(nonce, chunk, None) for key in chunk_keys]
    assert opened[0] != opened[1]

    path = tmp_path / "two.sealed"
    path.write_bytes(b"MYELDS01" + len(raw).to_bytes(4, "little") + raw + chunk)
    assert list(open_dataset(path, keys[0])) == [opened[0]]
    with pytest.raises(ProtocolError, match="data_header_invalid"):
        list(open_dataset(path, keys[1]))


def test_files_that_are_no_sealed_dataset(tmp_path):
    for content in (b"", b"MYELDS01", b"MYELDS01" + b"\xff" * 4, b"x" * 100, b"MYELDS01\x02\0\0\0\xa0\xa0"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(InputError):
            read_dataset_header(tmp_path / "x")
    with pytest.raises(InputError, match="cannot be read"):
        read_dataset_header(tmp_path / "none")


def test_a_failure_at_the_end_leaves_nothing(tmp_path):
    def keep(sealed):
        assert os.listdir(tmp_path)  # the temporary file is complete by now
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal_dataset(lambda: iter([block(9)]), SCHEMA, tmp_path / "d.sealed", KEY, keep=keep)
    assert os.listdir(tmp_path) == []
