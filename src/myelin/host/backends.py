"""What can run an image on this machine: each backend, whether it is there, and what is missing where not."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from myelin.boot.files import BootKind
from myelin.errors import HostError, InputError
from myelin.host.virtual_machine import LEAST_QEMU, find_firmware, qemu_version

__all__ = [
    "BACKENDS",
    "LOADER_BACKENDS",
    "MACHINE_BACKENDS",
    "Backend",
    "Choice",
    "choose_backend",
    "survey_backends",
]

BACKENDS = ("tdx", "snp", "sgx", "nitro", "kvm", "process")
"""Every backend's name, in the order in which one is chosen: hardware that attests itself, then walls."""

LOADER_BACKENDS = ("process", "kvm", "sgx")
"""Those that the loader itself has."""

MACHINE_BACKENDS = ("tdx", "snp")
"""Those that start a virtual machine from boot files (:mod:`myelin.boot`)."""

_NO_LOADER = "a loader for it in this version of Myelin"
_KVM_GET_API_VERSION = 0xAE00
_KVM_API_VERSION = 12


@dataclass(frozen=True)
class Backend:
    """One backend on this machine. It is there when nothing is missing."""

    name: str
    what: str
    missing: tuple[str, ...]

    @property
    def available(self) -> bool:
        """Whether an image can be started on it here."""
        return not self.missing

    def __str__(self) -> str:
        """Say it in a line."""
        if self.available:
            return f"{self.name}: {self.what}"
        return f"{self.name}: not here; missing: {'; '.join(self.missing)}"


@dataclass(frozen=True)
class Choice:
    """The backend that was chosen, and why."""

    backend: Backend
    reason: str


def _device(root: Path, path: str, meaning: str) -> list[str]:
    """What is missing of a device: nothing, the device, or the right to use it."""
    place = root / path
    if not place.exists():
        return [f"/{path} ({meaning})"]
    if not os.access(place, os.R_OK | os.W_OK):
        return [f"the right to read and write /{path}; join the group that has it"]
    return []


def _parameter(root: Path, path: str, meaning: str) -> list[str]:
    try:
        value = (root / path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return [f"/{path} ({meaning})"]
    return [] if value in ("Y", "1") else [f"/{path} is {value[:16]!r}, expected 'Y' ({meaning})"]


def _machine(root: Path, kind: BootKind) -> list[str]:
    """What is missing of what starts a confidential machine: QEMU in a version that can, a firmware."""
    version, least = qemu_version(), LEAST_QEMU[kind]
    wanted = f"QEMU {least[0]}.{least[1]} or newer"
    missing = []
    if version is None:
        missing.append(f"{wanted} (qemu-system-x86_64)")
    elif version < least:
        missing.append(f"{wanted}; qemu-system-x86_64 is {version[0]}.{version[1]}")
    if find_firmware(kind, root) is None:
        missing.append(
            f"a firmware for {kind.value} (package ovmf-inteltdx or ovmf-amdsev, or MYELIN_FIRMWARE)"
        )
    return missing


def _kvm(root: Path) -> list[str]:
    device = "dev/kvm"
    missing = _device(root, device, "the kernel's kvm module, and a processor that may virtualise")
    if missing:
        return missing
    try:
        descriptor = os.open(root / device, os.O_RDWR | os.O_CLOEXEC)
        try:
            version = fcntl.ioctl(descriptor, _KVM_GET_API_VERSION, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        return [f"a /dev/kvm that answers ({error.strerror})"]
    return (
        [] if version == _KVM_API_VERSION else [f"KVM's interface {_KVM_API_VERSION}; /dev/kvm has {version}"]
    )


def _process(root: Path) -> list[str]:
    there = (root / "proc/sys/kernel/seccomp/actions_avail").exists()
    return [] if there else ["seccomp filters (the kernel's CONFIG_SECCOMP_FILTER)"]


def _tdx(root: Path) -> list[str]:
    return [
        *_parameter(
            root, "sys/module/kvm_intel/parameters/tdx", "a host kernel with TDX, enabled in firmware"
        ),
        *_device(root, "dev/kvm", "the kernel's kvm_intel module"),
        *_machine(root, BootKind.TDX),
    ]


def _snp(root: Path) -> list[str]:
    return [
        *_parameter(
            root, "sys/module/kvm_amd/parameters/sev_snp", "a host kernel with SEV-SNP, enabled in firmware"
        ),
        *_device(root, "dev/sev", "the kernel's ccp module"),
        *_machine(root, BootKind.SNP),
    ]


def _sgx(root: Path) -> list[str]:
    socket = "var/run/aesmd/aesm.socket"
    missing = _device(root, "dev/sgx_enclave", "Linux 5.11 or newer with CONFIG_X86_SGX")
    if missing:
        missing += _sgx_processor(root)
    elif _noexec(root, "/dev"):
        missing.append("/dev mounted without noexec: an enclave's code is mapped from it")
    if not (root / socket).exists():
        missing.append(f"/{socket} (Intel's AESM service, which makes quotes)")
    elif not os.access(root / socket, os.R_OK | os.W_OK):
        missing.append(f"the right to use /{socket}; join the group that has it")
    return missing


def _sgx_processor(root: Path) -> list[str]:
    """What the processor lacks, where there is no driver: it is the driver that says nothing then."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    if "sgx" not in flags:
        return ["a processor with SGX, enabled in firmware (no flag sgx in /proc/cpuinfo)"]
    return [] if "sgx_lc" in flags else ["flexible launch control, enabled in firmware (no flag sgx_lc)"]


def _noexec(root: Path, place: str) -> bool:
    try:
        lines = (root / "proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    rows = [line.split() for line in lines]
    return any(len(row) > 3 and row[1] == place and "noexec" in row[3].split(",") for row in rows)


def _nitro(root: Path) -> list[str]:
    return [
        *_device(
            root, "dev/nitro_enclaves", "an EC2 instance with enclaves, and the kernel's nitro_enclaves"
        ),
        _NO_LOADER,
    ]


_PROBES: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "tdx": ("a virtual machine that Intel's processor encrypts and attests", _tdx),
    "snp": ("a virtual machine that AMD's processor encrypts and attests", _snp),
    "sgx": ("an enclave of Intel's processor", _sgx),
    "nitro": ("an enclave of AWS's hypervisor", _nitro),
    "kvm": ("a virtual machine without a kernel, inside a locked-down process; no attestation", _kvm),
    "process": ("a locked-down process; no attestation", _process),
}


def survey_backends(root: Path = Path("/")) -> tuple[Backend, ...]:
    """Look for every backend. ``root`` is where ``dev``, ``sys``, ``proc`` and ``var`` are."""
    return tuple(Backend(name, what, tuple(probe(root))) for name, (what, probe) in _PROBES.items())


def _takes(backend: Backend, image: Path | None) -> bool:
    """Whether a backend starts from what ``image`` is: a folder of boot files, or an image file."""
    return image is None or (backend.name in MACHINE_BACKENDS) == image.is_dir()


def choose_backend(name: str = "auto", root: Path = Path("/"), image: Path | None = None) -> Choice:
    """Choose the named backend, or with ``auto`` the first there is in the order of :data:`BACKENDS`.

    With ``image``, ``auto`` passes over those that do not start from what it is: virtual machines start from
    a folder of boot files (:mod:`myelin.boot`), the others from an image file.

    Raises:
        InputError: there is no backend of that name.
        HostError: it is not on this machine; says all that is missing.
    """
    backends = survey_backends(root)
    if name != "auto":
        for backend in backends:
            if backend.name == name:
                if not backend.available:
                    raise HostError(f"backend {backend}. Use --backend auto for what there is")
                return Choice(backend, "asked for")
        raise InputError(f"backend is {name!r}; expected auto or one of {', '.join(BACKENDS)}")
    for place, backend in enumerate(backends):
        if backend.available and _takes(backend, image):
            passed = ", ".join(other.name for other in backends[:place])
            what = (
                "" if image is None else f" and takes {'boot files' if image.is_dir() else 'an image file'}"
            )
            return Choice(backend, f"the first that is here{what}; before it {passed} are not")
    if image is not None and any(backend.available for backend in backends):
        what = "boot files" if image.is_dir() else "an image file"
        raise HostError(f"no backend here takes {what}:\n" + "\n".join(map(str, backends)))
    raise HostError("no backend is here:\n" + "\n".join(map(str, backends)))
