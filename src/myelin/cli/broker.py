"""``myelin broker``: an owner's key broker."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Annotated

import typer

from myelin.attest import AppraisalPolicy, Policy
from myelin.cli import trust
from myelin.cli.identity import load_identity, store_path, witness_path
from myelin.cli.limits import audit_command, quota_command, revoke_command
from myelin.cli.progress import console
from myelin.cli.serve import serve_command
from myelin.contract import Broker, BrokerServer, Ledger, SignedContract, Store

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Run an owner's key broker.")


@app.callback()
def _root() -> None:
    """Run an owner's key broker."""


app.command("serve")(serve_command)
app.command("revoke")(revoke_command)
app.command("quota")(quota_command)
app.command("audit")(audit_command)


@app.command("run")
def run_command(
    owner: Annotated[Path, typer.Option(help="the owner's private key, NAME.key")],
    socket: Annotated[Path, typer.Option(help="where to make the Unix socket")],
    store: Annotated[Path | None, typer.Option(help="the owner's store; default: beside the key")] = None,
    contract: Annotated[
        Path | None, typer.Option(help="serve only this contract; default: any that this owner has signed")
    ] = None,
    policy: Annotated[str, typer.Option(help=trust.POLICY_HELP)] = "production",
    reference: Annotated[list[Path] | None, typer.Option(help=trust.REFERENCE_HELP)] = None,
    endorsements: Annotated[
        list[Path] | None, typer.Option(help=f"{trust.ENDORSEMENTS_HELP}; read anew for each request")
    ] = None,
    insecure_accept_simulated_evidence: Annotated[
        bool,
        typer.Option(
            "--insecure-accept-simulated-evidence",
            help="a rehearsal: release keys to SIMULATED enclaves, which keep no secret",
        ),
    ] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="file with the passphrase of an encrypted key")
    ] = None,
) -> None:
    """Answer attested enclaves with this owner's data key, within the budget, until stopped.

    Example:

      myelin broker run --owner north.key --contract hospitals.contract --socket north.sock
    """
    appraisal: AppraisalPolicy = trust.policy(policy)
    trust.endorsements(endorsements)  # what is missing is told now, not when an enclave asks
    if insecure_accept_simulated_evidence:
        appraisal = Policy.insecure_accepting_simulated_evidence()
        console.print(
            "[bold yellow]INSECURE[/] simulated enclaves get this owner's key; use it with test data"
        )
    identity = load_identity(owner, passphrase_file)
    only = SignedContract.load(contract).digest if contract is not None else None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    with Store.open(store_path(owner, store), identity, witness=witness_path(owner)) as opened:
        broker = Broker(
            identity,
            opened,
            appraisal,
            contract=only,
            known=trust.references(reference),
            endorsements=lambda: trust.endorsements(endorsements),
        )
        server = BrokerServer(socket, broker.answer)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.stop())
        ledger = Ledger(opened)
        console.print(
            f"{identity.name}: broker at {socket}, policy {appraisal.name}, releases so far: "
            f"{len(ledger.debits())}, budget ε {ledger.budget.epsilon:g} at δ {ledger.budget.delta:g}",
            soft_wrap=True,
        )
        server.serve()
    console.print(f"{identity.name}: broker stopped")
