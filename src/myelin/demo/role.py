"""One party of a demo: a process of its own, in a folder of its own, that runs Myelin's commands.

It reads one JSON object a line, ``{"argv": ["keygen", "north"]}``, runs that command in its folder exactly as
``myelin keygen north`` would, and answers ``{"code", "stdout", "stderr"}``. :class:`~myelin.demo.party.Party`
starts it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Serve commands until standard input ends."""
    # A Ctrl-C goes to every process at the terminal; the demo itself then ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir(sys.argv[1])
    os.umask(0o077)
    from myelin.cli import run

    answers = sys.stdout
    for line in sys.stdin:
        request = json.loads(line)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(out))
            if not request.get("show"):
                stack.enter_context(contextlib.redirect_stderr(err))
            code = run(request["argv"])
        answers.write(json.dumps({"code": code, "stdout": out.getvalue(), "stderr": err.getvalue()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
