"""AWS: the revocation lists that the certificates in a Nitro document name."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from myelin.attest import Evidence
from myelin.attest.nitro import NitroDocument
from myelin.attest.revocation import distribution_points
from myelin.endorsements.endorsement import Endorsement
from myelin.endorsements.services import Fetcher
from myelin.endorsements.transport import Request
from myelin.errors import InputError

__all__ = ["fetch_aws"]

_HOST = re.compile(
    r"aws-nitro-enclaves-crl\.s3\.amazonaws\.com"
    r"|crl-([a-z0-9-]{4,32})-aws-nitro-enclaves\.s3\.\1\.amazonaws\.com(?:\.cn)?"
)
_PATH = re.compile(r"/crl/[0-9a-f-]{36}\.crl")


def fetch_aws(evidence: Evidence, fetcher: Fetcher) -> list[Endorsement]:
    """The lists for the authorities in a document. The addresses come from the document, which anybody may
    have made: only those of AWS's own form are asked. AWS gives them without TLS; the lists are signed."""
    document = NitroDocument.read(evidence.body)
    named = sorted({uri for held in document.certificates for uri in distribution_points(held)})
    if not named:
        raise InputError("no certificate in the document names a revocation list; there is nothing to fetch")
    found = []
    for place, uri in enumerate(named, 1):
        parts = urlsplit(uri)
        right = parts.scheme in ("http", "https") and parts.netloc == parts.hostname and not parts.query
        if not (right and _HOST.fullmatch(parts.netloc) and _PATH.fullmatch(parts.path)):
            raise InputError(f"the document names {uri[:200]!r} for a revocation list: that is not AWS's")
        other = fetcher.services.aws.rstrip("/")
        url = f"{other}/{parts.netloc}{parts.path}" if other else uri
        kept = fetcher.ask(Request(url, signed=True))
        found.append(Endorsement(f"revoked-{place}.crl", kept.answer.body, uri, kept.fetched_s))
    return found
