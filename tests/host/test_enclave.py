"""A running enclave: messages, threads, and every way it can end."""

from __future__ import annotations

import hashlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import cbor2
import pytest

import myelin
from myelin.errors import BuildError, HostError, InputError
from myelin.host import Enclave, find_loader

MESSAGE_BYTES = 1 << 20


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 65_536, MESSAGE_BYTES - 1, MESSAGE_BYTES])
def test_messages_of_every_length_come_back(enclave: Enclave, length: int) -> None:
    message = bytes([0xFF]) * length
    assert enclave.call(message) == message


def test_the_report_measures_the_file_and_the_launch_says_it(image: Path, enclave: Enclave) -> None:
    measurement = hashlib.sha256(image.read_bytes())
    assert enclave.report["measurement"] == measurement.hexdigest()
    assert (enclave.report["threads"], enclave.report["target"], enclave.report["abi"]) == (2, "x86-64-v3", 1)
    assert cbor2.loads(enclave.call(b"L")) == [0, measurement.digest(), 2]


def test_bytes_behind_the_image_are_measured(image: Path, loader: Path, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(image.read_bytes() + b"more")
    with Enclave.start(path, threads=1, loader=loader) as enclave:
        assert enclave.report["measurement"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("threads", [1, 2, 3, 9, 16])
def test_every_thread_that_was_asked_for_comes_in_on_its_own_slot(
    image: Path, loader: Path, threads: int
) -> None:
    with Enclave.start(image, threads=threads, loader=loader) as enclave:
        for _ in range(3):
            seen = enclave.call(bytes([ord("N"), threads]), timeout_s=10)
            assert seen == bytes([1] * threads + [0] * (16 - threads))


def test_as_many_threads_as_processors_unless_said(image: Path, loader: Path) -> None:
    with Enclave.start(image, loader=loader) as enclave:
        assert enclave.report["threads"] == min(16, len(os.sched_getaffinity(0)))


def test_a_message_that_is_too_long_is_for_the_enclave_to_refuse(enclave: Enclave) -> None:
    for excess in (1, 4096, 5_000_000):
        assert enclave.call(bytes(MESSAGE_BYTES + excess), timeout_s=10) == cbor2.dumps([1, 101, ""])
    assert enclave.call(b"z") == b"z"


def test_lent_threads_sleep_while_nobody_asks(image: Path, loader: Path) -> None:
    with Enclave.start(image, threads=2, loader=loader) as enclave:
        enclave.call(b"z")
        (child,) = Path(f"/proc/{enclave.pid}/task/{enclave.pid}/children").read_text().split()
        time.sleep(0.05)
        before = Path(f"/proc/{child}/stat").read_text().split()[13:15]
        time.sleep(0.3)
        assert Path(f"/proc/{child}/stat").read_text().split()[13:15] == before


def test_an_enclave_that_stops_itself_answers_once_and_is_gone(enclave: Enclave) -> None:
    assert enclave.call(b"D") == cbor2.dumps([1, 901, ""])
    for _ in range(2):
        with pytest.raises(HostError, match="the enclave has stopped itself; its last answer says why"):
            enclave.call(b"z")


@pytest.mark.parametrize("order", [b"B", b"Q"], ids=["a reply longer than any", "a code that does not exist"])
def test_an_answer_outside_the_interface_ends_it(enclave: Enclave, order: bytes) -> None:
    with pytest.raises(HostError, match="answered outside its interface"):
        enclave.call(order)


def test_a_timeout_ends_it_so_that_no_late_answer_is_taken(enclave: Enclave) -> None:
    started = time.monotonic()
    with pytest.raises(HostError, match="no answer in the time given"):
        enclave.call(b"F", timeout_s=0.2)
    assert time.monotonic() - started < 5
    with pytest.raises(HostError, match="no answer in the time given"):
        enclave.call(b"z")


def test_kill_from_another_thread_ends_a_call_that_waits(enclave: Enclave) -> None:
    timer = threading.Timer(0.2, enclave.kill)
    timer.start()
    with pytest.raises(HostError, match="SIGKILL"):
        enclave.call(b"F")
    timer.join()


def test_calls_from_several_threads_take_turns(enclave: Enclave) -> None:
    wrong: list[bytes] = []

    def talk(letter: int) -> None:
        for length in range(1, 200):
            message = bytes([letter]) * length
            if enclave.call(message) != message:
                wrong.append(message)

    threads = [threading.Thread(target=talk, args=(ord("a") + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_thread_that_starts_an_enclave_may_end(image: Path, loader: Path) -> None:
    started: list[Enclave] = []
    thread = threading.Thread(target=lambda: started.append(Enclave.start(image, threads=2, loader=loader)))
    thread.start()
    thread.join()
    with started[0] as enclave:
        time.sleep(0.1)
        assert enclave.call(b"z") == b"z"


def test_after_the_block_it_is_gone(image: Path, loader: Path) -> None:
    with Enclave.start(image, threads=2, loader=loader) as enclave:
        processes = pids(enclave)
    assert gone(processes)
    with pytest.raises(HostError, match="the enclave was closed"):
        enclave.call(b"z")


def pids(enclave: Enclave) -> list[int]:
    children = Path(f"/proc/{enclave.pid}/task/{enclave.pid}/children").read_text().split()
    return [enclave.pid, *map(int, children)]


def gone(processes: list[int]) -> bool:
    for _ in range(500):
        if not any(alive(process) for process in processes):
            return True
        time.sleep(0.01)
    return False


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


SCRIPT = """
import sys
from pathlib import Path
from myelin.host import Enclave
with Enclave.start(Path(sys.argv[1]), threads=2, loader=Path(sys.argv[2])) as enclave:
    children = Path(f"/proc/{enclave.pid}/task/{enclave.pid}/children").read_text()
    print(enclave.pid, *children.split(), flush=True)
    enclave.call(b"F")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_orphan_is_left_when_the_host_ends(image: Path, loader: Path, number: int) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(image), str(loader)],
        env={**os.environ, "PYTHONPATH": str(Path(myelin.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert host.stdout is not None
    processes = [int(word) for word in host.stdout.readline().split()]
    assert len(processes) == 2
    assert all(alive(process) for process in processes)
    os.killpg(host.pid, number)
    host.communicate(timeout=10)
    assert host.returncode in (-number, 1, 130)
    assert gone(processes)


def start_raw(loader: Path, image: Path, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    with image.open("rb") as file:
        descriptor = str(file.fileno())
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            [
                str(loader),
                *(
                    word.replace("FD", descriptor)
                    for word in arguments or ("--threads", "2", "--image-fd", "FD")
                ),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(file.fileno(),),
            **options,
        )


def frame(message: bytes) -> bytes:
    return struct.pack("<I", len(message)) + message


def frames(stream: bytes) -> list[bytes]:
    found = []
    while stream:
        (length,) = struct.unpack_from("<I", stream)
        found.append(stream[4 : 4 + length])
        assert len(found[-1]) == length
        stream = stream[4 + length :]
    return found


@pytest.mark.parametrize(
    ("sent", "answers", "code", "said"),
    [
        (b"", [], 0, b""),
        (frame(b"z"), [b"z"], 0, b""),
        (frame(b"z") + b"\1\0", [b"z"], 4, b"the input ended inside a frame"),
        (frame(b"z") + frame(b"yyy")[:-1], [b"z"], 4, b"the input ended inside a frame"),
        (b"\xfe\xff\xff\xff" + bytes(2_000_000), [], 4, b"the input ended inside a frame"),
        (frame(b"D") + frame(b"z"), [cbor2.dumps([1, 901, ""])], 3, b"the enclave has stopped itself"),
    ],
    ids=["nothing", "one message", "torn length", "torn message", "four gigabytes claimed", "death"],
)
def test_the_stream_ends_in_order(
    image: Path, loader: Path, sent: bytes, answers: list[bytes], code: int, said: bytes
) -> None:
    process = start_raw(loader, image)
    out, err = process.communicate(sent, timeout=10)
    assert frames(out)[1:] == answers
    assert process.returncode == code
    assert said in err


def test_an_output_that_nobody_reads_ends_it(image: Path, loader: Path) -> None:
    process = start_raw(loader, image)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=10) in (6, -signal.SIGKILL)
    process.stdin.close()


@pytest.mark.parametrize(
    "arguments",
    [("--threads", "0"), ("--threads", "17"), (), ("--threads", "2", "--image-fd", "1"), ("--open", "x")],
)
def test_wrong_arguments_are_explained(loader: Path, arguments: tuple[str, ...]) -> None:
    done = subprocess.run([str(loader), *arguments], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"usage: myelin-loader" in done.stderr
    assert done.stdout == b""


def test_a_descriptor_that_is_not_open_is_named(loader: Path, image: Path) -> None:
    process = start_raw(loader, image, "--threads", "1", "--image-fd", "77")
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 1
    assert b'"image_unreadable"' in frames(out)[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run without root then")
def test_an_ordinary_user_can_run_it(
    program: Path, image: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    nobody = 65_534
    # The temporary folders are closed to other users; a descriptor of the program is not.
    descriptor = os.open(program, os.O_RDONLY)
    with image.open("rb") as file:
        words = ["myelin-loader", "--threads", "2", "--image-fd", str(file.fileno())]
        process = subprocess.Popen(
            words,
            executable=f"/proc/self/fd/{descriptor}",
            pass_fds=(descriptor, file.fileno()),
            user=nobody,
            group=nobody,
            extra_groups=[],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    os.close(descriptor)
    out, err = process.communicate(frame(b"z") + frame(b"N\2"), timeout=10)
    report, *answers = frames(out)
    assert b'"not_root":{"applied":true,"detail":"user 65534"}' in report
    assert answers == [b"z", bytes([1, 1] + [0] * 14)]
    assert (process.returncode, err) == (0, b"")


def test_the_named_loader_must_be_a_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loader: Path
) -> None:
    monkeypatch.setenv("MYELIN_LOADER", str(loader))
    assert find_loader() == loader
    monkeypatch.setenv("MYELIN_LOADER", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"MYELIN_LOADER is .*none"):
        find_loader()


def test_what_is_missing_to_build_the_loader_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MYELIN_LOADER", raising=False)
    package = tmp_path / "src" / "myelin"
    monkeypatch.setattr("myelin.host.loader._PACKAGE", package)
    with pytest.raises(BuildError, match="not a source tree"):
        find_loader()
    (tmp_path / "loader" / "src").mkdir(parents=True)
    (tmp_path / "loader" / "Cargo.toml").write_text("not a manifest")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="install a Rust toolchain"):
        find_loader()


def test_what_is_no_loader_is_named(image: Path, tmp_path: Path) -> None:
    def program(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    cases: dict[str, tuple[Path, str]] = {
        "silent": (program("silent", "exit 9"), "exit code 9"),
        "loud": (program("loud", "yes | head -c 100000"), "does not keep to its form: a frame of"),
        "other": (program("other", r"printf '\002\000\000\000{}'"), "report is not of its form"),
    }
    for path, said in cases.values():
        with pytest.raises(HostError, match=said):
            Enclave.start(image, threads=1, loader=path)
    with pytest.raises(HostError, match="cannot be started"):
        Enclave.start(image, threads=1, loader=tmp_path / "none")


def test_no_compiler_is_needed() -> None:
    code = "import sys; sys.modules['tvm'] = None; import myelin.host"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(myelin.__file__).parents[1])}
    )
