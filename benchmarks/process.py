"""A measured process as the harness holds it: started, asked over its pipes, ended. Protocol: protocol.py."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from .cases import ROOT, Case, environment, interpreter


class Gap(Exception):  # noqa: N818  (a result, not a mistake)
    """A process gave no number; the text says why."""


def without_paths(text: str) -> str:
    """The text with each absolute path cut to its last part: a report names no machine."""
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+([\w.+-]+)", r"\1", text)


class Measured:
    """One process. Every method raises :class:`Gap` when the process cannot go on; it is ended by then."""

    def __init__(self, case: Case, cores: list[int], preload: Path | None) -> None:
        self.case = case
        self.ready: dict[str, Any] = {}
        self.step_ms: list[float] = []
        self.peak_rss_mb = 0.0
        self.facts: dict[str, float] = {}
        self._lines: queue.Queue[str] = queue.Queue()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (read when the process has ended)
        python = interpreter(case.system)
        if not python.exists():
            raise Gap(f"its environment is not there ({python.relative_to(ROOT)})")
        words = [case.system, case.workload, case.mode, str(case.threads)]
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.child", *words],
            cwd=ROOT,
            env=environment(case.threads, cores, preload),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _answer(self, event: str, timeout_s: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self.end()
            raise Gap(f"no answer within {timeout_s:.0f} s") from None
        if not line:
            code = self._process.wait()
            raise Gap(
                f"ended by itself ({'signal' if code < 0 else 'status'} {abs(code)}): {self._last_words()}"
            )
        message: dict[str, Any] = json.loads(line)
        if message["event"] == "unavailable":
            self.end()
            raise Gap(without_paths(message["reason"]))
        assert message["event"] == event, message
        return message

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        # Libraries warn while a program ends; the error that ended it was said before.
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
        return without_paths([*lines, *errors][-1])[:200] if lines else "it said nothing"

    def wait_until_ready(self, timeout_s: float) -> None:
        """Until the process is warm; what it tells about itself is in ``ready``."""
        self.ready = self._answer("ready", timeout_s)
        self.facts |= self.ready["facts"]

    def block(self, seconds: float, cores: list[int], timeout_s: float) -> None:
        """One timed block; its steps are added to ``step_ms``."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"seconds": seconds, "cores": cores}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Gap(f"ended by itself: {self._last_words()}") from None
        answer = self._answer("block", timeout_s)
        self.step_ms += answer["step_ms"]
        self.peak_rss_mb = answer["peak_rss_mb"]
        self.facts |= answer["facts"]

    def end(self) -> None:
        """Make sure that the process is gone, and those that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
