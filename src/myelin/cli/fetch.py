"""``myelin fetch-endorsements``: vendors' certificates, collateral and revocation lists, into a folder."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from myelin.attest import MOST_EVIDENCE_BYTES, Evidence, RealEvidence
from myelin.cli import trust
from myelin.cli.progress import console
from myelin.contract import read_bounded, write_whole
from myelin.endorsements import Cache, Fetcher, Services, Transport, fetch_endorsements
from myelin.errors import InputError, ProtocolError

__all__ = ["fetch_command"]


def fetch_command(
    evidence: Annotated[
        Path, typer.Argument(help="a vendor's file (quote, report, document), or an envelope")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the endorsements")],
    kind: Annotated[
        RealEvidence | None, typer.Option(help="what the file is; without it, its shape decides")
    ] = None,
    endorsements: Annotated[
        list[Path] | None, typer.Option(help="what no service has: a GPU's chain; may be repeated")
    ] = None,
    pccs: Annotated[
        str | None, typer.Option(help="ask this caching service (PCCS) instead of Intel: https://HOST:8081")
    ] = None,
    kds: Annotated[str | None, typer.Option(help="ask this address instead of AMD's key service")] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="also trust these certificates (PEM) for TLS, as of a PCCS of yours")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="keep what was fetched here, and take it from here")
    ] = None,
    cache_age: Annotated[
        int, typer.Option(min=0, help="how old, in hours, what is taken from the cache may be")
    ] = 24,
    offline: Annotated[bool, typer.Option("--offline", help="use the cache alone, whatever its age")] = False,
) -> None:
    """Fetch what it takes to judge evidence; `myelin attest … --endorsements FOLDER` judges it, offline.

    Nothing that is fetched is trusted by this command: signatures and ages are the appraisal's business.

    Examples:

      myelin fetch-endorsements quote.bin -o collateral

      myelin fetch-endorsements report.bin -o amd --cache ~/.cache/myelin/endorsements

      myelin fetch-endorsements gpu.txt --endorsements chain.pem -o nvidia
    """
    given = trust.endorsements(endorsements)
    fetcher = Fetcher(
        _services(pccs, kds),
        Transport(_tls(ca_file)),
        Cache(cache) if cache is not None else None,
        3600 * cache_age,
        offline,
    )
    try:
        read = Evidence.from_file(read_bounded(evidence, 2 * MOST_EVIDENCE_BYTES), kind)
        found = fetch_endorsements(read, given, fetcher)
    except ProtocolError as error:
        raise InputError(f"{evidence}: {error.detail or error}") from None
    out.mkdir(parents=True, exist_ok=True)
    now_s = int(time.time())
    for endorsement in found:
        write_whole(out / endorsement.name, endorsement.body)
        age = max(now_s - endorsement.fetched_s, 0) // 60
        when = f"fetched {age} minutes ago" if age else "fetched now"
        said = f"{endorsement.name}  {len(endorsement.body)} bytes, {when}, {endorsement.source}"
        console.print(escape(said), soft_wrap=True)


def _services(pccs: str | None, kds: str | None) -> Services:
    usual = Services()
    return Services(
        intel=pccs or usual.intel,
        intel_root="" if pccs else usual.intel_root,
        amd=kds or usual.amd,
    )


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cadata=read_bounded(ca_file, 1 << 20).decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError):
            raise InputError(f"{ca_file}: expected certificates in PEM, got something else") from None
    return context
