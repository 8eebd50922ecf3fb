"""``myelin broker revoke``, ``quota``, ``audit``: what an owner does beside a running broker."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from myelin.broker import check_audit
from myelin.cli.identity import load_identity, store_path, witness_path
from myelin.cli.progress import console, emit_json
from myelin.contract import REVOCABLE, Ledger, PublicIdentity, Quota, SignedContract, Store, read_bounded
from myelin.errors import InputError
from myelin.wire import digest

__all__ = ["audit_command", "quota_command", "revoke_command"]

_MOST_AUDIT_BYTES = 1 << 30
_Owner = Annotated[Path, typer.Option(help="the owner's private key, NAME.key")]
_StorePath = Annotated[Path | None, typer.Option(help="the owner's store; default: beside the key")]
_Passphrase = Annotated[Path | None, typer.Option(help="file with the passphrase of an encrypted key")]


def _named(value: str) -> bytes:
    """A digest in hex, of a contract file, or of the key in a ``.pub`` file."""
    if len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return bytes.fromhex(value)
    if value.endswith(".pub"):
        return digest(PublicIdentity.load(value).signing_key)
    if Path(value).is_file():
        return SignedContract.load(value).digest
    raise InputError(f"expected 64 hex digits, a contract file or a .pub file, got {value[:80]!r}")


def revoke_command(
    what: Annotated[str, typer.Argument(help=f"one of: {', '.join(REVOCABLE)}")],
    named: Annotated[str, typer.Argument(help="its digest in hex, a contract file, or a researcher's .pub")],
    owner: _Owner,
    reason: Annotated[str, typer.Option(help="why; whoever asks is told")],
    store: _StorePath = None,
    passphrase_file: _Passphrase = None,
) -> None:
    """Never release a key again under a contract, to an image, for a run, or for a researcher.

    It cannot be undone.

    A running broker heeds it from the next request on. Example:

      myelin broker revoke contract hospitals.contract --owner north.key --reason "a patient objected"
    """
    identity = load_identity(owner, passphrase_file)
    with Store.open(store_path(owner, store), identity, witness=witness_path(owner)) as opened:
        found = _named(named)
        Ledger(opened).revoke(what, found, reason, at_s=int(time.time()))
    console.print(f"revoked: {what} {found.hex()}", soft_wrap=True)


def quota_command(
    what: Annotated[str, typer.Argument(help="researcher or dataset")],
    owner: _Owner,
    named: Annotated[
        str | None, typer.Argument(help="a .pub file or digest in hex; left out: each that has no quota")
    ] = None,
    rho: Annotated[float | None, typer.Option(help="most ρ (zCDP) in all")] = None,
    releases: Annotated[int | None, typer.Option(min=0, help="most releases in all")] = None,
    until: Annotated[datetime | None, typer.Option(help="nothing from then on (UTC)")] = None,
    store: _StorePath = None,
    passphrase_file: _Passphrase = None,
) -> None:
    """Bound what one researcher, or one dataset, may use of the budget; the last one set holds.

    Example:

      myelin broker quota researcher ada.pub --owner north.key --rho 2.5 --releases 4
    """
    if rho is not None and not 0 <= rho < 1e12:
        raise InputError(f"--rho: expected a number from 0, got {rho!r}")
    identity = load_identity(owner, passphrase_file)
    quota = Quota(
        what,
        _named(named) if named is not None else None,
        None if rho is None else int(rho * 1e6),
        releases,
        None if until is None else int(until.replace(tzinfo=timezone.utc).timestamp()),
    )
    with Store.open(store_path(owner, store), identity, witness=witness_path(owner)) as opened:
        Ledger(opened).set_quota(quota, at_s=int(time.time()))
    console.print(f"quota set for {what} {named or '(each)'}", markup=False)


def audit_command(
    path: Annotated[Path, typer.Argument(help="the audit log, NAME.audit.jsonl")],
    json_output: Annotated[bool, typer.Option("--json", help="end with one JSON object")] = False,
) -> None:
    """Check that no line of an audit log was changed or taken out, and print its last hash.

    Keep the hash elsewhere: it also shows whether the end was cut off. Example:

      myelin broker audit north.audit.jsonl
    """
    state = check_audit(read_bounded(path, _MOST_AUDIT_BYTES), str(path))
    console.print(f"{state.lines} lines, each follows the one before; last hash {state.last}", soft_wrap=True)
    if json_output:
        emit_json({"lines": state.lines, "last": state.last, "torn_bytes": state.torn_bytes})
