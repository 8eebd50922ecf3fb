"""AMD's Key Distribution Service (AMD publication 57230): the chip's certificate, its issuers, their list."""

from __future__ import annotations

from myelin.attest import Evidence, RealEvidence
from myelin.attest.azure import AzureEvidence
from myelin.attest.snp import GENERATIONS
from myelin.attest.snp_report import SnpReport, read_report, tcb_components
from myelin.endorsements.endorsement import Endorsement
from myelin.endorsements.services import Fetcher
from myelin.endorsements.transport import Request
from myelin.errors import InputError

__all__ = ["fetch_amd"]

_PARAMETERS = {
    "fmc": "fmcSPL",
    "bootloader": "blSPL",
    "tee": "teeSPL",
    "snp": "snpSPL",
    "microcode": "ucodeSPL",
}
_LINES = ("milan", "genoa", "turin")
_BEFORE_VERSION_3 = ("milan", "genoa")
_SHORT_CHIP_BYTES = 8


def fetch_amd(evidence: Evidence, kind: RealEvidence, fetcher: Fetcher) -> list[Endorsement]:
    """VCEK, chain and revocation list for a report, or for the one that an Azure machine rests on.

    A report of version 2 does not name its processor: Milan and Genoa are asked for the chip in turn. A VLEK
    is its cloud's to give: for a report that one signed, only its issuer and list are fetched.
    """
    inside = False
    if kind is RealEvidence.AZURE_SNP:
        read = AzureEvidence.read(evidence.body)
        report, inside = read.hcl.snp, bool(read.vcek.strip())
    else:
        report = read_report(evidence.body)
    named = GENERATIONS.get(report.product, report.product) if report.product is not None else None
    if named is not None and named not in _LINES:
        raise InputError(f"the report is of {named}; AMD's service has {', '.join(_LINES)}")
    lines = (named,) if named is not None else _BEFORE_VERSION_3
    if report.signing_key == "VLEK" or inside:
        found = [_issuers(report, lines[0], fetcher)] if len(lines) == 1 else [_unnamed(report)]
    else:
        found = []
        line, vcek = _vcek(report, lines, fetcher)
        found += [[vcek], _issuers(report, line, fetcher)]
    return [endorsement for group in found for endorsement in group]


def _unnamed(report: SnpReport) -> list[Endorsement]:
    raise InputError(
        f"a report of version {report.version} does not name its processor, and its key's certificate came "
        "from elsewhere; fetch that product's chain and list from AMD's service by hand"
    )


def _vcek(report: SnpReport, lines: tuple[str, ...], fetcher: Fetcher) -> tuple[str, Endorsement]:
    if not any(report.chip_id):
        raise InputError("the host hides the chip's id, so its VCEK cannot be asked for; ask the host for it")
    problem = InputError("no product line")
    for line in lines:
        chip = report.chip_id[:_SHORT_CHIP_BYTES] if line == "turin" else report.chip_id
        versions = "&".join(
            f"{_PARAMETERS[name]}={version:02d}"
            for name, version in tcb_components(report.reported_tcb, line)
        )
        url = f"{_base(fetcher, 'vcek', line)}/{chip.hex()}?{versions}"
        try:
            kept = fetcher.ask(Request(url, most_bytes=16 << 10))
        except InputError as error:
            problem = error
            continue
        return line, Endorsement("vcek.der", kept.answer.body, url, kept.fetched_s)
    raise problem


def _issuers(report: SnpReport, line: str, fetcher: Fetcher) -> list[Endorsement]:
    """The intermediate with the root, and what the root says of revocation."""
    key = report.signing_key.lower()
    chain = Request(f"{_base(fetcher, key, line)}/cert_chain", most_bytes=32 << 10)
    listed = Request(f"{_base(fetcher, key, line)}/crl")
    return [
        Endorsement(name, kept.answer.body, request.url, kept.fetched_s)
        for name, request in ((f"{key}-chain.pem", chain), (f"{key}-revoked.crl", listed))
        for kept in (fetcher.ask(request),)
    ]


def _base(fetcher: Fetcher, key: str, line: str) -> str:
    return f"{fetcher.services.amd.rstrip('/')}/{key}/v1/{line.title()}"
