"""``myelin ledger``: what was released from an owner's store, and what is left."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from myelin.cli.identity import load_identity, store_path, witness_path
from myelin.cli.progress import console, emit_json
from myelin.contract import Ledger, Store

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Look at an owner's budget ledger.")


@app.callback()
def _root() -> None:
    """Look at an owner's budget ledger."""


@app.command("show")
def show_command(
    owner: Annotated[Path, typer.Option(help="the owner's private key, NAME.key")],
    store: Annotated[Path | None, typer.Option(help="the owner's store; default: beside the key")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="file with the passphrase of an encrypted key")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="end with one JSON object")] = False,
) -> None:
    """Check an owner's ledger and show every release, the budget, and what is left of it.

    Example:

      myelin ledger show --owner north.key
    """
    identity = load_identity(owner, passphrase_file)
    with Store.open(store_path(owner, store), identity, witness=witness_path(owner)) as opened:
        ledger = Ledger(opened)
        budget, debits, spent = ledger.budget, ledger.debits(), ledger.spent()
        datasets = [entry.body for entry in opened.entries("dataset")]
    table = Table("when (UTC)", "contract", "digest", "boot", "mechanism")
    for debit in debits:
        when = datetime.fromtimestamp(debit.at_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
        digest, boot = debit.contract.hex()[:16], debit.boot.hex()[:16]
        table.add_row(when, escape(debit.name), digest, boot, debit.event.describe())
    for dataset in datasets:
        console.print(
            f"dataset {dataset['name']}: {dataset['records']:,} records, {dataset['digest'].hex()[:16]}…",
            markup=False,
        )
    if debits:
        console.print(table)
    console.print(
        f"releases: {len(debits)}; together ε {spent:.6g} of {budget.epsilon:.6g} at δ {budget.delta:.3g}"
    )
    if json_output:
        emit_json(
            {
                "owner": identity.name,
                "epsilon": budget.epsilon,
                "delta": budget.delta,
                "spent": spent,
                "remaining": max(0.0, budget.epsilon - spent),
                "datasets": [
                    {"name": d["name"], "records": d["records"], "digest": d["digest"]} for d in datasets
                ],
                "releases": [
                    {
                        "at_s": d.at_s,
                        "contract": d.contract,
                        "name": d.name,
                        "boot": d.boot,
                        "event": d.event.to_map(),
                    }
                    for d in debits
                ],
            }
        )
