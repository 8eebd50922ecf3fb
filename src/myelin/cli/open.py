"""``myelin open``: the recipient's model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from myelin.certificate import MOST_MODEL_BYTES, open_model
from myelin.cli.identity import load_identity
from myelin.cli.progress import console, emit_json
from myelin.cli.verify import print_verification, verify_file
from myelin.contract import SignedContract, read_bounded, write_new
from myelin.errors import CheckError, ProtocolError

__all__ = ["open_command"]


def open_command(
    sealed_model: Annotated[Path, typer.Argument(help="the sealed model file")],
    key: Annotated[Path, typer.Option(help="the recipient's private key, NAME.key")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the safetensors file, which must not exist")],
    contract: Annotated[Path | None, typer.Option(help="check that it is of this contract")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="verify this certificate first; the model must be the one it names")
    ] = None,
    allow_simulated: Annotated[
        bool, typer.Option("--allow-simulated", help="accept a rehearsal's certificate")
    ] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="file with the passphrase of an encrypted key")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="end with one JSON object")] = False,
) -> None:
    """Open a sealed model and write it as safetensors.

    Example:

      myelin open model.sealed --key researcher.key --certificate certificate.cbor -o model.safetensors
    """
    signed = SignedContract.load(contract) if contract is not None else None
    claims = None
    if certificate is not None:
        result = verify_file(certificate, signed, allow_simulated=allow_simulated)
        if not result.verified:
            print_verification(result)
            raise typer.Exit(1)
        claims = result.certificate
    data = read_bounded(sealed_model, MOST_MODEL_BYTES)
    try:
        plain = open_model(data, load_identity(key, passphrase_file), contract=signed, certificate=claims)
    except ProtocolError as error:
        raise CheckError(f"{sealed_model}: {key} cannot open it: {error.detail}") from None
    write_new(out, plain, mode=0o600)
    model_digest = hashlib.sha256(plain).hexdigest()
    console.print(f"model {out}, {len(plain):,} bytes, digest {model_digest}", soft_wrap=True)
    if claims is None:
        console.print("[yellow]NOT CHECKED[/] where it comes from: give --certificate and --contract")
    if json_output:
        emit_json({"model": str(out), "digest": model_digest, "certified": claims is not None})
