"""The checks of an image find what they look for: every kind of damage is planted once."""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from myelin.errors import CheckError, InputError
from myelin.image import BuiltImage, check_image, check_instructions, measure, read_manifest

FORBIDDEN = {
    "syscall": b"\x0f\x05",
    "sysenter": b"\x0f\x34",
    "cpuid": b"\x0f\xa2",
    "rdtsc": b"\x0f\x31",
    "rdtscp": b"\x0f\x01\xf9",
    "xgetbv": b"\x0f\x01\xd0",
    "int 0x80": b"\xcd\x80",
    "int3": b"\xcc",
    "hlt": b"\xf4",
    "in": b"\xec",
    "out": b"\xee",
    "rep insb": b"\xf3\x6c",
    "wrfsbase": b"\xf3\x48\x0f\xae\xd0",
    "rdpid": b"\xf3\x0f\xc7\xf8",
}


@pytest.fixture
def copy(built: BuiltImage, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(built.path, tmp_path / "copy.myelin"))


def section(path: Path, name: str) -> tuple[int, int]:
    with path.open("rb") as file:
        found = ELFFile(file).get_section_by_name(name)
        return found["sh_offset"], found["sh_size"]


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def plant(path: Path, code: bytes) -> None:
    """Overwrite the start of the code: what follows is filled with nops up to the next 16 bytes."""
    start, _ = section(path, ".text")
    patch(path, start, code + b"\x90" * (64 - len(code)))


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_instructions_are_found(copy: Path, name: str) -> None:
    plant(copy, FORBIDDEN[name])
    with pytest.raises(CheckError, match=rf"forbidden instruction `{name.split()[0]}.*0x10000000"):
        check_instructions(copy)


@pytest.mark.parametrize("name", ["syscall", "cpuid", "rep insb"])
def test_objdump_finds_them_too(copy: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "capstone", None)
    count = check_instructions(copy)
    assert count > 10_000
    plant(copy, FORBIDDEN[name])
    with pytest.raises(CheckError, match=r"forbidden instruction .*0x10000000"):
        check_instructions(copy)


def test_bytes_that_are_no_instruction_are_refused(copy: Path) -> None:
    plant(copy, b"\x06")
    with pytest.raises(CheckError, match="no instruction"):
        check_instructions(copy)


def program_header(path: Path, index: int) -> int:
    (offset,) = struct.unpack_from("<Q", path.read_bytes(), 32)
    return offset + 56 * index


@pytest.mark.parametrize(
    ("index", "field", "value", "message"),
    [
        (0, 4, struct.pack("<I", 7), "writable and executable"),
        (3, 4, struct.pack("<I", 7), "writable and executable"),
        (1, 16, struct.pack("<Q", 0x1000_0008), "not page-aligned"),
        (1, 16, struct.pack("<Q", 0x1000_0000), "overlaps the one before"),
        (0, 16, struct.pack("<Q", 0x0010_0000), "below 0x10000000"),
        (3, 40, struct.pack("<Q", 0x7000_0000), "above 2 GiB"),
        (5, 0, struct.pack("<I", 2), "expected only PT_LOAD segments, got PT_DYNAMIC"),
        (5, 0, struct.pack("<I", 3), "expected only PT_LOAD segments, got PT_INTERP"),
        (20, 4, struct.pack("<I", 7), "the stack is marked executable"),
        (0, 4, struct.pack("<I", 4), "entry .* not in executable bytes"),
    ],
)
def test_segments_are_checked(copy: Path, index: int, field: int, value: bytes, message: str) -> None:
    patch(copy, program_header(copy, index) + field, value)
    with pytest.raises(CheckError, match=message):
        check_image(copy)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (8, struct.pack("<Q", 2), "expected code in the section .text"),
        (16, struct.pack("<Q", 0x1000_1000), "not those of the section .text"),
        (24, struct.pack("<Q", 0x2000), "not those of the section .text"),
        (32, struct.pack("<Q", 64), "not those of the section .text"),
    ],
)
def test_no_code_hides_from_a_disassembler_that_goes_by_sections(
    copy: Path, place: int, value: bytes, message: str
) -> None:
    with copy.open("rb") as file:
        elf = ELFFile(file)
        index = elf.get_section_index(".text")
        header = elf.header["e_shoff"] + index * elf.header["e_shentsize"]
    patch(copy, header + place, value)
    with pytest.raises(CheckError, match=message):
        check_image(copy)


def test_a_second_executable_segment_is_refused(copy: Path) -> None:
    patch(copy, program_header(copy, 1) + 4, struct.pack("<I", 5))
    with pytest.raises(CheckError, match=r"not those of the section \.text"):
        check_image(copy)


def test_two_sections_of_one_name_are_refused(copy: Path) -> None:
    with copy.open("rb") as file:
        elf = ELFFile(file)
        plan, params = (elf.get_section_by_name(f".myelin.{name}") for name in ("plan", "params"))
        header = elf.header["e_shoff"] + elf.get_section_index(".myelin.params") * elf.header["e_shentsize"]
        assert plan["sh_name"] != params["sh_name"]
    patch(copy, header, struct.pack("<I", plan["sh_name"]))
    with pytest.raises(CheckError, match=r"two sections are named \.myelin\.plan"):
        check_image(copy)


def test_kind_of_file_is_checked(copy: Path, tmp_path: Path) -> None:
    patch(copy, 16, struct.pack("<H", 3))
    with pytest.raises(CheckError, match="expected a static x86-64 executable, got ET_DYN"):
        check_image(copy)
    text = tmp_path / "text"
    text.write_text("hello")
    with pytest.raises(CheckError, match="no readable ELF file"):
        check_image(text)


def test_stacks_have_an_unmapped_page_below(built: BuiltImage) -> None:
    with built.path.open("rb") as file:
        segments = list(ELFFile(file).iter_segments("PT_LOAD"))
    ends = [s["p_vaddr"] + s["p_memsz"] for s in segments]
    for before, stack in zip(ends[3:], segments[4:], strict=False):
        assert stack["p_vaddr"] - before == 4096
        assert stack["p_memsz"] == 512 * 1024


def test_reading_what_is_no_image(tmp_path: Path, built: BuiltImage) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        measure(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_manifest(tmp_path / "none")
    for content in (b"", b"hello", built.path.read_bytes()[:5000]):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(InputError, match="expected a Myelin image"):
            read_manifest(tmp_path / "file")
    with pytest.raises(InputError, match=r"without section \.myelin\.manifest"):
        read_manifest(shutil.which("true") or "/bin/true")


def test_a_damaged_manifest_is_refused(copy: Path) -> None:
    start, size = section(copy, ".myelin.manifest")
    patch(copy, start, b"\xff" * size)
    with pytest.raises(InputError, match=r"section \.myelin\.manifest: expected CBOR"):
        read_manifest(copy)
    patch(copy, start, b"\x80" + b"\x00" * (size - 1))
    with pytest.raises(InputError, match="expected a CBOR map, got list"):
        read_manifest(copy)
