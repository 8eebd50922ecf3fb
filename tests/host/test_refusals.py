"""Images that the loader does not run, each by its name."""

from __future__ import annotations

import hashlib
import os
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from myelin.errors import HostError, InputError
from myelin.host import Enclave, best_target

NAMED = re.compile(r"image_malformed: |target_unknown: |launch_refused: |stopped by SIG")
Change = Callable[[bytearray], object]


def put(offset: int, form: str, value: int) -> Change:
    return lambda file: struct.pack_into(form, file, offset, value)


TEXT, DATA = 64, 64 + 2 * 56
CASES: dict[str, tuple[str, Change]] = {
    "an empty file": ("image_malformed: the ELF header", lambda file: file.clear()),
    "a file cut in its header": (
        "image_malformed: the ELF header",
        lambda file: file.__delitem__(slice(40, None)),
    ),
    "a file cut in its code": (
        "image_malformed: segment",
        lambda file: file.__delitem__(slice(0x1010, None)),
    ),
    "a script": (
        "image_malformed: not an ELF file",
        lambda file: file.__setitem__(slice(0, 9), b"#!/bin/sh"),
    ),
    "a shared object": ("image_malformed: e_type", put(16, "<H", 3)),
    "another machine's code": ("image_malformed: e_machine", put(18, "<H", 183)),
    "code that can be written": ("image_malformed: .*writable and executable", put(TEXT + 4, "<I", 7)),
    "data that can be run": ("image_malformed: .*writable and executable", put(DATA + 4, "<I", 7)),
    "a segment over the loader": (
        "image_malformed: .*outside 0x10000000",
        put(DATA + 16, "<Q", 0x5555_5555_4000),
    ),
    "a segment at zero": ("image_malformed: .*outside 0x10000000", put(TEXT + 16, "<Q", 0)),
    "an arena of a terabyte": ("image_malformed: .*outside 0x10000000", put(DATA + 40, "<Q", 1 << 40)),
    "overlapping segments": ("image_malformed: .*overlaps", put(DATA + 16, "<Q", 0x1000_0000)),
    "an interpreter": ("image_malformed: .*no interpreter", put(DATA, "<I", 3)),
    "an entry in data": ("image_malformed: e_entry", put(24, "<Q", 0x1000_2000)),
    "an entry in the loader": ("image_malformed: e_entry", put(24, "<Q", 0x5555_5555_4000)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_image_is_refused_by_name(name: str, image: Path, loader: Path, tmp_path: Path) -> None:
    said, change = CASES[name]
    file = bytearray(image.read_bytes())
    change(file)
    path = tmp_path / "image"
    path.write_bytes(file)
    with pytest.raises(HostError, match=said):
        Enclave.start(path, threads=1, loader=loader)


def test_whatever_is_changed_the_loader_answers(image: Path, loader: Path, tmp_path: Path) -> None:
    """Bytes of the headers overwritten at random: every start ends in a named error or a true report."""
    draw = random.Random(7)
    original, path, refused, unnamed = image.read_bytes(), tmp_path / "image", 0, list[str]()
    for _ in range(120):
        file = bytearray(original)
        for _ in range(draw.randint(1, 3)):
            # The ELF header, the program headers, or the section headers at the end.
            offset = draw.choice([draw.randrange(232), len(file) - 1 - draw.randrange(400)])
            file[offset] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        path.write_bytes(file)
        try:
            with Enclave.start(path, threads=1, loader=loader, timeout_s=10) as enclave:
                assert enclave.report["measurement"] == hashlib.sha256(file).hexdigest()
        except HostError as error:
            refused += 1
            unnamed += [str(error)] if not NAMED.search(str(error)) else []
    assert refused > 30
    assert not unnamed


def test_a_target_that_this_machine_lacks_is_refused(make_image: Callable[..., Path], loader: Path) -> None:
    with pytest.raises(HostError, match=r'target_unknown: the image was built for "x86-64-v9"'):
        Enclave.start(make_image(TARGET="x86-64-v9"), threads=1, loader=loader)


def test_avx512_is_named_where_it_is_missing(make_image: Callable[..., Path], loader: Path) -> None:
    has_it = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "vaes"} <= set(
        Path("/proc/cpuinfo").read_text().split()
    )
    image = make_image(TARGET="x86-64-v4")
    if has_it:
        with Enclave.start(image, threads=1, loader=loader) as enclave:
            assert enclave.report["target"] == "x86-64-v4"
    else:
        with pytest.raises(HostError, match=r"cpu_features_missing: .*AVX-512"):
            Enclave.start(image, threads=1, loader=loader)


def test_an_image_of_another_interface_is_refused(make_image: Callable[..., Path], loader: Path) -> None:
    said = (
        "launch_refused: the image answered its launch with code 0 and 820017, expected interface version 1"
    )
    with pytest.raises(HostError, match=said):
        Enclave.start(make_image(ABI_VERSION=23), threads=2, loader=loader)


def test_no_room_for_the_arena_is_named(
    make_image: Callable[..., Path], loader: Path, tmp_path: Path, backend: str
) -> None:
    if backend.startswith("sgx"):
        pytest.skip("an enclave's memory is not this process's")
    image = make_image(ARENA_BYTES=1_500_000_000)
    wrapper = tmp_path / "loader"
    wrapper.write_text(f'#!/bin/sh\nulimit -v 1000000\nexec {loader} "$@"\n')
    wrapper.chmod(0o755)
    with pytest.raises(HostError, match=r"memory_missing: .*150\d{7} bytes, cannot be mapped: ENOMEM"):
        Enclave.start(image, threads=1, loader=wrapper)


def test_a_large_arena_costs_nothing_until_it_is_used(make_image: Callable[..., Path], loader: Path) -> None:
    with Enclave.start(make_image(ARENA_BYTES=1_500_000_000), threads=1, loader=loader) as enclave:
        assert enclave.report["memory"] >= 1_500_000_000
        resident = Path(f"/proc/{enclave.pid}/statm").read_text().split()[1]
        assert int(resident) * os.sysconf("SC_PAGE_SIZE") < 50_000_000


def test_what_is_not_a_file_is_refused(loader: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such-image: No such file"):
        Enclave.start(tmp_path / "no-such-image", threads=1, loader=loader)
    with pytest.raises(HostError, match=r"image_unreadable: .*[Dd]irectory"):
        Enclave.start(tmp_path, threads=1, loader=loader)


@pytest.mark.parametrize("threads", [0, -1, 17])
def test_a_number_of_threads_that_no_image_has_is_refused(image: Path, loader: Path, threads: int) -> None:
    with pytest.raises(InputError, match="expected 1 to 16"):
        Enclave.start(image, threads=threads, loader=loader)


@pytest.mark.parametrize(
    ("flags", "target"),
    [
        ("fpu avx2 aes", "x86-64-v3"),
        ("fpu avx2 aes vaes", "x86-64-v3-vaes"),
        ("avx512f avx512bw avx512cd avx512dq avx512vl", "x86-64-v3"),
        ("avx512f avx512bw avx512cd avx512dq avx512vl vaes", "x86-64-v4"),
    ],
)
def test_the_best_target_is_the_highest_that_the_processor_has(
    flags: str, target: str, tmp_path: Path, make_image: Callable[..., Path], loader: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor: 0\nflags\t\t: {flags}\nbugs\t: none\nflags\t: none\n")
    assert best_target(cpuinfo) == target
    with Enclave.start(make_image(TARGET=best_target()), threads=1, loader=loader) as enclave:
        assert enclave.report["target"] == best_target()
