"""``myelin seal``: an owner's data, checked and encrypted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from myelin.cli.identity import load_identity, store_path, witness_path
from myelin.cli.progress import bar, console, emit_json
from myelin.contract import Budget, DataSchema, seal
from myelin.errors import InputError

__all__ = ["seal_command"]


def seal_command(
    data: Annotated[Path, typer.Argument(help="CSV, .npz or IDX file (IDX and CSV may be gzipped)")],
    schema: Annotated[Path, typer.Option(help="schema.toml: columns, public ranges, classes")],
    owner: Annotated[Path, typer.Option(help="the owner's private key, NAME.key")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the sealed file, which must not exist")],
    store: Annotated[Path | None, typer.Option(help="the owner's store; default: beside the key")] = None,
    epsilon: Annotated[
        str | None, typer.Option(help="budget of a new store: ε of everything ever released from it")
    ] = None,
    delta: Annotated[str | None, typer.Option(help="budget of a new store: its δ")] = None,
    labels: Annotated[Path | None, typer.Option(help="IDX file of the labels")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="file with the passphrase of an encrypted key")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="end with one JSON object")] = False,
) -> None:
    """Check a dataset against its schema and seal it; the key stays in the owner's store.

    Example:

      myelin seal north.csv --schema schema.toml --owner north.key --epsilon 3 --delta 1e-5 -o north.sealed
    """
    if (epsilon is None) != (delta is None):
        raise InputError("--epsilon and --delta: give both or none")
    budget = Budget.of(epsilon, delta) if epsilon is not None and delta is not None else None
    with bar(f"seal {data.name}") as report:
        sealed = seal(
            data,
            DataSchema.load(schema),
            load_identity(owner, passphrase_file),
            out,
            store_path(owner, store),
            budget=budget,
            witness=witness_path(owner),
            labels=labels,
            at_s=int(time.time()),
            progress=report,
        )
    header = sealed.header
    console.print(f"sealed {header.records:,} records of {header.record_bytes:,} bytes to {out}")
    console.print(f"digest {sealed.digest.hex()}")
    if json_output:
        emit_json(
            {
                "sealed": str(out),
                "digest": sealed.digest,
                "schema": header.schema,
                "records": header.records,
                "store": str(store_path(owner, store)),
            }
        )
