"""Appraisal policies: what evidence a relying party accepts (RFC 9334 section 8.5).

Accepting simulated evidence is another *type* of policy, not a setting of one: no field, file or flag turns
:meth:`Policy.production` into something that takes a simulated enclave for a real one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from myelin.wire import digest, info

__all__ = ["AppraisalPolicy", "Policy", "RealEvidence", "SimulatedPolicy"]


class RealEvidence(enum.Enum):
    """Kinds of evidence that hardware signs. Simulated evidence is not one of them and cannot become one."""

    NITRO = "nitro"
    SEV_SNP = "sev-snp"
    SGX = "sgx"
    TDX = "tdx"


@dataclass(frozen=True)
class Policy:
    """A policy for evidence that hardware signed: the kinds that are accepted.

    This version has no verifier for any of them yet, so it refuses all evidence: fail closed.
    """

    accepts: frozenset[RealEvidence]

    @classmethod
    def production(cls) -> Policy:
        """Accept every kind of real evidence that this version can verify, and nothing else."""
        return cls(frozenset(RealEvidence))

    @staticmethod
    def insecure_accepting_simulated_evidence() -> SimulatedPolicy:
        """A policy for rehearsals: accepts *only* simulated evidence, which proves nothing about secrecy."""
        return SimulatedPolicy()

    @property
    def name(self) -> str:
        """What reports call it."""
        return "production"

    @property
    def digest(self) -> bytes:
        """Digest that contracts and report data carry (32 bytes)."""
        kinds = sorted(kind.value for kind in self.accepts)
        return digest(info("myelin/policy/v1", "real", kinds))


@dataclass(frozen=True)
class SimulatedPolicy:
    """Accepts only simulated evidence. Made by :meth:`Policy.insecure_accepting_simulated_evidence`."""

    @property
    def name(self) -> str:
        """What reports call it."""
        return "INSECURE: simulated evidence"

    @property
    def digest(self) -> bytes:
        """Digest that contracts and report data carry (32 bytes)."""
        return digest(info("myelin/policy/v1", "insecure-simulated"))


AppraisalPolicy: TypeAlias = Policy | SimulatedPolicy
"""Either type of policy."""
