"""Intel: TCB info, identity of the quoting enclave and revocation lists, for one quote (PCS and PCCS, v4)."""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

from myelin.attest import Evidence
from myelin.attest.intel import quote_platform
from myelin.attest.intel_quote import read_quote
from myelin.endorsements.endorsement import Endorsement
from myelin.endorsements.services import Fetcher
from myelin.endorsements.transport import Answer, Request
from myelin.errors import InputError

__all__ = ["fetch_intel"]

_MOST_CHAIN_CHARACTERS = 16 << 10
_SIGNATURE = re.compile(r'\s*,\s*"signature"\s*:\s*"([0-9A-Fa-f]{128})"\s*\}\s*')


def fetch_intel(evidence: Evidence, fetcher: Fetcher) -> list[Endorsement]:
    """The collateral of a quote, as the one JSON object that appraisal and ``dcap-qvl`` take."""
    quote = read_quote(evidence.body)
    fmspc, authority = quote_platform(quote)
    tee, base = quote.kind.value, f"{fetcher.services.intel.rstrip('/')}"
    tcb = Request(f"{base}/{tee}/certification/v4/tcb?fmspc={fmspc}")
    identity = Request(f"{base}/{tee}/certification/v4/qe/identity")
    listed = Request(f"{base}/sgx/certification/v4/pckcrl?ca={authority}&encoding=der")
    root = Request(fetcher.services.intel_root or f"{base}/sgx/certification/v4/rootcacrl")
    kept = {request: fetcher.ask(request) for request in (tcb, identity, listed, root)}
    tcb_info, tcb_signature = _signed(kept[tcb].answer, "tcbInfo", tcb.url)
    qe_identity, qe_signature = _signed(kept[identity].answer, "enclaveIdentity", identity.url)
    collateral = {
        "tcb_info_issuer_chain": _chain(kept[tcb].answer, "tcb-info-issuer-chain", tcb.url),
        "tcb_info": tcb_info,
        "tcb_info_signature": tcb_signature,
        "qe_identity_issuer_chain": _chain(
            kept[identity].answer, "sgx-enclave-identity-issuer-chain", identity.url
        ),
        "qe_identity": qe_identity,
        "qe_identity_signature": qe_signature,
        "pck_crl_issuer_chain": _chain(kept[listed].answer, "sgx-pck-crl-issuer-chain", listed.url),
        "pck_crl": _der(kept[listed].answer.body, listed.url).hex(),
        "root_ca_crl": _der(kept[root].answer.body, root.url).hex(),
    }
    oldest_s = min(one.fetched_s for one in kept.values())
    return [Endorsement("collateral.json", json.dumps(collateral, indent=1).encode(), base, oldest_s)]


def _signed(answer: Answer, name: str, url: str) -> tuple[str, str]:
    """The signed object, character by character as it came, and its signature in hex."""
    problem = InputError(f'{url}: expected {{"{name}":{{…}},"signature":"…"}}, got something else')
    try:
        text = answer.body.decode("utf-8")
        head = re.match(r'\s*\{\s*"' + name + r'"\s*:\s*', text)
        if head is None:
            raise problem
        value, end = json.JSONDecoder().raw_decode(text, head.end())
    except (ValueError, RecursionError):
        raise problem from None
    tail = _SIGNATURE.fullmatch(text, end)
    if tail is None or not isinstance(value, dict):
        raise problem
    return text[head.end() : end], tail[1].lower()


def _chain(answer: Answer, header: str, url: str) -> str:
    text = unquote(answer.headers.get(header, ""))
    if len(text) > _MOST_CHAIN_CHARACTERS or not text.startswith("-----BEGIN CERTIFICATE-----"):
        raise InputError(f"{url}: expected a chain of certificates in the header {header}, got none")
    return text


def _der(body: bytes, url: str) -> bytes:
    """A list in DER; caching services answer in hex."""
    if re.fullmatch(rb"\s*(?:[0-9A-Fa-f]{2})+\s*", body):
        return bytes.fromhex(body.decode("ascii").strip())
    if body[:1] != b"\x30":
        raise InputError(f"{url}: expected a revocation list in DER or in hex, got something else")
    return body
