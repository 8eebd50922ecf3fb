"""``myelin sign-sgx``: the signed structure with which a machine starts an image as an SGX enclave."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from myelin.cli.progress import console, emit_json
from myelin.contract import read_bounded, write_whole
from myelin.errors import InputError

__all__ = ["sign_sgx_command"]

_MOST_KEY_BYTES = 16 << 10


def sign_sgx_command(
    image: Annotated[Path, typer.Argument(help="an image file")],
    key: Annotated[Path, typer.Option(help="the signing key: RSA, 3072 bits, exponent 3, PEM")],
    make_key: Annotated[
        bool, typer.Option("--make-key", help="make the key first; never over a file that is there")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="default: the image's name with .sigstruct")
    ] = None,
    product_id: Annotated[int, typer.Option(min=0, max=65535)] = 0,
    security_version: Annotated[int, typer.Option(min=0, max=65535)] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="answer with one JSON object")] = False,
) -> None:
    """Sign an image so that a machine with SGX starts it (`myelin host IMAGE --backend sgx`).

    Any key will do, a machine's own too: policies name MRENCLAVE, which is the image's, and not who signed.
    The same image, key and versions give the same bytes.

    Example:

      myelin sign-sgx hospitals.myelin --key sgx.pem --make-key
    """
    from myelin.image.sgx import make_key as new_key
    from myelin.image.sgx import read_enclave, read_key, read_sigstruct, sign_enclave

    enclave = read_enclave(image)
    if make_key:
        _write_secret(key, new_key())
    signing = read_key(read_bounded(key, _MOST_KEY_BYTES))
    structure = sign_enclave(
        enclave.mrenclave,
        signing,
        attributes=enclave.attributes,
        xfrm=enclave.xfrm,
        product_id=product_id,
        security_version=security_version,
    )
    made = read_sigstruct(structure)
    place = out or Path(f"{image}.sigstruct")
    write_whole(place, structure)
    if json_output:
        emit_json({"sigstruct": str(place), "mrenclave": made.mrenclave, "mrsigner": made.mrsigner})
        return
    console.print(f"sigstruct  {escape(str(place))}", soft_wrap=True)
    console.print(f"mrenclave  {made.mrenclave.hex()}", soft_wrap=True)
    console.print(f"mrsigner   {made.mrsigner.hex()}", soft_wrap=True)


def _write_secret(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(f"{path}: the key cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
