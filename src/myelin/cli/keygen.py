"""``myelin keygen``: a party's keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from myelin.cli.identity import read_passphrase
from myelin.cli.progress import console, emit_json
from myelin.contract import Identity

__all__ = ["keygen_command"]


def keygen_command(
    name: Annotated[str, typer.Argument(help="who the keys are of; names the files NAME.key and NAME.pub")],
    directory: Annotated[Path, typer.Option("--dir", help="folder for both files")] = Path(),
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="ask for a passphrase and encrypt the private key")
    ] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="encrypt with the first line of this file instead")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="end with one JSON object")] = False,
) -> None:
    """Make the keys of a party: NAME.key stays secret, NAME.pub goes to the others.

    Example:

      myelin keygen north --dir keys
    """
    secret = None
    if passphrase_file is not None:
        secret = read_passphrase(passphrase_file)
    elif passphrase:
        secret = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    identity = Identity.generate(name)
    private, public = identity.save(directory, passphrase=secret)
    console.print(f"private key  {private} (keep it; nobody can make it again)")
    console.print(f"public key   {public} (fingerprint {identity.public.fingerprint})")
    if json_output:
        emit_json(
            {
                "private_key": str(private),
                "public_key": str(public),
                "fingerprint": identity.public.fingerprint,
                "encrypted": secret is not None,
            }
        )
