"""The verifier: evidence in, attestation result out (RFC 9334). A pure function that fails closed.

One file per kind of evidence reads it and checks its own signatures; what is common to all kinds (does the
policy accept the kind, is the measurement a reference value, is the report data the one that the relying
party computed) is checked here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from myelin.attest.check import Check, Verdict, compare
from myelin.attest.evidence import Evidence
from myelin.attest.policy import AppraisalPolicy, Policy, SimulatedPolicy
from myelin.attest.simulated import SIMULATED_MEDIA_TYPE, SIMULATED_TRUST_ANCHOR, appraise_simulated

__all__ = ["AttestationResult", "Claims", "ReferenceValues", "appraise"]


@dataclass(frozen=True)
class ReferenceValues:
    """What the relying party expects: measurements it accepts, and the 64 bytes of report data.

    Several ``report_data`` are given only where the relying party cannot know which of its own policies the
    evidence was asked for under; each is computed by the relying party itself.
    """

    measurements: frozenset[bytes]
    report_data: tuple[bytes, ...]


@dataclass(frozen=True)
class Claims:
    """What the evidence says, once a kind's own verifier has read it, and whose word that is."""

    trust_anchor: str
    measurement: bytes
    report_data: bytes


@dataclass(frozen=True)
class AttestationResult:
    """What an appraisal came to: the whole tree of checks, and whether the evidence was simulated."""

    checks: Check
    simulated: bool
    measurement: bytes | None
    policy: bytes
    at_s: int

    @property
    def trusted(self) -> bool:
        """Whether every check passed."""
        return self.checks.passed


_Verifier = Callable[[Evidence, tuple[bytes, ...], int], tuple[Claims, tuple[Check, ...]]]


def _simulated(
    evidence: Evidence, endorsements: tuple[bytes, ...], now_s: int
) -> tuple[Claims, tuple[Check, ...]]:
    claims, signature = appraise_simulated(evidence)
    return Claims(SIMULATED_TRUST_ANCHOR, claims.measurement, claims.report_data), (signature,)


_VERIFIERS: Mapping[str, _Verifier] = MappingProxyType({SIMULATED_MEDIA_TYPE: _simulated})


def appraise(
    evidence: Evidence,
    endorsements: tuple[bytes, ...],
    reference_values: ReferenceValues,
    policy: AppraisalPolicy,
    now_s: int,
) -> AttestationResult:
    """Appraise evidence under a policy at a time.

    ``endorsements`` is what manufacturers say about the hardware (certificates, collateral), as bytes;
    simulated evidence has none. Raises ``evidence_unreadable`` if the evidence has not the form that its
    media type promises; anything else that is wrong is a failed check in the result, never an exception.
    """
    accepted = _policy_check(evidence, policy)
    simulated = evidence.media_type == SIMULATED_MEDIA_TYPE
    verifier = _VERIFIERS.get(evidence.media_type)
    if verifier is None:
        why = f"this version has no verifier for {evidence.media_type}"
        checks = [
            accepted,
            Check.skipped("evidence signature", "none", "a signature by trusted hardware", why),
            Check.skipped("measurement", "none", "a reference value", why),
            Check.skipped("report data", "none", "the nonce, keys and digests of this request", why),
        ]
        measurement = None
    else:
        claims, own = verifier(evidence, endorsements, now_s)
        checks = [accepted, *own, *_claim_checks(claims, reference_values)]
        measurement = claims.measurement
    return AttestationResult(
        Check.group("attestation", f"appraisal policy {policy.name}", checks),
        simulated,
        measurement,
        policy.digest,
        now_s,
    )


def _policy_check(evidence: Evidence, policy: AppraisalPolicy) -> Check:
    anchor = "the relying party's appraisal policy"
    simulated = evidence.media_type == SIMULATED_MEDIA_TYPE
    if isinstance(policy, SimulatedPolicy):
        expected, good = "simulated evidence (a rehearsal: no secrecy)", simulated
    elif isinstance(policy, Policy):
        expected = "evidence signed by hardware: " + ", ".join(sorted(k.value for k in policy.accepts))
        good = False  # no verifier for hardware evidence is registered in this version
    else:  # a foreign object cannot widen what is accepted
        expected, good = "a policy of this version", False
    got = f"SIMULATED evidence ({evidence.media_type})" if simulated else evidence.media_type
    return Check("kind of evidence", anchor, expected, got, Verdict.PASSED if good else Verdict.FAILED)


def _claim_checks(claims: Claims, reference: ReferenceValues) -> list[Check]:
    named = sorted(value.hex() for value in reference.measurements) or ["(no reference value given)"]
    known = Verdict.PASSED if claims.measurement in reference.measurements else Verdict.FAILED
    matching = [value for value in reference.report_data if value == claims.report_data]
    expected = (matching or list(reference.report_data) or [b""])[0]
    return [
        Check("measurement", claims.trust_anchor, " or ".join(named), claims.measurement.hex(), known),
        compare("report data", claims.trust_anchor, expected, claims.report_data),
    ]
