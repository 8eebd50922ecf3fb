"""The virtual machine of the backend ``kvm``, tried from inside: what is there, and that nothing else is."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from myelin.errors import HostError
from myelin.host import Enclave, survey_backends

TRAMPOLINE, EXIT, FIRST_STACK = 0x10_0000, 0x10_1000, 0x20_1000
IMAGE, SHARED, TABLES = 0x1000_0000, 1 << 32, 1 << 33
PAGE, STACK_BYTES = 4096, 128 << 10
SHARED_BYTES = PAGE + (2 << 20)
FAULT = "stopped by a fault in its virtual machine"


def order(letter: bytes, address: int) -> bytes:
    return letter + struct.pack("<Q", address)


@pytest.fixture
def machine(image: Path, program: Path) -> Iterator[Enclave]:
    for there in survey_backends():
        if there.name == "kvm" and not there.available:
            pytest.skip(str(there))
    with Enclave.start(image, threads=2, backend="kvm", loader=program) as running:
        yield running


@pytest.mark.parametrize(
    ("letter", "address"),
    [
        (b"U", TRAMPOLINE),
        (b"U", FIRST_STACK),
        (b"V", FIRST_STACK),
        (b"U", FIRST_STACK + STACK_BYTES + PAGE),
        (b"U", IMAGE),
        (b"U", SHARED + SHARED_BYTES - 1),
    ],
    ids=["entry's page", "stack", "stack, written", "second stack", "image", "end of the shared region"],
)
def test_its_own_is_there(machine: Enclave, letter: bytes, address: int) -> None:
    assert len(machine.call(order(letter, address), timeout_s=10)) == (letter == b"U")
    assert machine.call(b"z") == b"z"


@pytest.mark.parametrize(
    "address",
    [
        *(0, PAGE, TRAMPOLINE - 1, TRAMPOLINE + 2 * PAGE),
        *(FIRST_STACK - 1, FIRST_STACK + STACK_BYTES, FIRST_STACK + STACK_BYTES + PAGE + STACK_BYTES),
        *(IMAGE - 1, 0x8000_0000, SHARED - 1, SHARED + SHARED_BYTES),
        *(TABLES, TABLES + PAGE, 1 << 46, (1 << 64) - PAGE),
    ],
    ids=hex,
)
@pytest.mark.parametrize("letter", [b"U", b"V"], ids=["read", "write"])
def test_nothing_else_is(machine: Enclave, letter: bytes, address: int) -> None:
    with pytest.raises(HostError, match=FAULT):
        machine.call(order(letter, address), timeout_s=10)


@pytest.mark.parametrize("address", [TRAMPOLINE, IMAGE], ids=["entry's page", "image's code"])
def test_code_cannot_be_written(machine: Enclave, address: int) -> None:
    with pytest.raises(HostError, match=FAULT):
        machine.call(order(b"V", address), timeout_s=10)


@pytest.mark.parametrize("address", [FIRST_STACK, SHARED + PAGE], ids=["stack", "message"])
def test_what_can_be_written_cannot_be_run(machine: Enclave, address: int) -> None:
    # As code, the order's own bytes would be an instruction, and zeros are one.
    with pytest.raises(HostError, match=FAULT):
        machine.call(order(b"K", address), timeout_s=10)


def test_it_cannot_wait_for_an_interrupt(machine: Enclave) -> None:
    with pytest.raises(HostError, match=FAULT):
        machine.call(b"H", timeout_s=10)


@pytest.mark.parametrize("port", [0, 0x20, 0x60, 0x80, 0xFF])
def test_no_port_is_there(machine: Enclave, port: int) -> None:
    with pytest.raises(HostError, match=FAULT):
        machine.call(bytes([ord("O"), port]), timeout_s=10)


@pytest.mark.parametrize("place", [(b"U", EXIT), (b"V", EXIT), (b"U", EXIT + 8), (b"V", EXIT + PAGE - 1)])
def test_the_way_out_is_for_a_whole_answer(machine: Enclave, place: tuple[bytes, int]) -> None:
    """The host asks nothing of the image but its answer, and gives nothing there."""
    with pytest.raises(HostError, match="answered outside its interface"):
        machine.call(order(*place), timeout_s=10)
