"""``myelin train``: the untrusted host carries a run from contract to certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from myelin.cli.progress import console, emit_json, plain
from myelin.errors import InputError
from myelin.host import choose_backend
from myelin.train import TrainEvent, TrainJob, train

__all__ = ["train_command"]


def _pairs(values: list[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        name, separator, path = value.partition("=")
        if not separator or not name or not path:
            raise InputError(f"{option}: expected OWNER=PLACE, got {value!r}")
        if name in pairs:
            raise InputError(f"{option}: owner {name!r} is given twice")
        pairs[name] = path
    return pairs


def train_command(
    contract: Annotated[Path, typer.Argument(help="the contract, signed by every party")],
    image: Annotated[Path, typer.Option(help="the image that the contract names, or its boot files")],
    broker: Annotated[
        list[str],
        typer.Option(help="OWNER=ADDRESS (a socket, http+unix:SOCKET, https://HOST:PORT), each owner"),
    ],
    data: Annotated[list[str], typer.Option(help="OWNER=FILE, the sealed dataset, once for each owner")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for certificate and sealed models")],
    broker_ca: Annotated[Path | None, typer.Option(help="certificates (PEM) to trust for brokers")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=16, help="threads lent to the enclave")] = None,
    backend: Annotated[
        str, typer.Option(help="what runs the image: process, kvm, or auto for the best there is")
    ] = "process",
    resume: Annotated[bool, typer.Option(help="go on with the last run's key; costs no new budget")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="end with one JSON object")] = False,
) -> None:
    """Run a signed contract: attest to every owner's broker, train, and fetch what was released.

    Example:

      myelin train hospitals.contract --image hospitals.myelin -o results \\
        --broker north=north.sock --data north=north.sealed \\
        --broker south=south.sock --data south=south.sealed
    """
    job = TrainJob(
        contract=contract,
        image=image,
        brokers=_pairs(broker, "--broker"),
        data={name: Path(path) for name, path in _pairs(data, "--data").items()},
        out=out,
        threads=threads,
        resume=resume,
        backend=choose_backend(backend, image=image).backend.name,
        ca=broker_ca,
    )
    with Progress(console=console, transient=True) as progress:
        bars: dict[str, TaskID] = {}

        def watch(event: TrainEvent) -> None:
            if event.step in ("data", "train"):
                key = f"{event.step} {event.detail}".strip()
                if key not in bars:
                    bars[key] = progress.add_task(plain(key), total=event.total)
                progress.update(bars[key], completed=event.done, total=event.total)
            else:
                count = f" ({event.done}/{event.total})" if event.total else ""
                progress.console.print(f"{event.step:>9}  {plain(event.detail)}{count}")

        result = train(job, watch)
    console.print(f"certificate  {result.certificate}")
    for name, path in result.sealed_models.items():
        console.print(f"sealed model {path} (for {plain(name)})")
    if json_output:
        emit_json(
            {
                "certificate": str(result.certificate),
                "sealed_models": {name: str(path) for name, path in result.sealed_models.items()},
                "measurement": result.measurement,
                "steps": result.steps,
                "seconds": round(result.seconds, 3),
            }
        )
