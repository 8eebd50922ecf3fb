"""``myelin log``: a public log of contracts, ledgers' heads and releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from myelin.certificate import MOST_BUNDLE_BYTES, CertificateBundle
from myelin.cli.progress import console, emit_json
from myelin.cli.serve import serve_log_command
from myelin.contract import (
    PublicIdentity,
    SignedContract,
    Surroundings,
    Transport,
    connect_to,
    read_bounded,
    write_whole,
)
from myelin.errors import ProtocolError
from myelin.log import LogClient, prove

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Run, feed and question a public log.")
app.command("serve")(serve_log_command)

_Log = Annotated[str, typer.Option("--log", help="the log's address: https://HOST:PORT, http+unix:PATH")]
_Key = Annotated[Path, typer.Option(help="the log's public key, NAME.pub")]
_Ca = Annotated[Path | None, typer.Option(help="certificates (PEM) to trust, not the system's")]
_Certificate = Annotated[Path | None, typer.Option(help="a certificate made under it")]


@app.callback()
def _root() -> None:
    """Run, feed and question a public log."""


def _client(log: str, key: Path, ca: Path | None, seen: Path | None) -> LogClient:
    def connect(address: str) -> Transport:
        return connect_to(address, ca=ca)

    return LogClient(log, PublicIdentity.load(key).signing_key, connect, Surroundings(), seen)


@app.command("add")
def add_command(
    contract: Annotated[Path, typer.Argument(help="the contract, signed by every party")],
    log: _Log,
    log_key: _Key,
    certificate: _Certificate = None,
    ca: _Ca = None,
) -> None:
    """Add a contract, and what was released under it, to a log.

    Example:

      myelin log add hospitals.contract --certificate certificate.cbor \\
        --log https://log:8480 --log-key log.pub
    """
    client = _client(log, log_key, ca, None)
    documents = [("contract", SignedContract.load(contract).to_bytes())]
    if certificate is not None:
        bundle = CertificateBundle.from_bytes(read_bounded(certificate, MOST_BUNDLE_BYTES))
        documents.append(("release", bundle.signed))
    for kind, document in documents:
        checkpoint, found = client.add(kind, document)
        if found is None:
            raise ProtocolError.named("log_inconsistent", f"the log did not take in the {kind}")
        console.print(f"{kind}: leaf {found.index} of {checkpoint.size}")


@app.command("prove")
def prove_command(
    contract: Annotated[Path, typer.Argument(help="the contract, signed by every party")],
    log: _Log,
    log_key: _Key,
    out: Annotated[Path, typer.Option("--out", "-o", help="the proof, for `myelin verify --log-proof`")],
    certificate: _Certificate = None,
    seen: Annotated[
        Path | None, typer.Option(help="the last checkpoint seen, kept there; shows a log that takes back")
    ] = None,
    ca: _Ca = None,
    json_output: Annotated[bool, typer.Option("--json", help="end with one JSON object")] = False,
) -> None:
    """Read a whole log, check it against its own root, and write what shows a contract's entries to be in it.

    Example:

      myelin log prove hospitals.contract --certificate certificate.cbor --log https://log:8480 \\
        --log-key log.pub --seen log.seen -o log.proof
    """
    before = read_bounded(seen, 4096) if seen is not None and seen.exists() else None
    client = _client(log, log_key, ca, seen)
    signed = SignedContract.load(contract)
    released = None
    if certificate is not None:
        released = CertificateBundle.from_bytes(read_bounded(certificate, MOST_BUNDLE_BYTES)).signed
    proof = prove(client, signed, released, before)
    write_whole(out, proof.to_bytes())
    console.print(f"{len(proof.included)} entries of this contract in the log; proof {out}")
    if json_output:
        emit_json({"entries": len(proof.included), "proof": str(out)})
