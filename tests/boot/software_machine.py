"""A machine with measured boot in software: QEMU without KVM, OVMF, and a TPM by swtpm. For tests alone.

It stands in for a confidential virtual machine: the same boot files, the same init, the same channel. What
differs is who vouches: a TPM whose key the test lists, and nothing keeps this host out of its memory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from myelin.boot import BootFiles
from myelin.host import Enclave
from myelin.host.virtual_machine import QEMU, machine_words, qemu_version

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = (QEMU, "swtpm", "swtpm_setup")
FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
BOOT_TIMEOUT_S = 300
LEAST_QEMU = (8, 1)
"""The first whose software processor has RDSEED, without which no image runs."""


def kernel_package() -> Path | None:
    """The kernel that tests boot: what ``MYELIN_KERNEL`` names, or what ``make test-vm`` has fetched."""
    named = os.environ.get("MYELIN_KERNEL")
    found = [Path(named)] if named else sorted((ROOT / "build" / "kernel").glob("linux-image-*.deb"))
    return found[-1] if found and found[-1].is_file() else None


def missing() -> list[str]:
    """What is not there of all that the machine takes."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    version = qemu_version()
    if version is not None and version < LEAST_QEMU:
        lacking.append(f"QEMU {LEAST_QEMU[0]}.{LEAST_QEMU[1]} or newer; this is {version[0]}.{version[1]}")
    lacking += [str(path) for path in (FIRMWARE, VARIABLES) if not path.is_file()]
    if kernel_package() is None:
        lacking.append("a kernel package (linux-image-6.12 or newer, cloud-amd64; MYELIN_KERNEL names one)")
    return lacking


class StandIn:
    """One machine, whose TPM is the same at every boot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "tpm"
        self.state.mkdir()
        command = ["swtpm_setup", "--tpm2", "--tpmstate", str(self.state), "--pcr-banks", "sha256"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    @contextmanager
    def boot(self, files: BootFiles, threads: int = 1) -> Iterator[Enclave]:
        """Boot the files; the machine ends with the block."""
        socket = self.folder / "tpm.socket"
        socket.unlink(missing_ok=True)
        tpm = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--terminate", "--tpmstate", f"dir={self.state}"),
                *("--ctrl", f"type=unixio,path={socket}"),
            ],
            stderr=subprocess.PIPE,
        )
        try:
            deadline_s = time.monotonic() + 10
            while not socket.exists():
                assert tpm.poll() is None, tpm.stderr
                assert time.monotonic() < deadline_s, "swtpm opens no socket"
                time.sleep(0.02)
            command = self.command(files, threads, socket)
            with Enclave.of_program(command, files.folder, timeout_s=BOOT_TIMEOUT_S) as enclave:
                yield enclave
        finally:
            tpm.kill()
            tpm.wait()

    def command(self, files: BootFiles, threads: int, socket: Path) -> list[str]:
        """QEMU's command. Firmware variables are new at every boot: nothing is left of the one before."""
        variables = self.folder / "variables.fd"
        shutil.copyfile(VARIABLES, variables)
        program = shutil.which(QEMU)
        assert program is not None
        return [
            *(program, "-accel", "tcg", "-cpu", "max", "-machine", "q35"),
            *("-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE}"),
            *("-drive", f"if=pflash,format=raw,file={variables}"),
            *("-chardev", f"socket,id=tpm,path={socket}"),
            *("-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"),
            *machine_words(files, threads),
        ]
