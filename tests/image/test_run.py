"""A real image, entered from this process: what its entry promises, and what is left when it stops itself."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import cbor2
from elftools.elf.elffile import ELFFile
from in_process import DEAD, IDLE, MESSAGE_BYTES, REFUSED, REPLY, InProcess
from test_check import patch, section

from myelin.image import BuiltImage

LAUNCH = cbor2.dumps([0, b"m" * 32, 2])
DESCRIBE = cbor2.dumps([1])


def test_launches_and_describes_itself(built: BuiltImage) -> None:
    with InProcess(built.path) as enclave:
        assert enclave.call(0, b"m" * 32, 2) == [0, 1]
        _, hpke_key, signing_key, plan, state = enclave.call(1)
        assert (len(hpke_key), len(signing_key)) == (1216, 65)
        assert (plan, state) == (built.plan_digest, "launched")


def test_each_start_has_keys_of_its_own(built: BuiltImage) -> None:
    keys = []
    for _ in range(2):
        with InProcess(built.path) as enclave:
            enclave.raw(LAUNCH)
            keys.append(enclave.call(1)[1:3])
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] != keys[1][1]


def test_hostile_messages_are_answered(built: BuiltImage) -> None:
    with InProcess(built.path) as enclave:
        enclave.raw(LAUNCH)
        for message in (b"", b"\xff", b"\x9b" + b"\xff" * 8, bytes(MESSAGE_BYTES), b"\x81" * 1000):
            code, reply = enclave.raw(message)
            assert (code, cbor2.loads(reply)[0]) == (REPLY, 1)
        ctypes.c_uint64.from_address(enclave.shared).value = MESSAGE_BYTES + 1
        assert enclave.enter(0, enclave.shared) == REPLY
        length = ctypes.c_uint64.from_address(enclave.shared + 8).value
        reply = ctypes.string_at(enclave.shared + 4096 + MESSAGE_BYTES, length)
        assert cbor2.loads(reply)[:2] == [1, 101]
        assert enclave.call(1)[0] == 0


def test_bad_slots_and_regions_are_refused(built: BuiltImage) -> None:
    with InProcess(built.path) as enclave:
        inside_the_image = 0x1000_0000
        for pointer in (0, 8, inside_the_image, inside_the_image - 4096, 1 << 47, (1 << 64) - 4096):
            assert enclave.enter(0, pointer) == REFUSED
        assert enclave.raw(LAUNCH)[0] == REPLY
        assert enclave.enter(16, enclave.shared) == REFUSED
        assert enclave.enter(1 << 63, enclave.shared) == REFUSED
        assert enclave.enter(0, enclave.shared + 4096) == REFUSED
        assert enclave.enter(15, enclave.shared) == IDLE


def test_lent_threads_come_and_go_while_messages_are_answered(built: BuiltImage) -> None:
    with InProcess(built.path) as enclave:
        enclave.raw(LAUNCH)
        first = enclave.raw(DESCRIBE)
        for threads in (1, 4):
            replies = enclave.lending(threads, lambda: {enclave.raw(DESCRIBE) for _ in range(50)})
            assert replies == {first}


def test_a_wrong_plan_stops_the_enclave_and_wipes_it(built: BuiltImage, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(built.path, tmp_path / "wrong.myelin"))
    start, size = section(path, ".myelin.plan")
    plan = path.read_bytes()[start : start + size]
    patch(path, start + plan.index(b"gversion\x06") + 8, b"\x01")
    with path.open("rb") as file:
        bss = ELFFile(file).get_section_by_name(".bss")
        address, size = bss["sh_addr"], bss["sh_size"]
    with InProcess(path) as enclave:
        code, reply = enclave.raw(LAUNCH)
        assert (code, cbor2.loads(reply)) == (DEAD, [1, 701, "fatal: version: not 5"])
        assert not any(ctypes.string_at(address, size))
        code, reply = enclave.raw(LAUNCH)
        assert (code, cbor2.loads(reply)[:2]) == (DEAD, [1, 901])
        assert enclave.enter(3, enclave.shared) == DEAD


def test_memory_that_was_used_is_not_zero_before_it_stops(built: BuiltImage) -> None:
    """What makes the test of wiping able to fail."""
    with built.path.open("rb") as file:
        bss = ELFFile(file).get_section_by_name(".bss")
    with InProcess(built.path) as enclave:
        enclave.raw(LAUNCH)
        assert any(ctypes.string_at(bss["sh_addr"], bss["sh_size"]))
