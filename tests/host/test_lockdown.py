"""What an image cannot do, tried by an image; and what the process looks like from outside."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from myelin.errors import HostError
from myelin.host import Enclave

Deny = Callable[[int, list[int]], Path]

FORBIDDEN_CALLS = {
    "open": 2,
    "close": 3,
    "stat": 4,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "ioctl": 16,
    "dup2": 33,
    "getpid": 39,
    "socket": 41,
    "connect": 42,
    "clone": 56,
    "fork": 57,
    "execve": 59,
    "exit": 60,
    "kill": 62,
    "ptrace": 101,
    "prctl": 157,
    "arch_prctl": 158,
    "clock_gettime": 228,
    "openat": 257,
    "unshare": 272,
    "process_vm_readv": 310,
    "seccomp": 317,
    "memfd_create": 319,
    "io_uring_setup": 425,
    "clone3": 435,
    "open of the x32 interface": 0x4000_0002,
    "read from an address as descriptor": 0,
    "write to an address as descriptor": 1,
}


NAMESPACES = {
    "user_namespace": "user",
    "mount_namespace": "mnt",
    "network_namespace": "net",
    "pid_namespace": "pid",
    "ipc_namespace": "ipc",
    "uts_namespace": "uts",
    "cgroup_namespace": "cgroup",
}


def stopped_by(enclave: Enclave, order: bytes) -> str:
    """The signal that ended it; in a virtual machine or an SGX enclave every fault is one and the same end.

    A stand-in for the latter is a process in which a system call is one.
    """
    backend = enclave.report["backend"]
    ends = {"process": "SIG", "kvm": "a fault in its", "sgx": "(a fault in its|SIGSYS)"}
    with pytest.raises(HostError, match=f"stopped by {ends[backend]}") as caught:
        enclave.call(order, timeout_s=10)
    if "stopped by a fault" in str(caught.value):
        return "fault"
    found = re.search(r"SIG[A-Z]+", str(caught.value))
    assert found, caught.value
    return found.group()


@pytest.mark.parametrize("number", FORBIDDEN_CALLS.values(), ids=FORBIDDEN_CALLS.keys())
def test_a_forbidden_system_call_ends_the_process(enclave: Enclave, number: int) -> None:
    assert stopped_by(enclave, b"C" + number.to_bytes(4, "little")) in ("SIGSYS", "fault")


def test_the_end_is_named_in_words(enclave: Enclave) -> None:
    words = {
        "process": r"SIGSYS: a forbidden system call$",
        "kvm": r"a fault in its virtual machine or SGX enclave: .* a system call, ",
        "sgx": r"(SIGSYS: a forbidden system call$|a fault in its .* a system call, )",
    }
    with pytest.raises(HostError, match=r"^the enclave was stopped by " + words[enclave.report["backend"]]):
        enclave.call(b"C" + (2).to_bytes(4, "little"))


@pytest.mark.parametrize("descriptor", range(1, 24))  # the image's own is among them
def test_only_messages_can_be_read(enclave: Enclave, descriptor: int) -> None:
    assert stopped_by(enclave, bytes([ord("R"), descriptor])) in ("SIGSYS", "fault")


@pytest.mark.parametrize("descriptor", [0, 2, 3, 4])
def test_only_answers_can_be_written(enclave: Enclave, descriptor: int) -> None:
    assert stopped_by(enclave, bytes([ord("P"), descriptor])) in ("SIGSYS", "fault")


def test_memory_that_is_writable_and_executable_cannot_be_had(enclave: Enclave) -> None:
    assert stopped_by(enclave, b"M") in ("SIGSYS", "fault")


def test_a_system_call_of_the_32_bit_interface_ends_the_process(enclave: Enclave) -> None:
    # SIGSEGV where the kernel has no such interface.
    assert stopped_by(enclave, b"8") in ("SIGSYS", "SIGSEGV", "fault")


@pytest.mark.parametrize(
    ("order", "signal"),
    [(b"W", "SIGSEGV"), (b"X", "SIGSEGV"), (b"J", "SIGSEGV"), (b"T", "SIGSEGV"), (b"I", "SIGILL")],
    ids=["write where nothing is", "write into code", "run data", "read the clock", "no such instruction"],
)
def test_a_fault_ends_the_process_under_its_own_name(enclave: Enclave, order: bytes, signal: str) -> None:
    assert stopped_by(enclave, order) in (signal, "fault")


def inner(enclave: Enclave) -> Path:
    """`/proc` of the process that holds the image."""
    (child,) = Path(f"/proc/{enclave.pid}/task/{enclave.pid}/children").read_text().split()
    return Path("/proc") / child


def status(process: Path) -> dict[str, str]:
    lines = (process / "status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_the_kernel_confirms_the_report(enclave: Enclave) -> None:
    process, lockdown = inner(enclave), enclave.report["lockdown"]
    found = status(process)
    assert found["NoNewPrivs"] == "1"
    assert found["Seccomp"] == "2"
    assert int(found["Seccomp_filters"]) >= 3
    # Newer kernels lend KVM a thread of their own, which appears among the process's.
    assert found["Threads"] in ("2", "3" if enclave.report["backend"] == "kvm" else "2")
    assert {int(word) for word in found["Uid"].split()} != {0}
    if lockdown["no_capabilities"]["applied"]:
        assert {found[f"Cap{name}"].strip("0") for name in ("Inh", "Prm", "Eff", "Amb")} == {""}
    for thread in (process / "task").iterdir():
        assert status(thread)["Seccomp_filters"] == found["Seccomp_filters"]
    assert status(Path(f"/proc/{enclave.pid}"))["Seccomp"] == "2"


def test_layers_that_must_hold_are_reported(enclave: Enclave) -> None:
    layers = enclave.report["lockdown"]
    for name in (
        "no_new_privs",
        "seccomp_loading",
        "seccomp_running",
        "not_root",
        "environment",
        "no_core",
        "descriptors",
    ):
        assert layers[name]["applied"] is True, name
    for layer in layers.values():
        assert set(layer) == {"applied", "detail"}
        assert layer["detail"]


@pytest.mark.skipif(os.geteuid() != 0, reason="another's /proc entries are closed, which is the point")
def test_nothing_is_left_to_reach(image: Path, loader: Path, backend: str, tmp_path: Path) -> None:
    wrapper = tmp_path / "loader"
    wrapper.write_text(f'#!/bin/sh\nexec 9</etc/passwd 8</dev/null\nexec {loader} "$@"\n')
    wrapper.chmod(0o755)
    with Enclave.start(image, threads=2, loader=wrapper) as enclave:
        process, layers = inner(enclave), enclave.report["lockdown"]
        open_now = {entry.name: os.readlink(entry) for entry in (process / "fd").iterdir()}
        assert all(open_now.pop(name).startswith("pipe:") for name in "01")
        kept = {
            "kvm": ["anon_inode:kvm-vcpu:0", "anon_inode:kvm-vcpu:1"],
            "sgx": ["/dev/sgx_enclave"],
            "sgx-stand-in": ["/memfd:enclave (deleted)"],
        }
        assert sorted(open_now.values()) == kept.get(backend, [])
        core = re.search(r"Max core file size +(\d+) +(\d+)", (process / "limits").read_text())
        assert core is not None
        assert core.groups() == ("0", "0")
        if layers["empty_root"]["applied"]:
            assert list((process / "root").iterdir()) == []
        for layer, link in NAMESPACES.items():
            if layers[layer]["applied"]:
                assert os.readlink(process / "ns" / link) != os.readlink(f"/proc/self/ns/{link}"), layer
        links = [os.readlink(entry) for entry in Path(f"/proc/{enclave.pid}/fd").iterdir()]
        assert sorted(link.split(":")[0] for link in links) == ["anon_inode", "pipe", "pipe"], links


def test_the_enclave_dies_with_its_supervisor(enclave: Enclave) -> None:
    process = inner(enclave)
    os.kill(enclave.pid, signal.SIGKILL)
    with pytest.raises(HostError, match="SIGKILL"):
        enclave.call(b"F", timeout_s=10)
    deadline = time.monotonic() + 5
    while process.exists() and status(process)["State"][0] not in "ZX":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_environment_is_wiped_even_when_the_host_gives_one(
    image: Path, loader: Path, tmp_path: Path
) -> None:
    wrapper = tmp_path / "loader"
    wrapper.write_text(f'#!/bin/sh\nMYELIN_TEST_SECRET=visible exec {loader} "$@"\n')
    wrapper.chmod(0o755)
    with Enclave.start(image, threads=1, loader=wrapper) as enclave:
        for process in (inner(enclave), Path(f"/proc/{enclave.pid}")):
            try:
                assert b"visible" not in (process / "environ").read_bytes()
            except PermissionError:
                assert os.geteuid() != 0


def test_the_loader_refuses_to_run_unsealed(image: Path, deny: Deny) -> None:
    seccomp = 317
    with pytest.raises(HostError, match="not_sealed: seccomp cannot be applied"):
        Enclave.start(image, threads=2, loader=deny(errno.EPERM, [seccomp]))


def test_without_namespaces_the_rest_holds_and_it_is_said(image: Path, deny: Deny) -> None:
    unshare = 272
    with Enclave.start(image, threads=2, loader=deny(errno.EPERM, [unshare])) as enclave:
        layers = enclave.report["lockdown"]
        for name in NAMESPACES:
            assert layers[name] == {
                "applied": False,
                "detail": "EPERM: Operation not permitted",
            }
        assert layers["seccomp_running"]["applied"]
        assert stopped_by(enclave, b"C" + (2).to_bytes(4, "little")) in ("SIGSYS", "fault")


def test_without_landlock_it_is_said(image: Path, deny: Deny) -> None:
    landlock_create_ruleset = 444
    with Enclave.start(image, threads=1, loader=deny(errno.ENOSYS, [landlock_create_ruleset])) as enclave:
        assert enclave.report["lockdown"]["landlock"] == {"applied": False, "detail": "not in this kernel"}
        assert enclave.call(b"z") == b"z"


def test_memory_that_cannot_be_locked_is_said_with_what_to_do(image: Path, deny: Deny, backend: str) -> None:
    if backend.startswith("sgx"):
        pytest.skip("an enclave's memory is not this process's")
    mlock2 = 325
    with Enclave.start(image, threads=1, loader=deny(errno.ENOMEM, [mlock2])) as enclave:
        layer = enclave.report["lockdown"]["memory_locked"]
        assert layer["applied"] is False
        assert "RLIMIT_MEMLOCK" in layer["detail"]


def test_touched_arena_is_locked(make_image: Callable[..., Path], loader: Path, backend: str) -> None:
    if backend.startswith("sgx"):
        pytest.skip("an enclave's memory is not this process's")
    arena_bytes = 8 << 20
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    with Enclave.start(make_image(ARENA_BYTES=arena_bytes), threads=1, loader=loader) as enclave:
        layer = enclave.report["lockdown"]["memory_locked"]
        if not layer["applied"]:
            assert 0 <= hard < 2 * arena_bytes
            assert re.match(
                r"\d+ of \d+ bytes \(E[A-Z]+: .*\); this machine (has no swap now|may swap)\.",
                layer["detail"],
            )
            return
        enclave.call(b"A")
        assert int(status(inner(enclave))["VmLck"].split()[0]) * 1024 >= arena_bytes
