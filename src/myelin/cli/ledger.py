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
from myelin.contract import Ledger, Store, write_new
from myelin.errors import InputError

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
    table = Table("when (UTC)", "contract", "digest", "boot", "state", "ρ", "mechanism")
    for debit in debits:
        when = datetime.fromtimestamp(debit.at_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
        digest, boot = debit.contract.hex()[:16], debit.boot.hex()[:16]
        rho = f"{debit.zcdp_u / 1e6:.6f}"
        table.add_row(when, escape(debit.name), digest, boot, debit.state, rho, debit.event.describe())
    for dataset in datasets:
        console.print(
            f"dataset {dataset['name']}: {dataset['records']:,} records, {dataset['digest'].hex()[:16]}…, ρ "
            f"{sum(d.zcdp_u for d in debits if d.dataset == dataset['digest']) / 1e6:.6f}",
            markup=False,
        )
    if debits:
        console.print(table)
    console.print(
        f"releases: {len(debits)}; together ε {spent:.6g} of {budget.epsilon:.6g} at δ {budget.delta:.3g}"
    )
    rho_u = sum(debit.zcdp_u for debit in debits)
    console.print(f"ρ {rho_u / 1e6:.6f} (zCDP, exact, without what sampling amplifies; ε decides)")
    if json_output:
        emit_json(
            {
                "owner": identity.name,
                "epsilon": budget.epsilon,
                "delta": budget.delta,
                "spent": spent,
                "zcdp_e6": rho_u,
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
                        "state": d.state,
                        "zcdp_e6": d.zcdp_u,
                        "event": d.event.to_map(),
                    }
                    for d in debits
                ],
            }
        )


@app.command("backup")
def backup_command(
    owner: Annotated[Path, typer.Option(help="the owner's private key, NAME.key")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the copy, which must not exist")],
    store: Annotated[Path | None, typer.Option(help="the owner's store; default: beside the key")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="file with the passphrase of an encrypted key")
    ] = None,
) -> None:
    """Write a whole copy of an owner's store while its broker runs.

    It is an older copy as soon as the broker has released again: anchors refuse it then. Example:

      myelin ledger backup --owner north.key -o north.store.backup
    """
    identity = load_identity(owner, passphrase_file)
    with Store.open(store_path(owner, store), identity, witness=witness_path(owner)) as opened:
        opened.backup(out)
    console.print(f"copy {out}")


@app.command("danger-export-data-key")
def export_command(
    dataset: Annotated[str, typer.Argument(help="digest of the sealed file, in hex (`ledger show --json`)")],
    owner: Annotated[Path, typer.Option(help="the owner's private key, NAME.key")],
    out: Annotated[Path, typer.Option("--out", "-o", help="file for the 32 bytes, which must not exist")],
    store: Annotated[Path | None, typer.Option(help="the owner's store; default: beside the key")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="file with the passphrase of an encrypted key")
    ] = None,
) -> None:
    """Write a dataset's key in the clear, to be put into Trustee. Whoever has it reads the data.

    Example:

      myelin ledger danger-export-data-key 3f…9a --owner north.key -o key.bin
    """
    try:
        digest = bytes.fromhex(dataset)
    except ValueError:
        raise InputError(f"dataset: expected a digest in hex, got {dataset[:80]!r}") from None
    identity = load_identity(owner, passphrase_file)
    with Store.open(store_path(owner, store), identity, witness=witness_path(owner)) as opened:
        write_new(out, Ledger(opened).data_key(digest), mode=0o600)
    console.print(f"data key {out}: give it to Trustee, then destroy this file")
