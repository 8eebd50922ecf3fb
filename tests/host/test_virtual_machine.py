"""The commands that start confidential virtual machines: what QEMU is told, and what is missing."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import pytest

from myelin.boot import BootFiles, BootKind
from myelin.errors import HostError
from myelin.host.virtual_machine import confidential_command, find_firmware, machine_words, qemu_version


def boot_files(folder: Path, kind: BootKind) -> BootFiles:
    return BootFiles(folder, kind, bytes(32), "quiet panic=-1", (640 << 20) - 1, MappingProxyType({}))


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho QEMU emulator version 10.1.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("MYELIN_FIRMWARE", str(program))
    return program


def option(command: list[str], name: str) -> list[str]:
    return [value for key, value in pairwise(command) if key == name]


def test_every_machine_has_one_channel_and_nothing_else(tmp_path: Path) -> None:
    words = machine_words(boot_files(tmp_path, BootKind.TDX), 3)
    assert option(words, "-m") == ["640M"]
    assert option(words, "-smp") == ["3"]
    assert option(words, "-append") == ["quiet panic=-1"]
    assert option(words, "-initrd") == [str(tmp_path / "initrd")]
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(words)
    assert option(words, "-sandbox")[0].startswith("on,")
    assert [device.partition(",")[0] for device in option(words, "-device")] == [
        "virtio-serial-pci",
        "virtserialport",
    ]
    assert not {"-netdev", "-nic", "-drive", "-monitor", "-qmp", "-gdb"} & set(words)


def test_tdx_asks_the_service_of_this_host_for_quotes(qemu: Path, tmp_path: Path) -> None:
    command = confidential_command(boot_files(tmp_path, BootKind.TDX), 2)
    guest = json.loads(option(command, "-object")[0])
    assert (guest["qom-type"], guest["id"]) == ("tdx-guest", "tee")
    assert guest["quote-generation-socket"]["type"] in ("unix", "vsock")
    assert "debug" not in guest
    assert "confidential-guest-support=tee" in option(command, "-machine")[0]
    assert option(command, "-bios") == [str(qemu)]
    assert option(command, "-accel") == ["kvm"]


def test_snp_measures_the_boot_files_and_allows_no_debugging(qemu: Path, tmp_path: Path) -> None:
    command = confidential_command(boot_files(tmp_path, BootKind.SNP), 2)
    (guest,) = (text for text in option(command, "-object") if text.startswith("sev-snp-guest"))
    fields = dict(field.split("=") for field in guest.split(",")[1:])
    assert fields["kernel-hashes"] == "on"
    assert int(fields["policy"], 0) >> 19 & 1 == 0
    assert int(fields["policy"], 0) >> 17 & 1 == 1


def test_what_is_missing_is_said(qemu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert qemu_version() == (10, 1)
    monkeypatch.setenv("MYELIN_FIRMWARE", str(tmp_path / "none"))
    assert find_firmware(BootKind.SNP) is None
    with pytest.raises(HostError, match="snp: missing a firmware for snp; name one by MYELIN_FIRMWARE"):
        confidential_command(boot_files(tmp_path, BootKind.SNP), 1)
    qemu.unlink()
    assert qemu_version() is None
    with pytest.raises(HostError, match="tdx: missing qemu-system-x86_64"):
        confidential_command(boot_files(tmp_path, BootKind.TDX), 1)
