"""A Nitro enclave's way in and out: a stand-in of ``nitro-cli``, whose enclave is the ordinary loader."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from myelin.errors import HostError
from myelin.host import Enclave, find_loader
from myelin.host.nitro import first_caller, relay_command

STAND_IN = """#!{python}
import json, os, pathlib, socket, sys
words = sys.argv[1:]
pathlib.Path({log!r}).open("a").write(" ".join(words) + "\\n")
if words[0] == "run-enclave":
    if {refuses}:
        print("E26 insufficient memory", file=sys.stderr)
        sys.exit(1)
    if os.fork() == 0:
        os.setsid()
        end = socket.socket(socket.AF_UNIX)
        end.connect({address!r})
        image = os.open({image!r}, os.O_RDONLY)
        os.set_inheritable(image, True)
        for place in (0, 1):
            os.dup2(end.fileno(), place)
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, 2)
        end.close()
        os.execv({loader!r}, [{loader!r}, "--threads", "1", "--image-fd", str(image), "--backend", "process"])
    sys.stdout.flush()
    print(json.dumps({{"EnclaveID": "i-1-enc2", "EnclaveCID": 16}}))
else:
    print(json.dumps({{"Terminated": True}}))
"""


def started(folder: Path, image: Path, *, refuses: bool = False) -> tuple[Enclave, Path]:
    """An enclave by the relay, and what the stand-in was asked."""
    log, address, file = folder / "asked", folder / "s", folder / "eif" / "enclave.eif"
    file.parent.mkdir()
    file.write_bytes(b"an image for the stand-in")
    cli = folder / "nitro-cli"
    text = STAND_IN.format(
        python=sys.executable,
        log=str(log),
        refuses=refuses,
        address=str(address),
        image=str(image),
        loader=str(find_loader()),
    )
    cli.write_text(text)
    cli.chmod(cli.stat().st_mode | stat.S_IXUSR)
    return Enclave.of_program(relay_command(file, str(cli), 1, 512, address), image), log


def test_messages_pass_and_the_enclave_is_ended(tmp_path: Path, image: Path) -> None:
    enclave, log = started(tmp_path, image)
    with enclave:
        answered = enclave.call(b"into the enclave")
        assert answered == b"into the enclave"
        assert enclave.report["backend"] == "process"
    asked = log.read_text().splitlines()
    file = tmp_path / "eif" / "enclave.eif"
    assert asked[0] == f"run-enclave --eif-path {file} --cpu-count 1 --memory 512"
    assert asked[1:] in ([], ["terminate-enclave --enclave-id i-1-enc2"])
    assert not os.path.exists(file)


def test_the_enclave_alone_is_taken_for_it() -> None:
    """Whoever else on the machine calls first is sent away."""
    stranger, strangers_end = socket.socketpair()
    enclave, enclaves_end = socket.socketpair()
    callers = iter([(stranger, (1, 700)), (enclave, (16, 700))])
    listener = SimpleNamespace(family=socket.AF_VSOCK, accept=lambda: next(callers))
    with strangers_end, enclaves_end, first_caller(listener, 16) as taken:  # type: ignore[arg-type]
        assert taken is enclave
        assert strangers_end.recv(1) == b""


def test_what_the_program_says_is_told(tmp_path: Path, image: Path) -> None:
    with pytest.raises(HostError, match="run-enclave: E26 insufficient memory"):
        started(tmp_path, image, refuses=True)
