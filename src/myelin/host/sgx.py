"""Evidence of an enclave that SGX runs: its report, made into a quote, in the envelope of all evidence.

An image without an attester of its own answers ``[2, report data]`` where it wants evidence
(``docs/protocol.md`` section 6). The report comes from inside: the trampoline takes the report data from the
image's memory, and the processor what the enclave is. So nothing on the way from there to the verifier,
this file among it, can put in anything else.
"""

from __future__ import annotations

from typing import Protocol

from myelin.attest import Evidence, RealEvidence
from myelin.attest.kind import MEDIA_TYPES
from myelin.errors import HostError, ProtocolError
from myelin.wire import decode, encode

__all__ = ["Quoter", "evidence_message", "quoted_evidence", "wants_evidence"]

_EVIDENCE, _WANTED = 12, 2
_MOST_WANTED_BYTES = 80
_REPORT_DATA = slice(320, 384)
_REPORT_DATA_BYTES = 64


class Quoter(Protocol):
    """What makes quotes of reports, as :class:`~myelin.host.aesm.Aesm` does."""

    def target_info(self) -> bytes:
        """Whom a report has to be made for."""
        ...  # pragma: no cover

    def quote(self, report: bytes) -> bytes:
        """Have a report signed."""
        ...  # pragma: no cover


def wants_evidence(answer: bytes) -> bytes | None:
    """The report data of an answer that wants evidence; ``None`` where it is any other."""
    if not answer.startswith(bytes([0x82, _WANTED])) or len(answer) > _MOST_WANTED_BYTES:
        return None
    try:
        value = decode(answer, what="answer")
    except ProtocolError:
        return None
    data = value[1] if isinstance(value, list) else None
    return data if isinstance(data, bytes) and len(data) == _REPORT_DATA_BYTES else None


def quoted_evidence(report: bytes, report_data: bytes, quoter: Quoter) -> bytes:
    """The envelope with a quote of ``report``, which the image has made for ``report_data``."""
    if report[_REPORT_DATA] != report_data:
        raise HostError(
            "the enclave's report is not for what the image wanted evidence for; image and loader do not "
            "belong together"
        )
    return Evidence(MEDIA_TYPES[RealEvidence.SGX], quoter.quote(report)).to_cmw()


def evidence_message(evidence: bytes) -> bytes:
    """The message that hands evidence to the image that wanted it."""
    return encode([_EVIDENCE, evidence])
