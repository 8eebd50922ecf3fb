"""Fetching for any kind of evidence: whoever made it, its vendor is asked, and nothing is believed yet."""

from __future__ import annotations

from myelin.attest import MEDIA_TYPES, Evidence, RealEvidence
from myelin.endorsements.amd import fetch_amd
from myelin.endorsements.aws import fetch_aws
from myelin.endorsements.endorsement import Endorsement
from myelin.endorsements.intel import fetch_intel
from myelin.endorsements.nvidia import fetch_nvidia
from myelin.endorsements.services import Fetcher
from myelin.errors import InputError

__all__ = ["fetch_endorsements"]

_KINDS = {media_type: kind for kind, media_type in MEDIA_TYPES.items()}


def fetch_endorsements(
    evidence: Evidence, given: tuple[bytes, ...] = (), fetcher: Fetcher | None = None
) -> tuple[Endorsement, ...]:
    """Fetch what :func:`myelin.attest.appraise` needs of a vendor to judge this evidence.

    ``given`` are endorsements that no service has: a GPU's chain. Raises ``evidence_unreadable`` for evidence
    that has not its form, and :class:`~myelin.errors.InputError` for what cannot be fetched. What comes back
    is as trustworthy as a stranger: its signatures are judged by the appraisal, against pinned roots.
    """
    fetcher = fetcher or Fetcher()
    kind = _KINDS.get(evidence.media_type)
    if kind in (RealEvidence.SGX, RealEvidence.TDX):
        return tuple(fetch_intel(evidence, fetcher))
    if kind in (RealEvidence.SEV_SNP, RealEvidence.AZURE_SNP):
        return tuple(fetch_amd(evidence, kind, fetcher))
    if kind is RealEvidence.NITRO:
        return tuple(fetch_aws(evidence, fetcher))
    if kind is RealEvidence.NVIDIA:
        return tuple(fetch_nvidia(evidence, given, fetcher))
    raise InputError(f"{evidence.media_type}: nobody has endorsements for it; a policy lists its machines")
