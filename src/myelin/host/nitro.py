"""Nitro enclaves: boot files as one image, started by AWS's ``nitro-cli``, spoken with over a socket.

:func:`relay_command` is what :class:`~myelin.host.Enclave` starts, a process of its own: it listens, has the
enclave started, takes its first caller, and carries bytes between that and its own standard input and output.
When either ends, so does the enclave. Init (``init/``) calls the socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from myelin.boot.files import BootFiles
from myelin.contract import write_whole
from myelin.errors import HostError
from myelin.measure import build_eif

__all__ = ["CLI", "first_caller", "nitro_command", "relay_command", "write_enclave_file"]

CLI = "nitro-cli"
"""AWS's program that gives an enclave processors and memory, and starts it."""

_PORT = 0x4D59
_START_TIMEOUT_S = 60
_END_TIMEOUT_S = 30
_PIECE_BYTES = 1 << 16
_MIB = 1 << 20


def write_enclave_file(boot: BootFiles, out: Path) -> Path:
    """Write boot files as one Nitro enclave image (EIF); the same bytes each time."""
    image = build_eif(
        boot.kernel.read_bytes(),
        [boot.initrd.read_bytes()],
        boot.command_line,
        memory_bytes=boot.memory_bytes,
    )
    write_whole(out, image)
    return out


def nitro_command(boot: BootFiles, threads: int) -> list[str]:
    """The command that starts the boot files as an enclave of this machine's.

    Raises:
        HostError: ``nitro-cli`` is missing.
    """
    cli = shutil.which(CLI)
    if cli is None:
        raise HostError(f"nitro: missing {CLI} (package aws-nitro-enclaves-cli)")
    folder = Path(tempfile.mkdtemp(prefix="myelin-nitro-"))
    image = write_enclave_file(boot, folder / "enclave.eif")
    memory_mib = -(-boot.memory_bytes // _MIB)
    return relay_command(image, cli, threads, memory_mib)


def relay_command(
    image: Path, cli: str, threads: int, memory_mib: int, address: Path | None = None
) -> list[str]:
    """The relay's command, which needs no environment; ``address`` is a path to listen at, in tests."""
    root = str(Path(__file__).resolve().parents[2])
    start = f"import sys; sys.path.insert(0, {root!r}); from myelin.host.nitro import main; main()"
    words = [str(image), cli, str(threads), str(memory_mib), *([] if address is None else [str(address)])]
    return [sys.executable, "-c", start, *words]


def _listener(address: str | None) -> socket.socket:
    """Where the enclave calls; ``address`` is a path instead, for tests."""
    if address is None:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((socket.VMADDR_CID_ANY, _PORT))
    else:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(address)
    listener.listen(1)
    listener.settimeout(_START_TIMEOUT_S)
    return listener


def _cli(program: str, *words: str, timeout_s: float) -> dict[str, object]:
    done = subprocess.run(  # noqa: S603
        [program, *words], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if done.returncode or not isinstance(answer, dict):
        raise HostError(f"{CLI} {words[0]}: {done.stderr.strip()[-500:] or 'no answer'}")
    return answer


def first_caller(listener: socket.socket, context: object) -> socket.socket:
    """The first who calls, who must be the enclave: others on this machine may call as well."""
    while True:
        try:
            connection, peer = listener.accept()
        except TimeoutError:
            raise HostError(f"the enclave did not call within {_START_TIMEOUT_S} s") from None
        if listener.family == socket.AF_UNIX or peer[0] == context:
            connection.settimeout(None)
            return connection
        connection.close()


def _carry(connection: socket.socket) -> None:
    """Bytes both ways, until either side ends. Whoever sends a message reads no other before its answer."""
    end = connection.fileno()
    with contextlib.suppress(OSError), connection:
        while True:
            ready, _, _ = select.select([0, end], [], [])
            if 0 in ready:
                if not (piece := os.read(0, _PIECE_BYTES)):
                    return
                connection.sendall(piece)
            if end in ready:
                if not (piece := connection.recv(_PIECE_BYTES)):
                    return
                view = memoryview(piece)
                while view:
                    view = view[os.write(1, view) :]


def main() -> None:
    """See the module."""
    image, cli, threads, memory_mib, *address = sys.argv[1:]
    enclave: object = None
    try:
        with _listener(address[0] if address else None) as listener:
            started = _cli(
                cli,
                "run-enclave",
                *("--eif-path", image),
                *("--cpu-count", threads),
                *("--memory", memory_mib),
                timeout_s=_START_TIMEOUT_S,
            )
            enclave = started.get("EnclaveID")
            connection = first_caller(listener, started.get("EnclaveCID"))
        _carry(connection)
    except (HostError, OSError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        with contextlib.suppress(OSError):
            Path(image).unlink()
            Path(image).parent.rmdir()
        if isinstance(enclave, str):
            with contextlib.suppress(HostError, OSError, subprocess.TimeoutExpired):
                _cli(cli, "terminate-enclave", "--enclave-id", enclave, timeout_s=_END_TIMEOUT_S)


if __name__ == "__main__":
    main()
