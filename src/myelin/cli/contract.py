"""``myelin contract``: making, signing, showing and checking what the parties agree on."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from myelin.attest import Policy
from myelin.cli.identity import load_identity
from myelin.cli.progress import console, emit_json
from myelin.contract import (
    BudgetFigure,
    Draft,
    PublicIdentity,
    SignedContract,
    budget_figures,
    check_budgets,
    default_accountant,
    draft_contract,
    write_new,
)
from myelin.errors import CheckError, ProtocolError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Make, sign, show and check contracts.")

_Json = Annotated[bool, typer.Option("--json", help="end with one JSON object")]
_File = Annotated[Path, typer.Argument(help="the contract file")]


@app.command("new")
def new_command(
    draft: Annotated[Path, typer.Argument(help="contract.toml; paths in it are relative to it")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the unsigned contract, which must not exist")],
    json_output: _Json = False,
) -> None:
    """Make the contract that everybody then signs; refused if its plan exceeds an owner's budget.

    Example:

      myelin contract new contract.toml -o hospitals.contract
    """
    signed = draft_contract(Draft.load(draft), draft.parent, now_s=int(time.time()))
    figures = check_budgets(signed.contract, default_accountant)
    write_new(out, signed.to_bytes())
    for figure in figures:
        console.print(figure.describe(), markup=False)
    console.print(f"contract {out}, digest {signed.digest.hex()}; now every party signs it")
    if json_output:
        emit_json({"contract": str(out), **_summary(signed), "budgets": _figures(figures)})


@app.command("sign")
def sign_command(
    contract: _File,
    key: Annotated[Path, typer.Option(help="the party's private key, NAME.key")],
    passphrase_file: Annotated[
        Path | None, typer.Option(help="file with the passphrase of an encrypted key")
    ] = None,
    json_output: _Json = False,
) -> None:
    """Sign a contract with one party's key and write the signature into the file.

    Look at it first, with `myelin contract show`. Example:

      myelin contract sign hospitals.contract --key north.key
    """
    signed = SignedContract.load(contract)
    try:
        signed = signed.sign(load_identity(key, passphrase_file))
    except ProtocolError as error:
        raise CheckError(f"{contract}: {key} cannot sign it: {error.detail}") from None
    signed.save(contract)
    missing = _missing(signed)
    console.print(f"signed {signed.digest.hex()}")
    state = f"still missing: {', '.join(missing)}" if missing else "every party has signed"
    console.print(state, markup=False)
    if json_output:
        emit_json({"contract": str(contract), "digest": signed.digest, "missing": missing})


@app.command("show")
def show_command(contract: _File, json_output: _Json = False) -> None:
    """Show everything that a contract says, and what it costs every owner.

    Example:

      myelin contract show hospitals.contract
    """
    signed = SignedContract.load(contract)
    figures = budget_figures(signed.contract, default_accountant)
    _print_contract(signed, figures)
    if json_output:
        emit_json({"contract": str(contract), **_summary(signed), "budgets": _figures(figures)})


@app.command("verify")
def verify_command(contract: _File, json_output: _Json = False) -> None:
    """Check that every party has signed, that it has not expired, and every owner's budget.

    Example:

      myelin contract verify hospitals.contract
    """
    signed = SignedContract.load(contract)
    problems = []
    for index in range(len(signed.contract.parties)):
        try:
            signed.verify_signature(index)
        except ProtocolError as error:
            problems.append(error.detail)
    if time.time() >= signed.contract.expires_s:
        problems.append(f"it expired at {_date(signed.contract.expires_s)}")
    figures = budget_figures(signed.contract, default_accountant)
    problems += [figure.describe() for figure in figures if not figure.within]
    for problem in problems:
        console.print(f"[bold red]FAIL[/] {escape(problem)}")
    if json_output:
        emit_json({"contract": str(contract), "verified": not problems, "problems": problems})
    if problems:
        raise typer.Exit(1)
    console.print(f"every party signed {signed.digest.hex()}; it is within every owner's budget")


def _print_contract(signed: SignedContract, figures: list[BudgetFigure]) -> None:
    contract = signed.contract
    policies = {
        Policy.production().digest: "production",
        Policy.insecure_accepting_simulated_evidence().digest: "INSECURE: simulated evidence",
    }
    console.print(f"[bold]{escape(contract.name)}[/]  digest {signed.digest.hex()}", soft_wrap=True)
    console.print(f"image        {contract.measurement.hex()}", soft_wrap=True)
    console.print(f"plan         {contract.plan.hex()}", soft_wrap=True)
    console.print(f"mechanism    {contract.event.describe()}", soft_wrap=True)
    console.print(f"policy       {policies.get(contract.policy, contract.policy.hex())}", soft_wrap=True)
    console.print(
        f"recipients   {', '.join(contract.parties[i].name for i in contract.recipients)}", markup=False
    )
    console.print(f"expires      {_date(contract.expires_s)}")
    told = ["records per owner"] * contract.release_records + [
        "count of non-finite contributions (exact: ε does not cover it)"
    ] * contract.release_nonfinite
    console.print(f"also told    {', '.join(told) or 'nothing'}")
    table = Table("party", "role", "key fingerprint", "records", "costs ε", "budget ε", "δ", "signed")
    by_owner = dict(zip(contract.owners, figures, strict=True))
    records = {dataset.owner: dataset.records for dataset in contract.datasets}
    for index, party in enumerate(contract.parties):
        figure = by_owner.get(index)
        numbers = (
            [f"{records[index]:,}", f"{figure.epsilon:.6g}", f"{figure.budget:.6g}", f"{figure.delta:.3g}"]
            if figure
            else ["", "", "", ""]
        )
        public = PublicIdentity(party.name, party.signing_key, party.sealing_key)
        row = [escape(party.name), party.role, public.fingerprint, *numbers]
        table.add_row(*row, _signature_state(signed, index))
    console.print(table)


def _signature_state(signed: SignedContract, index: int) -> str:
    try:
        signed.verify_signature(index)
    except ProtocolError as error:
        return "no" if error.name == "signature_missing" else "INVALID"
    return "yes"


def _missing(signed: SignedContract) -> list[str]:
    return [
        party.name
        for party, signature in zip(signed.contract.parties, signed.signatures, strict=True)
        if signature is None
    ]


def _summary(signed: SignedContract) -> dict[str, object]:
    contract = signed.contract
    return {
        "digest": signed.digest,
        "name": contract.name,
        "measurement": contract.measurement,
        "plan": contract.plan,
        "event": contract.event.to_map(),
        "policy": contract.policy,
        "expires_s": contract.expires_s,
        "parties": [
            {"name": party.name, "role": party.role, "signed": _signature_state(signed, index)}
            for index, party in enumerate(contract.parties)
        ],
        "recipients": [contract.parties[i].name for i in contract.recipients],
    }


def _figures(figures: list[BudgetFigure]) -> list[dict[str, object]]:
    return [
        {"owner": f.owner, "epsilon": f.epsilon, "delta": f.delta, "budget": f.budget, "within": f.within}
        for f in figures
    ]


def _date(at_s: int) -> str:
    try:
        return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return f"{at_s} s after 1970"
