"""What is found of each backend, in folders that look like machines and on this one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from myelin.errors import HostError, InputError
from myelin.host import BACKENDS, Enclave, choose_backend, survey_backends
from myelin.host.backends import LOADER_BACKENDS, MACHINE_BACKENDS


def machine(folder: Path, *files: str, **contents: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(contents.get(name.rpartition("/")[2], ""))
    return folder


SECCOMP = "proc/sys/kernel/seccomp/actions_avail"


def missing(root: Path) -> dict[str, str]:
    return {backend.name: "; ".join(backend.missing) for backend in survey_backends(root)}


def test_every_backend_is_looked_for_in_its_order(tmp_path: Path) -> None:
    assert tuple(backend.name for backend in survey_backends(tmp_path)) == BACKENDS


def test_what_an_empty_machine_lacks_is_named(tmp_path: Path) -> None:
    said = missing(tmp_path)
    assert "/sys/module/kvm_intel/parameters/tdx (" in said["tdx"]
    assert "/sys/module/kvm_amd/parameters/sev_snp (" in said["snp"]
    assert "/dev/sev (" in said["snp"]
    assert "/dev/sgx_enclave (" in said["sgx"]
    assert "aesm.socket (" in said["sgx"]
    assert "/dev/nitro_enclaves (" in said["nitro"]
    assert "/dev/kvm (" in said["kvm"]
    assert "seccomp" in said["process"]
    with pytest.raises(HostError, match=r"(?s)no backend is here:.*tdx: not here.*process: not here"):
        choose_backend(root=tmp_path)


def test_what_is_there_is_not_said_to_be_missing(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        *("dev/sgx_enclave", "var/run/aesmd/aesm.socket", "dev/nitro_enclaves", "dev/sev", SECCOMP),
        *("sys/module/kvm_intel/parameters/tdx", "sys/module/kvm_amd/parameters/sev_snp"),
        tdx="Y\n",
        sev_snp="N\n",
    )
    said = missing(root)
    loader = "a loader for it in this version of Myelin"
    assert (said["sgx"], said["nitro"], said["process"]) == (loader, loader, "")
    assert all(loader not in said[name] for name in ("tdx", "snp"))
    assert "parameters/tdx" not in said["tdx"]
    assert "sev_snp is 'N', expected 'Y'" in said["snp"]
    assert "/dev/sev" not in said["snp"]


def test_a_file_that_is_not_kvm_is_not_taken_for_it(tmp_path: Path) -> None:
    root = machine(tmp_path, "dev/kvm", SECCOMP)
    assert "a /dev/kvm that answers" in missing(root)["kvm"]
    choice = choose_backend(root=root)
    assert choice.backend.name == "process"
    assert choice.reason == "the first that is here; before it tdx, snp, sgx, nitro, kvm are not"


def test_auto_takes_what_starts_from_what_is_given(tmp_path: Path) -> None:
    root = machine(tmp_path, SECCOMP)
    choice = choose_backend(root=root, image=tmp_path / SECCOMP)
    assert (choice.backend.name, choice.reason.partition(";")[0]) == (
        "process",
        "the first that is here and takes an image file",
    )
    with pytest.raises(HostError, match="no backend here takes boot files:\ntdx: not here"):
        choose_backend(root=root, image=tmp_path)


@pytest.mark.parametrize("name", [name for name in BACKENDS if name not in LOADER_BACKENDS])
def test_hardware_that_is_asked_for_and_not_there_says_what_is_missing(name: str) -> None:
    with pytest.raises(HostError, match=rf"backend {name}: not here; missing: ."):
        choose_backend(name)


def test_a_backend_that_nobody_knows_is_refused(image: Path) -> None:
    with pytest.raises(InputError, match="expected auto or one of tdx, snp"):
        choose_backend("qemu")
    with pytest.raises(InputError, match="this version has process, kvm, tdx, snp"):
        Enclave.start(image, backend="sgx")


@pytest.mark.parametrize("backend", MACHINE_BACKENDS)
def test_a_virtual_machine_is_started_from_boot_files(image: Path, backend: str) -> None:
    with pytest.raises(InputError, match=r"manifest.json: .*make boot files with `myelin image`"):
        Enclave.start(image, backend=backend)


def test_what_a_virtual_machine_is_started_with_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho QEMU emulator version 9.1.2 '(Debian)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.delenv("MYELIN_FIRMWARE", raising=False)
    said = missing(machine(tmp_path, "usr/share/ovmf/OVMF.inteltdx.fd"))
    assert "QEMU 10.1 or newer; qemu-system-x86_64 is 9.1" in said["tdx"]
    assert "a firmware for" not in said["tdx"]
    assert "QEMU" not in said["snp"]
    assert "a firmware for snp (" in said["snp"]
    monkeypatch.setenv("MYELIN_FIRMWARE", str(program))
    assert "a firmware for" not in missing(tmp_path)["snp"]
    program.unlink()
    assert "QEMU 9.1 or newer (qemu-system-x86_64)" in missing(tmp_path)["snp"]


def test_the_backend_that_was_asked_for_runs_it_and_measures_the_same(image: Path, backend: str) -> None:
    with Enclave.start(image, threads=2, backend=backend) as enclave:
        assert enclave.report["backend"] == backend
        assert enclave.report["measurement"] == hashlib.sha256(image.read_bytes()).hexdigest()
        assert ("virtual_machine" in enclave.report["lockdown"]) == (backend == "kvm")
        assert enclave.call(b"z") == b"z"


def test_kvm_that_does_not_answer_is_said_by_the_loader(
    image: Path, backend: str, deny: Callable[[int, list[int]], Path]
) -> None:
    if backend != "kvm":
        pytest.skip("the process asks nothing of KVM")
    ioctl = 16
    with pytest.raises(HostError, match=r"backend_missing: KVM answers with interface version -1"):
        Enclave.start(image, threads=1, loader=deny(errno.EPERM, [ioctl]))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_kvm_that_may_not_be_opened_is_said_by_the_loader(program: Path, image: Path) -> None:
    descriptor = os.open(program, os.O_RDONLY)
    with image.open("rb") as file:
        words = ["loader", "--threads", "1", "--image-fd", str(file.fileno()), "--backend", "kvm"]
        done = subprocess.run(
            words,
            executable=f"/proc/self/fd/{descriptor}",
            pass_fds=(descriptor, file.fileno()),
            user=65_534,
            group=65_534,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
            timeout=10,
        )
    os.close(descriptor)
    device = Path("/dev/kvm")
    if device.exists() and device.stat().st_mode & 0o006 == 0o006:
        pytest.skip("everybody may use /dev/kvm here")
    assert done.returncode == 1
    assert json.loads(done.stdout[4:])["error"]["name"] == "backend_missing"
    assert "/dev/kvm cannot be opened: " in json.loads(done.stdout[4:])["error"]["message"]
