"""A kernel and those of its modules that a machine needs, from a Debian package or from files."""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from myelin.errors import InputError

__all__ = ["Kernel", "read_kernel"]

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60
_MOST_BYTES = 1 << 30
_MOST_KERNEL_BYTES = 256 << 20
_MOST_MODULE_BYTES = 64 << 20
_XZ_MAGIC = b"\xfd7zXZ\0"
_ELF_MAGIC = b"\x7fELF"
_BOOT_MAGIC = (0x202, b"HdrS")
_ADVICE = "give a linux-image package (.deb), or a vmlinuz with --modules"


@dataclass(frozen=True)
class Kernel:
    """A kernel that boots, its release, and modules by name in the order they are loaded, not compressed."""

    vmlinuz: bytes
    release: str
    modules: tuple[tuple[str, bytes], ...]
    source: str
    source_digest: bytes


def read_kernel(path: Path, modules: tuple[str, ...], folder: Path | None = None) -> Kernel:
    """Take a kernel from a ``linux-image`` package, or a ``vmlinuz`` with its modules' ``folder``.

    ``modules`` names files without their endings; a name of which there is none must be built in, which the
    package's own list says.

    Raises:
        InputError: it is no such file, or lacks a module.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"kernel {path}: {error.strerror}; {_ADVICE}") from None
    if data.startswith(_AR_MAGIC):
        vmlinuz, files, built_in = _package(path, data)
    elif folder is None:
        raise InputError(f"kernel {path} is no Debian package; {_ADVICE}")
    else:
        vmlinuz, (files, built_in) = data, _folder(folder)
    offset, magic = _BOOT_MAGIC
    if vmlinuz[offset : offset + 4] != magic:
        raise InputError(f"kernel {path}: expected a bzImage, got something else; {_ADVICE}")
    release, found = _release(vmlinuz, path), tuple(_modules(path, modules, files, built_in))
    return Kernel(vmlinuz, release, found, path.name, hashlib.sha256(data).digest())


def _release(vmlinuz: bytes, path: Path) -> str:
    """The version text that a bzImage's header points to (Documentation/arch/x86/boot.rst)."""
    start = int.from_bytes(vmlinuz[0x20E:0x210], "little") + 0x200
    words = vmlinuz[start : start + 512].partition(b"\0")[0].decode("ascii", "replace").split()
    if not words:
        raise InputError(f"kernel {path}: its header names no version")
    return words[0]


def _modules(
    path: Path, names: tuple[str, ...], files: dict[str, bytes], built_in: frozenset[str]
) -> Iterator[tuple[str, bytes]]:
    for name in names:
        plain = name.replace("-", "_")
        if plain in files:
            yield name, _unpacked(f"{path}: module {name}", files[plain])
        elif plain not in built_in:
            raise InputError(f"kernel {path} has no module {name}, loadable or built in; take another kernel")


def _unpacked(what: str, data: bytes) -> bytes:
    if data.startswith(_XZ_MAGIC):
        data = _unxz(what, data, _MOST_MODULE_BYTES)
    if not data.startswith(_ELF_MAGIC):
        raise InputError(f"{what}: expected an ELF file or one in xz, got something else")
    return data


def _unxz(what: str, data: bytes, most: int) -> bytes:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    try:
        out = unpacker.decompress(data, most + 1)
    except lzma.LZMAError as error:
        raise InputError(f"{what}: not readable as xz: {error}") from None
    if len(out) > most or not unpacker.eof:
        raise InputError(f"{what}: expected at most {most} bytes of whole xz, got more, or a part")
    return out


def _module_name(path: str) -> str | None:
    match = re.fullmatch(r"(?:.*/)?([\w-]+)\.ko(?:\.xz)?", path)
    return match[1].replace("-", "_") if match else None


def _names_of(text: bytes) -> frozenset[str]:
    names = (_module_name(line) for line in text.decode("ascii", "replace").splitlines())
    return frozenset(name for name in names if name)


def _folder(folder: Path) -> tuple[dict[str, bytes], frozenset[str]]:
    files: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*.ko*")):
        name = _module_name(path.name)
        if name and path.is_file() and path.stat().st_size <= _MOST_MODULE_BYTES:
            files[name] = path.read_bytes()
    listed = sorted(folder.rglob("modules.builtin"))
    return files, _names_of(listed[0].read_bytes()) if listed else frozenset()


def _package(path: Path, data: bytes) -> tuple[bytes, dict[str, bytes], frozenset[str]]:
    """The kernel, its modules as they lie in the package, and the names of those that are built in."""
    archive = _unxz(f"{path}: data.tar.xz", _member(path, data, "data.tar.xz"), _MOST_BYTES)
    kernel, built_in, files = None, frozenset[str](), dict[str, bytes]()
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                if not member.isreg() or member.size > _MOST_KERNEL_BYTES:
                    continue
                stream = tar.extractfile(member)
                assert stream is not None
                if re.fullmatch(r"\./boot/vmlinuz-[\w.+~-]+", member.name):
                    kernel = stream.read()
                elif member.name.endswith("/modules.builtin"):
                    built_in = _names_of(stream.read())
                elif name := _module_name(member.name):
                    files[name] = stream.read()
    except tarfile.TarError as error:
        raise InputError(f"kernel {path}: its archive is not readable: {error}") from None
    if kernel is None:
        raise InputError(f"kernel {path}: a package without /boot/vmlinuz-…; {_ADVICE}")
    return kernel, files, built_in


def _member(path: Path, data: bytes, wanted: str) -> bytes:
    """One member of an ``ar`` archive, which a Debian package is (deb(5))."""
    at = len(_AR_MAGIC)
    while header := data[at : at + _AR_HEADER_BYTES]:
        digits = header[48:58].strip()
        if len(header) < _AR_HEADER_BYTES or header[58:] != b"`\n" or not digits.isdigit():
            break
        start, size = at + _AR_HEADER_BYTES, int(digits)
        if header[:16].rstrip(b" /").decode("ascii", "replace") == wanted and start + size <= len(data):
            return data[start : start + size]
        at = start + size + size % 2
    raise InputError(f"kernel {path}: expected a Debian package with {wanted}, found none in it")
