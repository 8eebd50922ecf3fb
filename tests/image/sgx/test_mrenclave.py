"""MRENCLAVE, the enclave's layout and SIGSTRUCT, against values of an implementation that is not ours."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from pathlib import Path

import capstone
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from elf_file import BASE, EXECUTE, READ, SEGMENTS, WRITE, elf_file
from hypothesis import given, settings
from hypothesis import strategies as st

from myelin.errors import InputError
from myelin.image.runtime import enclave_source
from myelin.image.sgx import (
    ENCLAVE_BYTES,
    PageRun,
    enclave_pages,
    make_key,
    mrenclave,
    read_enclave,
    read_key,
    read_sigstruct,
    sign_enclave,
    trampoline_page,
)

TCS, REGULAR = 0x100, 0x200

IMAGE_MRENCLAVE = "62a7c45be45e5e4f53171f50393f395ae05f935649c95b5076e5bb799f50870f"
"""Of ``elf_file()``: computed by the Rust crate sgxs 0.9.0 (Fortanix) from the pages, with its own TCS and
records. It depends on the trampoline: whoever changes that has to have it computed again."""


def by_the_manual(runs: tuple[PageRun, ...], size: int, ssa_frame_pages: int) -> bytes:
    """The measurement once more, as the manual writes it: record by record."""
    digest = hashlib.sha256(b"ECREATE\0" + struct.pack("<IQ", ssa_frame_pages, size) + bytes(44))
    for run in runs:
        content = run.content.ljust(run.size, b"\0")
        for page in range(0, run.size, 4096):
            digest.update(b"EADD".ljust(8, b"\0") + struct.pack("<QQ", run.address + page, run.flags))
            digest.update(bytes(40))
            for chunk in range(page, page + 4096, 256):
                digest.update(b"EEXTEND\0" + struct.pack("<Q", run.address + chunk) + bytes(48))
                digest.update(content[chunk : chunk + 256])
    return digest.digest()


def test_an_independent_implementation_measures_the_same() -> None:
    assert mrenclave(enclave_pages(elf_file())).hex() == IMAGE_MRENCLAVE


@given(
    st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=9000), st.sampled_from([0x201, 0x203, 0x205]))),
    st.integers(12, 40),
    st.integers(1, 3),
)
@settings(deadline=None, max_examples=30)
def test_measured_as_the_manual_writes_it(
    parts: list[tuple[int, bytes, int]], log_size: int, frames: int
) -> None:
    runs, address = [], 0
    for pages, content, flags in parts:
        runs.append(PageRun(address, pages * 4096, flags, content[: pages * 4096]))
        address += (pages + 1) * 4096
    expected = by_the_manual(tuple(runs), 1 << log_size, frames)
    assert mrenclave(runs, 1 << log_size, frames) == expected


def test_a_run_longer_than_one_batch_is_measured_whole() -> None:
    long = PageRun(BASE, 4096 * 2100, 0x203, b"x" * (4096 * 1500 + 5))
    assert mrenclave([long]) == by_the_manual((long,), ENCLAVE_BYTES, 1)


def test_pages_are_in_order_apart_and_never_writable_and_executable() -> None:
    runs = enclave_pages(elf_file())
    end = 0
    for run in runs:
        assert run.address >= end
        assert run.address % 4096 == run.size % 4096 == 0
        assert len(run.content) <= run.size
        assert run.flags & 6 != 6
        end = run.address + run.size
    assert end <= ENCLAVE_BYTES
    assert [run.flags for run in runs].count(TCS) == 16
    image = [run for run in runs if run.address >= BASE]
    assert [(run.address, run.content) for run in image] == [(s[0], s[3]) for s in SEGMENTS]


def test_a_slot_is_thread_control_one_save_area_and_a_stack_with_a_hole_below() -> None:
    runs = {run.address: run for run in enclave_pages(elf_file()) if run.address < BASE}
    for slot in range(16):
        at = 0x0801_0000 + slot * 0x4000
        fields = struct.unpack("<QQQIIQQQQII", runs[at].content)
        assert fields == (0, 0, at + 0x1000, 0, 1, 0x0800_0000, 0, 0, 0, 0, 0)
        assert runs[at + 0x1000].flags == runs[at + 0x3000].flags == REGULAR | 3
        assert at + 0x2000 not in runs


def test_the_trampoline_knows_the_image_s_addresses() -> None:
    page = enclave_pages(elf_file())[0]
    assert (page.address, page.flags) == (0x0800_0000, REGULAR | 5)
    assert struct.unpack_from("<QQ", page.content, 0xFF0) == (BASE + 0x10, BASE + 0x3000)


def test_the_trampoline_is_its_source_assembled(tmp_path: Path) -> None:
    source = enclave_source() / "sgx" / "trampoline.s"
    subprocess.run(["cc", "-c", source, "-o", tmp_path / "t.o"], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", tmp_path / "t.o", tmp_path / "t"], check=True)
    assert (tmp_path / "t").read_bytes() == trampoline_page(0, 0)


def test_the_trampoline_reaches_the_processor_s_enclave_functions_and_nothing_else() -> None:
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    code = trampoline_page(0, 0)[: 0x102 + 1]
    listing = [row[2:] for row in disassembler.disasm_lite(code, 0x0800_0000)]
    names = [name for name, _ in listing]
    assert names[-1] == "ud2"
    assert names.count("enclu") == 2
    before = [listing[place - 1] for place, name in enumerate(names) if name == "enclu"]
    assert before == [("mov", "eax, 0"), ("mov", "eax, 4")]
    allowed = "cld test jne lea cmp mov push popfq shr je lfence ja sub call jmp add xor enclu pop ud2"
    assert set(names) <= {*allowed.split(), "rep movsq"}
    assert set(trampoline_page(0, 0)[0x103:0xFF0]) == {0xCC}


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ((*SEGMENTS[:2],), "report data"),
        ((SEGMENTS[0], (BASE + 0x2000, 0x1000, READ | WRITE, b"short")), "report data"),
        (((BASE + 1, 0x1000, READ | EXECUTE, b"x" * 99), SEGMENTS[2]), "form"),
        (((BASE, 0x10, READ | EXECUTE, b"x" * 99), SEGMENTS[2]), "form"),
        (((BASE, 0x1000, READ | EXECUTE | WRITE, b"x" * 99), SEGMENTS[2]), "writable and executable"),
        ((SEGMENTS[0], (BASE + 0x1000, 0x1000, READ | WRITE, b"r" * 64)), "overlaps"),
        ((SEGMENTS[0], (BASE + 0x3000, 0x7000_0000, READ | WRITE, b"r" * 64)), "outside"),
        (((BASE - 0x1000, 0x1000, READ | EXECUTE, b"x" * 99), SEGMENTS[2]), "outside"),
        (((BASE, 0x1000, READ, b"x" * 99), SEGMENTS[2]), "entry"),
    ],
)
def test_what_is_no_image_is_refused(segments: tuple[tuple[int, int, int, bytes], ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        enclave_pages(elf_file(segments))


@given(st.binary(max_size=600))
@settings(deadline=None)
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        enclave_pages(data)


@given(st.integers(0, 400), st.integers(0, 255))
@settings(deadline=None)
def test_an_image_with_a_wrong_byte_in_its_headers_is_measured_or_refused(place: int, value: int) -> None:
    data = bytearray(elf_file(SEGMENTS[:3]))
    data[place] = value
    try:
        runs = enclave_pages(bytes(data))
    except InputError:
        return
    assert all(len(run.content) <= run.size for run in runs)


def test_an_image_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(elf_file())
    enclave = read_enclave(path)
    assert enclave.mrenclave.hex() == IMAGE_MRENCLAVE
    assert (enclave.attributes, enclave.xfrm) == (4, 7)
    assert enclave.image == hashlib.sha256(path.read_bytes()).digest()
    path.write_bytes(elf_file(manifest=b"\xa1\x66target\x69x86-64-v4"))
    assert read_enclave(path).xfrm == 0xE7
    path.write_bytes(elf_file(manifest=b"\xa1\x66target\x69x86-64-v9"))
    with pytest.raises(InputError, match="x86-64-v9"):
        read_enclave(path)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return read_key(make_key())


def test_signing_is_deterministic_and_reads_back(key: rsa.RSAPrivateKey) -> None:
    made = sign_enclave(b"m" * 32, key, attributes=4, xfrm=7, product_id=0x1234, security_version=7)
    assert made == sign_enclave(b"m" * 32, key, attributes=4, xfrm=7, product_id=0x1234, security_version=7)
    read = read_sigstruct(made)
    assert (read.mrenclave, read.attributes, read.xfrm, read.misc_select) == (b"m" * 32, 4, 7, 0)
    assert (read.product_id, read.security_version) == (0x1234, 7)
    modulus = key.public_key().public_numbers().n.to_bytes(384, "little")
    assert read.mrsigner == hashlib.sha256(modulus).digest()


def test_the_processor_s_way_to_cube_the_signature_ends_in_its_padding(key: rsa.RSAPrivateKey) -> None:
    made = sign_enclave(b"m" * 32, key, attributes=4, xfrm=7)
    number = [int.from_bytes(made[at : at + 384], "little") for at in (128, 516, 1040, 1424)]
    n, s, first, second = number
    cube = (s * s - first * n) * s - second * n
    digest = hashlib.sha256(made[:128] + made[900:1028]).digest()
    prefix = bytes.fromhex("3031300d060960864801650304020105000420")
    padded = b"\0\1" + b"\xff" * (384 - 3 - len(prefix) - 32) + b"\0" + prefix + digest
    assert cube == int.from_bytes(padded, "big")


def test_every_byte_of_a_structure_counts(key: rsa.RSAPrivateKey) -> None:
    made = sign_enclave(b"m" * 32, key, attributes=4, xfrm=7)
    for place in range(len(made)):
        wrong = bytearray(made)
        wrong[place] ^= 1
        with pytest.raises(InputError, match="SIGSTRUCT"):
            read_sigstruct(bytes(wrong))
    for size in (0, 1807, 1809):
        with pytest.raises(InputError, match="1808"):
            read_sigstruct((made + b"\0")[:size])


def test_only_keys_that_the_processor_takes_are_read() -> None:
    def pem(exponent: int, bits: int) -> bytes:
        made = rsa.generate_private_key(exponent, bits)
        return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    for wrong, said in ((pem(65537, 3072), "exponent 65537"), (pem(3, 2048), "2048"), (b"no key", "PEM")):
        with pytest.raises(InputError, match=said):
            read_key(wrong)
    with pytest.raises(InputError, match="security version"):
        sign_enclave(b"m" * 32, read_key(make_key()), attributes=4, xfrm=7, security_version=1 << 16)
