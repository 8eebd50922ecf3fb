"""Kernels from packages and from files: those that are whole, and those that are not."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from pathlib import Path

import pytest

from myelin.boot import read_kernel
from myelin.errors import InputError

ELF = b"\x7fELF module"


def bzimage(version: bytes = b"6.12.1-test (builder) #1 SMP") -> bytes:
    head = bytearray(1024)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x100).to_bytes(2, "little")
    head[0x300 : 0x300 + len(version)] = version
    return bytes(head)


def package(files: dict[str, bytes], member: str = "data.tar.xz", cut: int = 0) -> bytes:
    """A Debian package: an ar archive with a compressed tar of the files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data = lzma.compress(stream.getvalue())
    out = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("odd", b"x"), (member, data[: len(data) - cut])):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


FILES = {
    "./boot/vmlinuz-6.12.1-test": bzimage(),
    "./lib/modules/6.12.1-test/kernel/a/tdx-guest.ko.xz": lzma.compress(ELF),
    "./lib/modules/6.12.1-test/kernel/b/tsm.ko": ELF + b"2",
    "./lib/modules/6.12.1-test/modules.builtin": b"kernel/fs/configfs/configfs.ko\n",
}


def write(folder: Path, data: bytes) -> Path:
    path = folder / "kernel.deb"
    path.write_bytes(data)
    return path


def test_a_package_gives_kernel_and_modules_in_the_order_asked(tmp_path: Path) -> None:
    data = package(FILES)
    kernel = read_kernel(write(tmp_path, data), ("configfs", "tsm", "tdx-guest"))
    assert (kernel.vmlinuz, kernel.release) == (bzimage(), "6.12.1-test")
    assert kernel.modules == (("tsm", ELF + b"2"), ("tdx-guest", ELF))
    assert (kernel.source, kernel.source_digest) == ("kernel.deb", hashlib.sha256(data).digest())


def test_a_kernel_with_a_folder_of_modules(tmp_path: Path) -> None:
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    path = tmp_path / "boot/vmlinuz-6.12.1-test"
    kernel = read_kernel(path, ("configfs", "tsm", "tdx_guest"), tmp_path / "lib")
    assert [name for name, _ in kernel.modules] == ["tsm", "tdx_guest"]
    with pytest.raises(InputError, match="is no Debian package; give a linux-image package"):
        read_kernel(path, ())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (package(FILES), "has no module sev-guest, loadable or built in"),
        (package(FILES, member="data.tar.zst"), "a Debian package with data.tar.xz, found none"),
        (package(FILES, cut=9), "whole xz, got more, or a part"),
        (package(FILES)[:100], "a Debian package with data.tar.xz, found none"),
        (b"!<arch>\n" + b"x" * 60, "a Debian package with data.tar.xz, found none"),
        (package({"./boot/config": b""}), "a package without /boot/vmlinuz"),
        (package({**FILES, "./boot/vmlinuz-6.12.1-test": b"ELF"}), "expected a bzImage"),
        (package({**FILES, "./boot/vmlinuz-6.12.1-test": bzimage(b"")}), "its header names no version"),
        (package({**FILES, "./lib/sev-guest.ko.xz": lzma.compress(b"text")}), "expected an ELF file"),
        (package({**FILES, "./lib/sev-guest.ko.xz": lzma.compress(ELF)[:-9]}), "of whole xz"),
        (package({**FILES, "./lib/sev-guest.ko.xz": b"\xfd7zXZ\0" + b"x" * 99}), "not readable as xz"),
    ],
)
def test_what_is_no_kernel_says_why(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_kernel(write(tmp_path, data), ("sev-guest",))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory; give a linux-image package"):
        read_kernel(tmp_path / "none.deb", ())
