"""The application: every verb, and one place where errors become words and exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import typer
from rich.markup import escape
from typer.exceptions import Abort, Exit, TyperException

import myelin
from myelin.cli import broker, contract, demo, ledger, log
from myelin.cli.attest import attest_command
from myelin.cli.build import build_command, host_command
from myelin.cli.fetch import fetch_command
from myelin.cli.gpu import gpu_reference_command
from myelin.cli.image import image_command
from myelin.cli.inspect import inspect_command
from myelin.cli.keygen import keygen_command
from myelin.cli.measure import measure_command
from myelin.cli.open import open_command
from myelin.cli.progress import console
from myelin.cli.seal import seal_command
from myelin.cli.sgx import sign_sgx_command
from myelin.cli.train import train_command
from myelin.cli.verify import verify_command
from myelin.errors import MyelinError

__all__ = ["app", "main", "run"]

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="myelin",
    help="Train machine-learning models on data that its owners will not show to anyone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"myelin {myelin.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Train machine-learning models on data that its owners will not show to anyone."""


app.command("build")(build_command)
app.command("image")(image_command)
app.command("inspect")(inspect_command)
app.command("measure")(measure_command)
app.command("sign-sgx")(sign_sgx_command)
app.command("keygen")(keygen_command)
app.command("seal")(seal_command)
app.add_typer(contract.app, name="contract")
app.add_typer(broker.app, name="broker")
app.command("host")(host_command)
app.command("train")(train_command)
app.command("fetch-endorsements")(fetch_command)
app.command("gpu-reference")(gpu_reference_command)
app.command("attest")(attest_command)
app.command("verify")(verify_command)
app.command("open")(open_command)
app.add_typer(ledger.app, name="ledger")
app.add_typer(log.app, name="log")
app.add_typer(demo.app, name="demo")


def run(argv: Sequence[str]) -> int:
    """Run one command; its exit code. What went wrong is on standard error, without a traceback."""
    try:
        result = app(args=list(argv), prog_name="myelin", standalone_mode=False)
    except MyelinError as error:
        console.print(f"[bold red]error[/]: {escape(str(error))}")
        return error.exit_code
    except Exit as stop:
        return int(stop.exit_code)
    except TyperException as error:
        show = getattr(error, "show", None)
        if show is None:
            console.print(f"[bold red]error[/]: {escape(str(error))}")
        else:
            show()
        return EXIT_USAGE
    except (Abort, KeyboardInterrupt):
        console.print("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        console.print(f"[bold red]error[/]: {escape(where)}{error.strerror or error}")
        return 1
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of ``myelin``."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(run(sys.argv[1:]))
