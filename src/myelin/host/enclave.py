"""One running enclave: the loader's process, its report, and messages to and from it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from myelin.boot.files import BootKind, read_boot_files
from myelin.errors import HostError, InputError
from myelin.host.aesm import Aesm
from myelin.host.backends import LOADER_BACKENDS, MACHINE_BACKENDS
from myelin.host.frames import EndOfStreamError, FrameError, receive_frame, send_bytes, send_frame
from myelin.host.loader import find_loader
from myelin.host.nitro import nitro_command
from myelin.host.sgx import Quoter, evidence_message, quoted_evidence, wants_evidence
from myelin.host.virtual_machine import confidential_command

__all__ = ["Enclave"]

_MOST_BYTES = 1 << 20
_MOST_SENT_BYTES = (1 << 32) - 1
_MOST_THREADS = 16
_MOST_STDERR_BYTES = 1 << 16
_PIPE_BYTES = 1 << 20
_ORDERLY_END_S = 5.0
_MOST_SHOWN = 2000
_ESCAPES = re.compile(r"\x1b\[[0-9;?=]*[A-Za-z]")
_REPORT_WANTED = b"\xff\xff\xff\xff"
_TARGET_INFO_BYTES, _REPORT_BYTES = 512, 432


def _thread_count() -> int:
    return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0))))


def _spawn(command: Sequence[str], kept: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a program with the descriptors ``kept``."""
    try:
        return subprocess.Popen(  # noqa: S603
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(kept),
            env={},
            cwd="/",
            # Its own session: Ctrl-C at the terminal comes to this process, which ends the enclave in order.
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        raise HostError(f"{command[0]} cannot be started: {error.strerror}") from None


def _open_sigstruct(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            f"SIGSTRUCT {path}: {error.strerror}; sign the image for this machine with `myelin sign-sgx`"
        ) from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill, reap, and close every pipe. Does nothing to a process that is gone."""
    with contextlib.suppress(OSError):
        process.kill()
    with contextlib.suppress(Exception):
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()


def _shown(said: bytes) -> str:
    """The end of what a program, or a machine's console, said: plain text, nothing that steers a terminal."""
    text = _ESCAPES.sub("", said.decode("ascii", "replace"))
    plain = "".join(c for c in text if c == "\n" or c.isprintable())
    return "\n".join(line for line in plain[-_MOST_SHOWN:].splitlines() if line.strip()).strip()


class Enclave:
    """A running enclave; make one with :meth:`start`, and use it as a context manager.

    Leaving the block ends the process; so do losing the object and the end of this Python, however it comes:
    the loader's supervisor ends itself and the enclave when nobody reads its output any more.
    One message is on its way at a time; calls from several threads take turns.
    """

    def __init__(self, process: subprocess.Popen[bytes], image: Path) -> None:
        """For :meth:`start`, which also reads the report."""
        self._process = process
        self._image = image
        self._quoter: Quoter | None = None
        self._lock = threading.Lock()
        self._failure: HostError | None = None
        self._finalizer = weakref.finalize(self, _end, process)
        self.report: Mapping[str, Any] = MappingProxyType({})
        """What the loader says: ``measurement`` (hex), ``backend``, ``abi``, ``target``, ``threads``,
        ``memory`` (bytes) and ``lockdown``, a map from layer to ``{"applied": bool, "detail": text}``.
        The word of an untrusted process."""

    @classmethod
    def start(
        cls,
        image: Path,
        threads: int | None = None,
        *,
        backend: str = "process",
        sigstruct: Path | None = None,
        quoter: Quoter | None = None,
        loader: Path | None = None,
        timeout_s: float = 60.0,
    ) -> Enclave:
        """Run ``image``, lending ``threads`` threads.

        Unless said, as many as this process may use processors, at most 16. ``backend`` is what runs the
        image: ``process``, the loader's own process, ``kvm``, a virtual machine without a kernel inside of
        it, ``sgx``, an enclave of the processor, which ``sigstruct`` starts (unless said, the file beside
        the image with the suffix ``.sigstruct``) and whose reports ``quoter`` signs (unless said, the
        machine's AESM), or ``tdx`` and ``snp``, a confidential virtual machine, for which ``image`` is a
        folder of boot files (:mod:`myelin.boot`). ``loader`` is the program to use instead of what
        :func:`find_loader` finds; ``timeout_s`` is for the start alone.

        Raises:
            InputError: the image cannot be opened, the number of threads is not 1 to 16, or there is no such
                backend.
            BuildError: there is no loader and it cannot be built.
            HostError: the loader refused the image or died; says why, by the loader's own name for the
                reason.
        """
        threads = _thread_count() if threads is None else threads
        if not 1 <= threads <= _MOST_THREADS:
            raise InputError(f"threads is {threads}; expected 1 to {_MOST_THREADS}")
        if backend in MACHINE_BACKENDS:
            boot = read_boot_files(image)
            if boot.kind.value != backend:
                raise InputError(f"{image} has boot files for {boot.kind.value}; the backend is {backend}")
            make_command = nitro_command if boot.kind is BootKind.NITRO else confidential_command
            return cls.of_program(make_command(boot, threads), image, timeout_s=timeout_s)
        if backend not in LOADER_BACKENDS:
            names = ", ".join((*LOADER_BACKENDS, *MACHINE_BACKENDS))
            raise InputError(f"backend is {backend!r}; this version has {names}")
        program = (find_loader() if loader is None else loader).absolute()
        try:
            descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"image {image}: {error.strerror}; make one with `myelin build`") from None
        words = ["--threads", str(threads), "--image-fd", str(descriptor), "--backend", backend]
        kept = [descriptor]
        try:
            if backend == "sgx":
                kept.append(_open_sigstruct(sigstruct or Path(f"{image}.sigstruct")))
                words += ["--sigstruct-fd", str(kept[-1])]
                quoter = quoter or Aesm()
            command = [str(program), *words]
            return cls.of_program(
                command, image, kept=kept, quoter=quoter if backend == "sgx" else None, timeout_s=timeout_s
            )
        finally:
            for each in kept:
                os.close(each)

    @classmethod
    def of_program(
        cls,
        command: Sequence[str],
        image: Path,
        *,
        kept: Sequence[int] = (),
        quoter: Quoter | None = None,
        timeout_s: float = 60.0,
    ) -> Enclave:
        """Run a program that speaks the loader's frames on its standard input and output.

        ``kept`` are descriptors that it inherits; ``image`` is what messages call it; ``quoter`` signs the
        reports of an SGX enclave.

        Raises:
            HostError: it cannot be started, refused the image, or died.
        """
        process = _spawn(command, kept)
        enclave = cls(process, Path(image))
        enclave._quoter = quoter
        try:
            enclave._prepare(timeout_s)
        except BaseException:
            enclave.kill()
            raise
        return enclave

    def _prepare(self, timeout_s: float) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            # A whole message fits, so that each side works while the other does; only speed depends on it.
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        frame = self._exchange(None, time.monotonic() + timeout_s)
        try:
            report = json.loads(frame)
            if "error" in report:
                refusal = report["error"]
                reason = f"{refusal['name']}: {refusal['message']}"
                raise HostError(f"the loader refused {self._image}: {reason}")
            report["measurement"], report["lockdown"]
        except (ValueError, TypeError, KeyError):
            raise HostError(f"the loader's report is not of its form: {frame[:200]!r}") from None
        self.report = MappingProxyType(report)

    @property
    def pid(self) -> int:
        """Process id of the loader's supervisor, the parent of the process that holds the image."""
        return self._process.pid

    def call(self, message: bytes, timeout_s: float | None = None) -> bytes:
        """Send one message and return its answer.

        A message may take as long as it takes, so there is no timeout unless asked for. When one passes, or
        the wait is interrupted, the enclave is ended: an answer that comes later would be taken for the next
        message's. A message that is too long is carried all the same, for the enclave to refuse.

        Raises:
            HostError: the enclave has ended, and how; after that every call raises it again.
        """
        if len(message) > _MOST_SENT_BYTES:
            raise HostError(
                f"a message of {len(message)} bytes fits no frame; at most {_MOST_BYTES} are accepted"
            )
        with self._lock:
            if self._failure is not None:
                raise HostError(str(self._failure))
            deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
            answer = self._exchange(message, deadline_s)
            wanted = None if self._quoter is None else wants_evidence(answer)
            if self._quoter is None or wanted is None:
                return answer
            report = self._report(self._quoter.target_info(), deadline_s)
            evidence = quoted_evidence(report, wanted, self._quoter)
            return self._exchange(evidence_message(evidence), deadline_s)

    def sgx_report(self, target_info: bytes, timeout_s: float | None = None) -> bytes:
        """The enclave's REPORT (432 bytes) for whom ``target_info`` (512 bytes) names; of ``sgx`` alone.

        What the image wants evidence for is in it, and zeros where it wants none.

        Raises:
            HostError: the backend is another, or the enclave has ended.
        """
        with self._lock:
            if self._failure is not None:
                raise HostError(str(self._failure))
            return self._report(target_info, None if timeout_s is None else time.monotonic() + timeout_s)

    def _report(self, target_info: bytes, deadline_s: float | None) -> bytes:
        if self.report["backend"] != "sgx" or len(target_info) != _TARGET_INFO_BYTES:
            raise HostError(
                f"a report is made by backend sgx for {_TARGET_INFO_BYTES} bytes of TARGETINFO; this is "
                f"{self.report['backend']}, and {len(target_info)} bytes were given"
            )
        report = self._exchange(target_info, deadline_s, _REPORT_WANTED)
        if len(report) != _REPORT_BYTES:
            raise HostError(f"the loader gave a report of {len(report)} bytes, expected {_REPORT_BYTES}")
        return report

    def _exchange(self, message: bytes | None, deadline_s: float | None, prefix: bytes = b"") -> bytes:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if message is not None and prefix:
                send_bytes(process.stdin.fileno(), prefix + message, deadline_s)
            elif message is not None:
                send_frame(process.stdin.fileno(), message, deadline_s)
            return receive_frame(process.stdout.fileno(), _MOST_BYTES, deadline_s)
        except EndOfStreamError:
            self._failure = HostError(self._how_it_ended())
        except TimeoutError:
            self._failure = HostError(
                "no answer in the time given; the enclave was ended, so that a late one misleads nobody"
            )
        except FrameError as error:
            self._failure = HostError(f"the loader does not keep to its form: {error}")
        except BaseException:
            self._failure = HostError("the enclave was ended, since waiting for its answer was interrupted")
            _end(process)
            raise
        _end(process)
        raise self._failure

    def _how_it_ended(self) -> str:
        """Say how the process ended, once its output is closed."""
        process = self._process
        try:
            code = process.wait(_ORDERLY_END_S)
        except subprocess.TimeoutExpired:
            return "the loader closed its output and did not end; it was killed"
        said = b""
        with contextlib.suppress(OSError):
            if process.stderr is not None:
                said = process.stderr.read(_MOST_STDERR_BYTES) or b""
        text = _shown(said).replace("myelin-loader: ", "")
        if code < 0:
            with contextlib.suppress(ValueError):
                text = text or f"the enclave was stopped by {signal.Signals(-code).name}"
        return text or f"the loader ended with exit code {code}"

    def close(self) -> None:
        """End in order: no more messages; killed if that does not end it within seconds."""
        with self._lock:
            if self._failure is None:
                self._failure = HostError("the enclave was closed")
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                if self._process.stdin is not None:
                    self._process.stdin.close()
                self._process.wait(_ORDERLY_END_S)
            self._finalizer()

    def kill(self) -> None:
        """End at once, from any thread, also while a call waits."""
        if self._failure is None:
            self._failure = HostError("the enclave was killed")
        with contextlib.suppress(OSError):
            self._process.kill()
        # A call that waits sees the end of the stream and clears up itself: closing its pipes under it would
        # let it read from whatever is opened next.
        if self._lock.acquire(blocking=False):
            try:
                self._finalizer()
            finally:
                self._lock.release()

    def __enter__(self) -> Enclave:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()
