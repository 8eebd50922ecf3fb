"""NVIDIA: OCSP answers about a GPU's chain, and the reference manifests (RIM) of its driver and VBIOS."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from myelin.attest import Evidence
from myelin.attest.certificate import Certificate, completed_chain
from myelin.attest.chain import endorsed_certificates
from myelin.attest.nvidia import driver_version, vbios_version
from myelin.attest.ocsp import certificate_id
from myelin.attest.rim import RimFile
from myelin.attest.roots import PINNED_ROOTS
from myelin.attest.spdm import SpdmReport
from myelin.endorsements.endorsement import Endorsement
from myelin.endorsements.services import Fetcher
from myelin.endorsements.transport import Request
from myelin.errors import InputError, ProtocolError

__all__ = ["fetch_nvidia"]

_CHIP_SKU, _PROJECT, _PROJECT_SKU, _CHIP_INFO = 15, 17, 18, 35
_DEVICE = 1
_HOPPER = "GH100"
_MOST_RIM_BYTES = 1 << 20
_NAME = re.compile(r"[A-Z0-9][A-Z0-9_.]{3,127}")


def fetch_nvidia(evidence: Evidence, given: tuple[bytes, ...], fetcher: Fetcher) -> list[Endorsement]:
    """OCSP answers for the GPU's chain, which must be ``given`` (the GPU has it), and the RIM files with
    answers for the chains that signed them. The chain is handed back with them."""
    report = SpdmReport.read(evidence.body)
    chain = endorsed_certificates(given)
    if len(chain) <= _DEVICE:
        raise InputError("a GPU gives its chain beside the report; give it with --endorsements")
    complete = completed_chain(chain, PINNED_ROOTS.of("nvidia"))
    found = [Endorsement("chain.pem", _pem(chain), "the GPU", int(fetcher.now()))]
    found += _answers("device", complete, range(_DEVICE, len(complete) - 1), fetcher)
    chip = chain[0].common_name.split(" ")[0].upper()
    for what, name in (("driver", _driver_name(report, chip)), ("vbios", _vbios_name(report))):
        rim = _rim(what, name, fetcher)
        found.append(rim)
        try:
            signers = RimFile.read(rim.body).certificates
        except ProtocolError as error:
            raise InputError(f"{rim.source}: {error.detail}") from None
        over = completed_chain(signers, PINNED_ROOTS.of("nvidia-rim"))
        found += _answers(f"{what}-rim", over, range(len(over) - 1), fetcher)
    return found


def _answers(
    what: str, chain: Sequence[Certificate], places: Sequence[int], fetcher: Fetcher
) -> list[Endorsement]:
    url = fetcher.services.nvidia_ocsp
    found = []
    for place in places:
        certificate, issuer = chain[place], chain[place + 1]
        name, key = certificate_id(certificate, issuer, "sha384")
        asked = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
            name, key, certificate.serial, hashes.SHA384()
        )
        body = asked.build().public_bytes(Encoding.DER)
        kept = fetcher.ask(Request(url, body, "application/ocsp-request", most_bytes=32 << 10))
        found.append(Endorsement(f"{what}-{place}.ocsp", kept.answer.body, url, kept.fetched_s))
    return found


def _rim(what: str, name: str, fetcher: Fetcher) -> Endorsement:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"the report leads to a {what} manifest {name[:200]!r}, which is no name of NVIDIA's"
        )
    request = Request(f"{fetcher.services.nvidia_rim.rstrip('/')}/{name}", most_bytes=2 * _MOST_RIM_BYTES)
    kept = fetcher.ask(request)
    try:
        body = base64.b64decode(json.loads(kept.answer.body)["rim"], validate=True)
    except (ValueError, LookupError, TypeError, RecursionError):
        raise InputError(
            f"{request.url}: expected JSON with a manifest in base64, got something else"
        ) from None
    return Endorsement(f"{what}.swidtag", body, request.url, kept.fetched_s)


def _driver_name(report: SpdmReport, chip: str) -> str:
    version = driver_version(report)
    if chip == _HOPPER:
        return f"NV_GPU_DRIVER_{_HOPPER}_{version}".upper()
    return f"NV_GPU_CC_DRIVER_{_text(report, _CHIP_INFO)}_{version}".upper()


def _vbios_name(report: SpdmReport) -> str:
    parts = [_text(report, field) for field in (_PROJECT, _PROJECT_SKU, _CHIP_SKU)]
    return "_".join(("NV_GPU_VBIOS", *parts, vbios_version(report).replace(".", ""))).upper()


def _text(report: SpdmReport, field: int) -> str:
    return report.fields.get(field, b"").split(b"\0")[0].decode("ascii", "replace").strip()


def _pem(chain: Sequence[Certificate]) -> bytes:
    return b"".join(
        b"-----BEGIN CERTIFICATE-----\n"
        + base64.encodebytes(certificate.der)
        + b"-----END CERTIFICATE-----\n"
        for certificate in chain
    )
