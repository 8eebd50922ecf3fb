"""Confidential virtual machines by QEMU: its command for boot files, and what it needs to be there.

The machine has a processor for each thread, memory, a serial port that the kernel's console prints to, and a
virtual serial device with one port, QEMU's own standard input and output: the channel to init. No disk, no
network, no monitor. QEMU runs under its own system-call list.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from myelin.boot.files import BootFiles, BootKind
from myelin.errors import HostError

__all__ = ["LEAST_QEMU", "confidential_command", "find_firmware", "machine_words", "qemu_version"]

QEMU = "qemu-system-x86_64"
LEAST_QEMU = {BootKind.TDX: (10, 1), BootKind.SNP: (9, 1)}
"""The first version of QEMU that has each kind of machine."""

_FIRMWARE = {
    BootKind.TDX: (
        "usr/share/ovmf/OVMF.inteltdx.fd",
        "usr/share/edk2/ovmf/OVMF.inteltdx.fd",
        "usr/share/OVMF/OVMF.inteltdx.fd",
    ),
    BootKind.SNP: (
        "usr/share/ovmf/OVMF.amdsev.fd",
        "usr/share/edk2/ovmf/OVMF.amdsev.fd",
        "usr/share/OVMF/OVMF.amdsev.fd",
    ),
}
_QUOTE_SERVICE = Path("/var/run/tdx-qgs/qgs.socket")
_QUOTE_SERVICE_ADDRESS = {"type": "vsock", "cid": "2", "port": "4050"}
_SNP_POLICY = 0x3_0000
"""Threads of one core may be used; no debugging, no migration agent. Bit 17 is always set."""

_PORT_NAME = "myelin"
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_VERSION_TIMEOUT_S = 10


def qemu_version() -> tuple[int, int] | None:
    """The version of the installed QEMU, or nothing where there is none."""
    program = shutil.which(QEMU)
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603
            [program, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"version (\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else None


def find_firmware(kind: BootKind, root: Path = Path("/")) -> Path | None:
    """The firmware for a kind of machine: what ``MYELIN_FIRMWARE`` names, or where distributions have it."""
    named = os.environ.get("MYELIN_FIRMWARE")
    if named:
        return Path(named) if Path(named).is_file() else None
    return next((root / path for path in _FIRMWARE[kind] if (root / path).is_file()), None)


def machine_words(boot: BootFiles, threads: int) -> list[str]:
    """QEMU's arguments that are the same for every machine: memory, processors, files, channel, console."""
    memory_mib = -(-boot.memory_bytes // (1 << 20))
    return [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        *("-display", "none"),
        *("-sandbox", _SANDBOX),
        *("-smp", str(threads)),
        *("-m", f"{memory_mib}M"),
        *("-kernel", str(boot.kernel.absolute())),
        *("-initrd", str(boot.initrd.absolute())),
        *("-append", boot.command_line),
        *("-chardev", "stdio,id=channel,signal=off"),
        *("-device", "virtio-serial-pci,disable-legacy=on,max_ports=2"),
        *("-device", f"virtserialport,chardev=channel,name={_PORT_NAME}"),
        *("-chardev", "file,id=console,path=/dev/stderr"),
        *("-serial", "chardev:console"),
    ]


def confidential_command(boot: BootFiles, threads: int) -> list[str]:
    """The command that starts the boot files in a machine of their kind.

    Raises:
        HostError: QEMU or the firmware is missing.
    """
    program, firmware = shutil.which(QEMU), find_firmware(boot.kind)
    if program is None or firmware is None:
        what = QEMU if program is None else f"a firmware for {boot.kind.value}; name one by MYELIN_FIRMWARE"
        raise HostError(f"{boot.kind.value}: missing {what}")
    own = _tdx_words() if boot.kind is BootKind.TDX else _snp_words(boot)
    return [program, "-accel", "kvm", *own, "-bios", str(firmware), *machine_words(boot, threads)]


def _tdx_words() -> list[str]:
    """docs/system/i386/tdx.rst of QEMU; quotes come from Intel's service on this host."""
    service: dict[str, str] = _QUOTE_SERVICE_ADDRESS
    if _QUOTE_SERVICE.exists():
        service = {"type": "unix", "path": str(_QUOTE_SERVICE)}
    guest = {"qom-type": "tdx-guest", "id": "tee", "quote-generation-socket": service}
    machine = "q35,kernel-irqchip=split,hpet=off,confidential-guest-support=tee"
    return ["-cpu", "host", "-object", json.dumps(guest), "-machine", machine]


def _snp_words(boot: BootFiles) -> list[str]:
    """docs/system/i386/amd-memory-encryption.rst of QEMU; the launch digest covers the boot files."""
    memory = f"memory-backend-memfd,id=memory,size={-(-boot.memory_bytes // (1 << 20))}M,share=true"
    guest = f"sev-snp-guest,id=tee,cbitpos=51,reduced-phys-bits=1,policy={_SNP_POLICY:#x},kernel-hashes=on"
    machine = "q35,memory-backend=memory,confidential-guest-support=tee"
    return ["-cpu", "EPYC-v4", "-object", memory, "-object", guest, "-machine", machine]
