"""The demo's view of a party: start its process, tell it a command, read what it answered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from myelin.errors import CheckError

__all__ = ["Party"]


class Party:
    """A hospital, the researcher or the host. Use as a context manager; leaving it ends its processes.

    `folder` is private to the party (mode 0700). What parties give each other goes through files and sockets.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "myelin.demo.role", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._services: list[subprocess.Popen[str]] = []
        self._told: list[str] = []

    def __enter__(self) -> Party:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        for process in [*self._services, self._process]:
            process.terminate()
        for process in [*self._services, self._process]:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()

    def tell(self, *argv: object, show: bool = False) -> None:
        """Start a command; `hear` waits for it. With `show` its standard error goes to the terminal."""
        assert self._process.stdin
        self._told = [str(word) for word in argv]
        self._process.stdin.write(json.dumps({"argv": self._told, "show": show}) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Wait for the command told last; its JSON object, empty if it printed none.

        Raises:
            CheckError: the command did not end with 0; its own words are in the message.
        """
        assert self._process.stdout
        line = self._process.stdout.readline()
        words = " ".join(self._told)
        if not line:
            raise CheckError(f"{self.name}: its process ended during `myelin {words}`")
        answer = json.loads(line)
        if answer["code"] != 0:
            raise CheckError(
                f"{self.name}: `myelin {words}` ended with {answer['code']}:\n{answer['stderr']}"
            )
        last = answer["stdout"].strip().rsplit("\n", 1)[-1]
        return dict(json.loads(last)) if last.startswith("{") else {}

    def do(self, *argv: object, show: bool = False) -> dict[str, Any]:
        """`tell`, then `hear`."""
        self.tell(*argv, show=show)
        return self.hear()

    def serve(self, *argv: object) -> subprocess.Popen[str]:
        """Start a command that goes on running, a process of its own; its log lies in the party's folder."""
        with (self.folder / f"{argv[0]}.log").open("w") as log:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "myelin.cli", *[str(word) for word in argv]],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
        self._services.append(process)
        return process
