"""The verifier: evidence in, attestation result out (RFC 9334). A pure function that fails closed.

One file per kind of evidence reads it and checks its vendor's signatures; what is common to all kinds
(are the registers reference values, is the report data the one that the relying party computed, how old
and how patched is it all) is checked in ``claims.py``, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from myelin.attest.azure import appraise_azure
from myelin.attest.check import Check, compare
from myelin.attest.claims import claim_checks, no_claims
from myelin.attest.evidence import Evidence
from myelin.attest.intel import appraise_sgx, appraise_tdx
from myelin.attest.kind import MEDIA_TYPES, KindVerifier, RealEvidence, ReferenceValues
from myelin.attest.nitro import appraise_nitro
from myelin.attest.nvidia import appraise_nvidia
from myelin.attest.policy import AppraisalPolicy, Policy, SimulatedPolicy
from myelin.attest.roots import PINNED_ROOTS, Roots
from myelin.attest.simulated import SIMULATED_MEDIA_TYPE, SIMULATED_TRUST_ANCHOR, appraise_simulated
from myelin.attest.snp import appraise_snp
from myelin.attest.tpm import appraise_tpm

__all__ = ["AttestationResult", "appraise", "danger_appraise_with_roots"]

_VERIFIERS: Mapping[RealEvidence, KindVerifier] = MappingProxyType(
    {
        RealEvidence.AZURE_SNP: appraise_azure,
        RealEvidence.NITRO: appraise_nitro,
        RealEvidence.NVIDIA: appraise_nvidia,
        RealEvidence.SEV_SNP: appraise_snp,
        RealEvidence.SGX: appraise_sgx,
        RealEvidence.TDX: appraise_tdx,
        RealEvidence.TPM: appraise_tpm,
    }
)
_KINDS = MappingProxyType({media_type: kind for kind, media_type in MEDIA_TYPES.items()})


@dataclass(frozen=True)
class AttestationResult:
    """What an appraisal came to: the whole tree of checks, and whether the evidence was simulated.

    ``measurement`` is the digest of the Myelin image that was recognised, or ``None``.
    """

    checks: Check
    simulated: bool
    measurement: bytes | None
    policy: bytes
    at_s: int

    @property
    def trusted(self) -> bool:
        """Whether every check passed."""
        return self.checks.passed

    def to_dict(self) -> dict[str, object]:
        """The result as JSON-ready values."""
        return {
            "trusted": self.trusted,
            "simulated": self.simulated,
            "measurement": self.measurement.hex() if self.measurement is not None else None,
            "policy": self.policy.hex(),
            "at_s": self.at_s,
            "checks": self.checks.to_dict(),
        }


def appraise(
    evidence: Evidence,
    endorsements: tuple[bytes, ...],
    reference_values: ReferenceValues,
    policy: AppraisalPolicy,
    now_s: int,
) -> AttestationResult:
    """Appraise evidence under a policy at a time, against the roots that the package carries.

    ``endorsements`` is what manufacturers say about the hardware (certificates, collateral), as bytes;
    simulated evidence has none. Raises ``evidence_unreadable`` if the evidence has not the form that its
    media type promises; anything else that is wrong is a failed check in the result, never an exception.
    """
    return danger_appraise_with_roots(
        evidence, endorsements, reference_values, policy, now_s, danger_roots=PINNED_ROOTS
    )


def danger_appraise_with_roots(
    evidence: Evidence,
    endorsements: tuple[bytes, ...],
    reference_values: ReferenceValues,
    policy: AppraisalPolicy,
    now_s: int,
    *,
    danger_roots: Roots,
) -> AttestationResult:
    """Appraise like :func:`appraise`, but trust other roots: whoever holds their keys can make any
    evidence.

    For tests that make vendor-shaped evidence of their own. Nothing in the package calls it with other
    roots.
    """
    accepted = _policy_check(evidence, policy)
    simulated = evidence.media_type == SIMULATED_MEDIA_TYPE
    kind = _KINDS.get(evidence.media_type)
    verifier = _VERIFIERS.get(kind) if kind is not None else None
    measurement: bytes | None = None
    if simulated:
        checks, measurement = _simulated(evidence, reference_values)
    elif verifier is None or not isinstance(policy, Policy):
        unknown = verifier is None
        why = (
            f"this version has no verifier for {evidence.media_type}"
            if unknown
            else "the policy is for others"
        )
        checks = [Check.skipped("evidence signature", "none", "a signature by trusted hardware", why)]
        checks += no_claims(why)
    else:
        claims, own = verifier(
            evidence.body, endorsements, reference_values, policy, now_s, danger_roots=danger_roots
        )
        if not own:
            own = (Check.skipped("evidence signature", "none", "a signature", "the verifier made no check"),)
        if claims is None or claims.kind is not kind:
            checks = [*own, *no_claims("the evidence's claims are not known")]
        else:
            common, measurement = claim_checks(claims, reference_values, policy, now_s)
            checks = [*own, *common]
    return AttestationResult(
        Check.group("attestation", f"appraisal policy {policy.name}", [accepted, *checks]),
        simulated,
        measurement,
        policy.digest,
        now_s,
    )


def _simulated(evidence: Evidence, reference: ReferenceValues) -> tuple[list[Check], bytes]:
    claims, signature = appraise_simulated(evidence)
    anchor = SIMULATED_TRUST_ANCHOR
    images = reference.measurements if reference.measurements is not None else frozenset()
    named = sorted(value.hex() for value in images) or ["(no reference value given)"]
    matching = [value for value in reference.report_data if value == claims.report_data]
    expected = (matching or list(reference.report_data) or [b""])[0]
    known = claims.measurement in images
    return [
        signature,
        Check.made("measurement", anchor, " or ".join(named), claims.measurement.hex(), known),
        compare("report data", anchor, expected, claims.report_data),
    ], claims.measurement


def _policy_check(evidence: Evidence, policy: AppraisalPolicy) -> Check:
    anchor = "the relying party's appraisal policy"
    simulated = evidence.media_type == SIMULATED_MEDIA_TYPE
    if isinstance(policy, SimulatedPolicy):
        expected, good = "simulated evidence (a rehearsal: no secrecy)", simulated
    elif isinstance(policy, Policy):
        expected = "evidence signed by hardware: " + ", ".join(sorted(k.value for k in policy.accepts))
        good = not simulated and _KINDS.get(evidence.media_type) in policy.accepts
    else:  # a foreign object cannot widen what is accepted
        expected, good = "a policy of this version", False
    got = f"SIMULATED evidence ({evidence.media_type})" if simulated else evidence.media_type
    return Check.made("kind of evidence", anchor, expected, got, good)
