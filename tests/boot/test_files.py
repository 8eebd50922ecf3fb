"""Boot files: what is in them, that two makings are one, and folders that are not whole."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from software_machine import ROOT

from myelin.boot import BootFiles, BootKind, make_boot_files, read_boot_files
from myelin.errors import InputError
from myelin.image import BuiltImage


def copied(boot: BootFiles, folder: Path) -> Path:
    return Path(shutil.copytree(boot.folder, folder / "copy"))


def source_copy(folder: Path) -> Path:
    """Another checkout: what init and loader are compiled from, in a folder of another length."""
    ignored = shutil.ignore_patterns("target", ".git")
    for name in ("init", "loader", "enclave"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    # The loader has SGX's first page in it.
    page = Path("src/myelin/image/sgx/trampoline.bin")
    (folder / page).parent.mkdir(parents=True)
    shutil.copyfile(ROOT / page, folder / page)
    return folder


@pytest.mark.vm
def test_two_makings_from_two_folders_are_one(
    boot: BootFiles, built: BuiltImage, kernel: Path, tmp_path: Path
) -> None:
    source = source_copy(tmp_path / "another" / "checkout-with-a-longer-name")
    other = make_boot_files(built.path, boot.kind, kernel, tmp_path / "files", source=source)
    for name in ("kernel", "initrd", "cmdline", "manifest.json"):
        assert (other.folder / name).read_bytes() == (boot.folder / name).read_bytes(), name


@pytest.mark.vm
def test_what_is_in_them(boot: BootFiles) -> None:
    assert boot.kind is BootKind.TDX
    names = [entry["name"] for entry in boot.manifest["initrd"]]
    assert names == sorted(names)
    assert {"image", "init", "loader", "dev/console", "modules/01-tsm.ko"} <= set(names)
    digests = {entry["name"]: entry.get("sha256") for entry in boot.manifest["initrd"]}
    assert digests["image"] == boot.measurement.hex()
    initrd = boot.initrd.read_bytes()
    assert str(ROOT).encode() not in initrd
    assert not re.search(rb"/\.(?:cargo|rustup)/", initrd)
    assert boot.memory_bytes > len(initrd)


@pytest.mark.vm
def test_files_for_snp_have_its_module(built: BuiltImage, kernel: Path, tmp_path: Path) -> None:
    boot = make_boot_files(built.path, BootKind.SNP, kernel, tmp_path / "files")
    names = [entry["name"] for entry in boot.manifest["initrd"]]
    modules = ["modules/00-configfs.ko", "modules/01-tsm.ko", "modules/02-sev-guest.ko"]
    assert [name for name in names if name.startswith("modules/")] == modules


@pytest.mark.vm
def test_a_folder_that_is_not_whole_is_refused(boot: BootFiles, tmp_path: Path) -> None:
    folder = copied(boot, tmp_path)
    read_boot_files(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for change in ({"version": 2}, {"tee": "sgx"}, {"image": "x"}, {"files": {}}, {"memory_bytes": -1}):
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(InputError, match="is not of this version's form"):
            read_boot_files(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "cmdline").write_text(boot.command_line + " init=/bin/sh")
    with pytest.raises(InputError, match="cmdline is not the file of its manifest"):
        read_boot_files(folder)
    (folder / "cmdline").unlink()
    with pytest.raises(InputError, match="cmdline: No such file"):
        read_boot_files(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "{}"])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"is no manifest|is not of this version's form"):
        read_boot_files(tmp_path)
