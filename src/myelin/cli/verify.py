"""``myelin verify``: a certificate, checked offline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from myelin.attest import Measurement, Policy, check_tree
from myelin.certificate import MOST_BUNDLE_BYTES, LogClaim, Verification, verify
from myelin.cli import trust
from myelin.cli.progress import console, emit_json
from myelin.contract import PublicIdentity, SignedContract, read_bounded
from myelin.errors import InputError, ProtocolError
from myelin.log import MOST_LOG_PROOF_BYTES, LogProof

__all__ = ["print_verification", "verify_command", "verify_file"]


def verify_command(
    certificate: Annotated[Path, typer.Argument(help="the certificate file")],
    contract: Annotated[
        Path | None, typer.Option(help="the signed contract; without it, who agreed is not checked")
    ] = None,
    allow_simulated: Annotated[
        bool,
        typer.Option("--allow-simulated", help="accept a rehearsal's certificate, which proves no secrecy"),
    ] = False,
    policy: Annotated[str, typer.Option(help=trust.POLICY_HELP)] = "production",
    reference: Annotated[list[Path] | None, typer.Option(help=trust.REFERENCE_HELP)] = None,
    endorsements: Annotated[list[Path] | None, typer.Option(help=trust.ENDORSEMENTS_HELP)] = None,
    delta: Annotated[
        float, typer.Option(min=1e-15, max=0.5, help="δ at which ε is computed when no contract is given")
    ] = 1e-5,
    log_proof: Annotated[Path | None, typer.Option(help="proof of `myelin log prove`")] = None,
    log_key: Annotated[Path | None, typer.Option(help="the public key of that log, NAME.pub")] = None,
    log_seen: Annotated[
        Path | None, typer.Option(help="a checkpoint of that log from before, which it must extend")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="end with one JSON object")] = False,
) -> None:
    """Verify a certificate: no network, no enclave, no compiler. Exit code 0 only if every check passed.

    Example:

      myelin verify certificate.cbor --contract hospitals.contract
    """
    result = verify_file(
        certificate,
        SignedContract.load(contract) if contract is not None else None,
        allow_simulated=allow_simulated,
        delta=delta,
        policy=trust.policy(policy),
        known=trust.references(reference),
        endorsements=trust.endorsements(endorsements),
        log=_log_claim(log_proof, log_key, log_seen),
    )
    print_verification(result)
    if json_output:
        emit_json({"certificate": str(certificate), **result.to_dict()})
    if not result.verified:
        raise typer.Exit(1)


def verify_file(
    path: Path,
    contract: SignedContract | None,
    *,
    allow_simulated: bool,
    delta: float = 1e-5,
    policy: Policy | None = None,
    known: tuple[Measurement, ...] = (),
    endorsements: tuple[bytes, ...] = (),
    log: LogClaim | None = None,
) -> Verification:
    """Verify a certificate file now; :class:`~myelin.errors.InputError` names the file if it is none."""
    bundle = read_bounded(path, MOST_BUNDLE_BYTES)
    try:
        return verify(
            bundle,
            contract,
            allow_simulated=allow_simulated,
            policy=policy,
            known=known,
            endorsements=endorsements,
            now_s=int(time.time()),
            delta=delta,
            log=log,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _log_claim(proof: Path | None, key: Path | None, seen: Path | None) -> LogClaim | None:
    if proof is None and key is None and seen is None:
        return None
    if proof is None or key is None:
        raise InputError("--log-proof, --log-key: give both")
    try:
        read = LogProof.from_bytes(read_bounded(proof, MOST_LOG_PROOF_BYTES))
    except ProtocolError as error:
        raise InputError(f"{proof}: {error.detail}") from None
    before = read_bounded(seen, 4096) if seen is not None else None
    return LogClaim(read, PublicIdentity.load(key).signing_key, before)


def print_verification(result: Verification) -> None:
    """Print the tree of checks, what was not checked, and the verdict."""
    console.print(check_tree(result.checks))
    console.print(f"mechanism: {result.certificate.event.describe()}", soft_wrap=True)
    for figure in result.privacy:
        console.print(
            f"privacy: ε = {figure.epsilon:.6g} at δ = {figure.delta:.3g} for {figure.of}",
            soft_wrap=True,
            markup=False,
        )
    for item in result.not_checked:
        console.print(f"[yellow]NOT CHECKED[/] {escape(item)}", soft_wrap=True)
    if not result.verified:
        failed = ", ".join(check.name for check in result.checks.failures())
        console.print(f"[bold red]REFUSED[/] failed: {escape(failed)}", soft_wrap=True)
        if "kind of evidence" in failed and result.simulated:
            console.print("the evidence is SIMULATED; --allow-simulated accepts it for a rehearsal")
    elif result.simulated:
        console.print(
            "[bold yellow]SIMULATED[/] every check passed, but on a simulated enclave: a rehearsal only"
        )
    else:
        console.print("[bold green]VERIFIED[/] every check passed")
