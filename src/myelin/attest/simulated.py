"""Simulated evidence: signed by a key that the attester drew itself and that nobody vouches for.

It proves that whoever holds that key wrote these claims, and nothing about where. It exists so that the whole
path can run without hardware, and it is a type of its own so that it can never be mistaken for more.
"""

from __future__ import annotations

from dataclasses import dataclass

from myelin.attest.check import Check, Verdict
from myelin.attest.evidence import Evidence
from myelin.errors import ProtocolError
from myelin.wire import DIGEST_BYTES, SIGNING_KEY_BYTES, Shape, decode, signed_payload, verify1

__all__ = ["SIMULATED_MEDIA_TYPE", "SIMULATED_TRUST_ANCHOR", "SimulatedClaims", "appraise_simulated"]

SIMULATED_MEDIA_TYPE = "application/vnd.myelin.simulated-evidence+cbor"
"""Media type of the envelope and content type of the signature."""

_REFUSAL = "evidence_unreadable"
SIMULATED_TRUST_ANCHOR = "the simulated attester's own key, which nobody vouches for"
"""Whose word every claim in simulated evidence is."""


@dataclass(frozen=True)
class SimulatedClaims:
    """What simulated evidence says: the signer's key, the image's measurement, the report data."""

    key: bytes
    measurement: bytes
    report_data: bytes

    @classmethod
    def read(cls, body: bytes) -> SimulatedClaims:
        """Read the claims without believing them; raises ``evidence_unreadable``."""
        shape = Shape(_REFUSAL, _REFUSAL)
        payload = signed_payload(body, malformed=_REFUSAL, what="simulated evidence")
        value = decode(payload, refusal=_REFUSAL, what="simulated evidence, payload")
        fields = shape.map(value, "simulated evidence", ("key", "measurement", "report_data"))
        return cls(
            shape.bytes(fields["key"], "simulated evidence, key", size=SIGNING_KEY_BYTES),
            shape.bytes(fields["measurement"], "simulated evidence, measurement", size=DIGEST_BYTES),
            shape.bytes(fields["report_data"], "simulated evidence, report data", size=64),
        )


def appraise_simulated(evidence: Evidence) -> tuple[SimulatedClaims, Check]:
    """Check the signature of simulated evidence by its own key; what it claims is checked by the caller."""
    claims = SimulatedClaims.read(evidence.body)
    expected = "the signature verifies with the key inside"
    try:
        verify1(
            evidence.body, SIMULATED_MEDIA_TYPE, claims.key, malformed=_REFUSAL, what="simulated evidence"
        )
    except ProtocolError as error:
        if error.name == _REFUSAL:
            raise
        return claims, Check(
            "evidence signature", SIMULATED_TRUST_ANCHOR, expected, error.detail, Verdict.FAILED
        )
    return claims, Check(
        "evidence signature", SIMULATED_TRUST_ANCHOR, expected, "it verifies", Verdict.PASSED
    )
