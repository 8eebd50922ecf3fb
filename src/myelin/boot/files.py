"""The boot files of one image: made, written, read back and compared with their manifest."""

from __future__ import annotations

import enum
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from myelin.boot.archive import Entry, device, file, folder, pack
from myelin.boot.kernel import Kernel, read_kernel
from myelin.errors import InputError

__all__ = ["BootFiles", "BootKind", "make_boot_files", "read_boot_files"]

_VERSION = 1
_MANIFEST = "manifest.json"
_FILES = {"kernel": "kernel", "initrd": "initrd", "command_line": "cmdline"}
_MOST_MANIFEST_BYTES = 1 << 20
_MOST_BYTES = 4 << 30
_PIECE_BYTES = 1 << 20
_MACHINE_BYTES = 320 << 20
_GRANULE_BYTES = 64 << 20
_MOST_MEMORY_BYTES = 1 << 40
_FOLDERS = ("dev", "modules", "proc", "root", "sys")

COMMAND_LINE = " ".join(
    (
        "console=ttyS0",
        "quiet",
        # What goes wrong ends the machine at once.
        "panic=-1",
        "oops=panic",
        # Not even root reads or changes the kernel's memory; modules must be signed by the kernel's maker.
        "lockdown=confidentiality",
        "random.trust_cpu=on",
        "rdinit=/init",
    )
)
"""What the kernel is told, the same for every machine."""


class BootKind(enum.Enum):
    """What protects the machine, and so which modules its kernel needs."""

    TDX = "tdx"
    SNP = "snp"

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules, in the order in which they need each other."""
        return ("configfs", "tsm", "tdx-guest" if self is BootKind.TDX else "sev-guest")


@dataclass(frozen=True)
class BootFiles:
    """A folder of boot files whose digests are those of its manifest.

    ``measurement`` is that of the Myelin image inside; ``memory_bytes`` is what a machine for it needs.
    """

    folder: Path
    kind: BootKind
    measurement: bytes
    command_line: str
    memory_bytes: int
    manifest: Mapping[str, Any]

    @property
    def kernel(self) -> Path:
        """The kernel, a bzImage."""
        return self.folder / _FILES["kernel"]

    @property
    def initrd(self) -> Path:
        """The initrd, a cpio archive."""
        return self.folder / _FILES["initrd"]


def make_boot_files(
    image: Path,
    kind: BootKind,
    kernel: Path,
    out: Path,
    *,
    modules: Path | None = None,
    source: Path | None = None,
) -> BootFiles:
    """Make the boot files of an image in the folder ``out``.

    Args:
        image: a Myelin image, built without the simulated attester.
        kind: what protects the machine.
        kernel: a Debian kernel package, or a ``vmlinuz``.
        out: the folder; what is there of an earlier making is replaced.
        modules: the folder of the ``vmlinuz``'s modules.
        source: another checkout of Myelin to compile init and loader from.

    Raises:
        InputError: a file cannot be read, or the image simulates its evidence.
        BuildError: init or loader cannot be compiled.
    """
    from myelin.boot.programs import build_programs
    from myelin.image import read_manifest

    if read_manifest(image)["simulated"]:
        raise InputError(
            f"image {image} simulates its evidence, and no machine's would be asked for; build it with "
            "`myelin build --attester platform`"
        )
    content = image.read_bytes()
    base = read_kernel(kernel, kind.modules, modules)
    programs = build_programs(source)
    entries = _entries(content, base, programs.init, programs.loader)
    initrd = pack(entries)
    parts = {"kernel": base.vmlinuz, "initrd": initrd, "command_line": COMMAND_LINE.encode("ascii")}
    manifest = {
        "version": _VERSION,
        "tee": kind.value,
        "image": hashlib.sha256(content).hexdigest(),
        "kernel_release": base.release,
        "kernel_source": {"file": base.source, "sha256": base.source_digest.hex()},
        "compiler": programs.rustc,
        "memory_bytes": _memory_bytes(image, len(initrd)),
        "files": {
            name: {"file": _FILES[name], "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in parts.items()
        },
        "initrd": [
            {"name": name, "mode": f"{entry.mode:o}", "bytes": len(entry.content)}
            | ({"sha256": hashlib.sha256(entry.content).hexdigest()} if entry.content else {})
            for name, entry in sorted(entries.items())
        ],
    }
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    _write(out, {_FILES[name]: data for name, data in parts.items()} | {_MANIFEST: text.encode("ascii")})
    return read_boot_files(out)


def _memory_bytes(image: Path, initrd_bytes: int) -> int:
    """What the machine needs: the image as it runs, the initrd, unpacked and read again, and room."""
    from elftools.elf.elffile import ELFFile

    with image.open("rb") as stream:
        segments: list[int] = [
            s["p_memsz"] for s in ELFFile(stream).iter_segments() if s["p_type"] == "PT_LOAD"
        ]
    needed = sum(segments) + 3 * initrd_bytes + _MACHINE_BYTES
    return -(-needed // _GRANULE_BYTES) * _GRANULE_BYTES


def _entries(image: bytes, kernel: Kernel, init: bytes, loader: bytes) -> dict[str, Entry]:
    entries = {name: folder() for name in _FOLDERS}
    entries["dev/console"] = device(5, 1)
    entries["image"] = file(image)
    entries["init"] = file(init, executable=True)
    entries["loader"] = file(loader, executable=True)
    for place, (name, content) in enumerate(kernel.modules):
        entries[f"modules/{place:02}-{name}.ko"] = file(content)
    return entries


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """Write everything; the manifest last, so that a folder that has one is whole."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / _MANIFEST).unlink(missing_ok=True)
        for name, content in files.items():
            part = out / f".{name}.part"
            part.write_bytes(content)
            os.replace(part, out / name)
    except OSError as error:
        raise InputError(f"{out}: boot files cannot be written: {error.strerror}") from None


def read_boot_files(path: Path) -> BootFiles:
    """Read a folder of boot files; every file must have its manifest's digest.

    Raises:
        InputError: the folder has no readable manifest, or a file that is not the manifest's.
    """
    manifest = _manifest(path)
    try:
        version, kind, files = manifest["version"], BootKind(manifest["tee"]), manifest["files"]
        if version != _VERSION or set(files) != set(_FILES):
            raise ValueError(f"version {version}")
        measurement, memory_bytes = bytes.fromhex(manifest["image"]), manifest["memory_bytes"]
        if type(memory_bytes) is not int or not 0 < memory_bytes <= _MOST_MEMORY_BYTES:
            raise ValueError(f"memory_bytes {memory_bytes}")
        wanted = {name: bytes.fromhex(files[name]["sha256"]) for name in _FILES}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path / _MANIFEST} is not of this version's form: {error}") from None
    for name, digest in wanted.items():
        place = path / _FILES[name]
        if _digest(place) != digest:
            raise InputError(f"{place} is not the file of its manifest; make the folder again")
    command_line = (path / _FILES["command_line"]).read_text("ascii", "replace")
    return BootFiles(path, kind, measurement, command_line, memory_bytes, MappingProxyType(manifest))


def _manifest(path: Path) -> dict[str, Any]:
    place = path / _MANIFEST
    try:
        with place.open("rb") as stream:
            data = stream.read(_MOST_MANIFEST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{place}: {error.strerror}; make boot files with `myelin image`") from None
    try:
        manifest = json.loads(data) if len(data) <= _MOST_MANIFEST_BYTES else None
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise InputError(f"{place} is no manifest of boot files; make them with `myelin image`")
    return manifest


def _digest(path: Path) -> bytes:
    digest, seen = hashlib.sha256(), 0
    try:
        with path.open("rb") as stream:
            while (piece := stream.read(_PIECE_BYTES)) and seen <= _MOST_BYTES:
                digest.update(piece)
                seen += len(piece)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make boot files with `myelin image`") from None
    return digest.digest()
