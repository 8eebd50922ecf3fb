"""What a first boot showed, and what tests make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from myelin.attest import AppraisalPolicy, Policy
from myelin.attest.tpm import TpmEvidence
from world import World

NONCE = bytes(range(32))

Settle = Callable[[AppraisalPolicy], World]
"""Makes owners, brokers and a contract that all signed, under a policy."""


@dataclass(frozen=True)
class Recorded:
    """What a first boot showed: the TPM's evidence, and the policy that trusts exactly this."""

    evidence: TpmEvidence
    policy: Policy
