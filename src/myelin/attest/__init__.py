"""Appraising evidence: is what answers really the image that everybody signed for?

The verifier of RFC 9334. Everything is a pure function of its arguments, time included, and fails closed.
"""

from myelin.attest.appraise import AttestationResult, appraise
from myelin.attest.check import Check, Verdict, compare
from myelin.attest.evidence import MOST_EVIDENCE_BYTES, Evidence
from myelin.attest.html import render_html
from myelin.attest.kind import MEDIA_TYPES, REGISTERS, Claims, Measurement, RealEvidence, ReferenceValues
from myelin.attest.policy import AppraisalPolicy, MinimumTcb, Policy, SimulatedPolicy, load_measurements
from myelin.attest.render import check_tree, render_checks
from myelin.attest.simulated import (
    SIMULATED_MEDIA_TYPE,
    SIMULATED_TRUST_ANCHOR,
    SimulatedClaims,
    appraise_simulated,
)

__all__ = [
    "MEDIA_TYPES",
    "MOST_EVIDENCE_BYTES",
    "REGISTERS",
    "SIMULATED_MEDIA_TYPE",
    "SIMULATED_TRUST_ANCHOR",
    "AppraisalPolicy",
    "AttestationResult",
    "Check",
    "Claims",
    "Evidence",
    "Measurement",
    "MinimumTcb",
    "Policy",
    "RealEvidence",
    "ReferenceValues",
    "SimulatedClaims",
    "SimulatedPolicy",
    "Verdict",
    "appraise",
    "appraise_simulated",
    "check_tree",
    "compare",
    "load_measurements",
    "render_checks",
    "render_html",
]
