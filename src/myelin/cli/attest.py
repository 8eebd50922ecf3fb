"""``myelin attest``: evidence of any kind, judged offline, with the whole reasoning shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from myelin.attest import (
    MOST_EVIDENCE_BYTES,
    AttestationResult,
    Evidence,
    RealEvidence,
    ReferenceValues,
    appraise,
    check_tree,
    render_html,
)
from myelin.cli import trust
from myelin.cli.progress import console, emit_json
from myelin.contract import read_bounded, write_whole
from myelin.errors import InputError, ProtocolError

__all__ = ["attest_command"]

_MOST_FILE_BYTES = 2 * MOST_EVIDENCE_BYTES
_NONCE_BYTES = range(8, 65)
_REPORT_DATA_BYTES = 64


def attest_command(
    evidence: Annotated[
        Path, typer.Argument(help="a vendor's file (quote, report, document), or an envelope")
    ],
    policy: Annotated[str, typer.Option(help=trust.POLICY_HELP)],
    kind: Annotated[
        RealEvidence | None, typer.Option(help="what the file is; without it, its shape decides")
    ] = None,
    endorsements: Annotated[list[Path] | None, typer.Option(help=trust.ENDORSEMENTS_HELP)] = None,
    nonce: Annotated[
        str | None, typer.Option(help="what the evidence must be bound to, in hex; shorter ones end in zeros")
    ] = None,
    reference: Annotated[list[Path] | None, typer.Option(help=trust.REFERENCE_HELP)] = None,
    at: Annotated[
        str | None,
        typer.Option(help=trust.AT_HELP),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="print every check, passed ones too")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="print the tree of checks as JSON")] = False,
    html: Annotated[Path | None, typer.Option(help="draw the tree of checks as a page")] = None,
) -> None:
    """Judge attestation evidence: exit code 0 trusted, 1 not trusted, 2 unreadable. No network is used.

    Without --nonce nothing shows that the evidence is fresh and meant for you, and it is refused.

    Examples:

      myelin attest quote.bin --endorsements c.json --nonce 5f… --policy production --reference ref.toml

      myelin attest report.bin --endorsements vcek.der --nonce 5f… --policy hospital.toml --explain

      myelin attest quote.bin --kind tdx --endorsements folder --nonce 5f… --policy p.toml --at 1750334160
    """
    accepted = trust.policy(policy)
    given = trust.endorsements(endorsements)
    values = ReferenceValues(None, _report_data(nonce), trust.references(reference))
    now_s = trust.time_of(at)
    try:
        read = Evidence.from_file(read_bounded(evidence, _MOST_FILE_BYTES), kind)
        result = appraise(read, given, values, accepted, now_s)
    except ProtocolError as error:
        raise InputError(f"{evidence}: {error.detail or error}") from None
    if html is not None:
        write_whole(html, render_html(result, of=evidence.name).encode())
    if json_output:
        emit_json({"evidence": str(evidence), "media_type": read.media_type, **result.to_dict()})
    _print(result, explain)
    if not result.trusted:
        raise typer.Exit(1)


def _print(result: AttestationResult, explain: bool) -> None:
    failed = list(result.checks.failures())
    if explain:
        console.print(check_tree(result.checks))
    else:
        for check in failed:
            console.print(check_tree(check))
    if result.trusted:
        console.print("[bold green]TRUSTED[/] every check passed")
    else:
        names = ", ".join(check.name for check in failed)
        console.print(f"[bold red]NOT TRUSTED[/] failed: {escape(names)}", soft_wrap=True)


def _report_data(nonce: str | None) -> tuple[bytes, ...]:
    if nonce is None:
        return ()
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", nonce) or len(nonce) // 2 not in _NONCE_BYTES:
        least, most = _NONCE_BYTES[0], _NONCE_BYTES[-1]
        raise InputError(f"--nonce: expected {least} to {most} bytes in hex, got {nonce[:80]!r}")
    value = bytes.fromhex(nonce)
    return tuple(dict.fromkeys((value, value.ljust(_REPORT_DATA_BYTES, b"\0"))))
