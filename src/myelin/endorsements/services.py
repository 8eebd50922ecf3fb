"""Where the vendors' services are, and the one way to ask them: through a cache, if there is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from myelin.endorsements.cache import Cache, Kept
from myelin.endorsements.transport import Answer, Request, Transport
from myelin.errors import InputError

__all__ = ["Fetcher", "Services"]

_KEPT_HEADERS = frozenset(
    {"tcb-info-issuer-chain", "sgx-enclave-identity-issuer-chain", "sgx-pck-crl-issuer-chain"}
)


@dataclass(frozen=True)
class Services:
    """Base addresses. Any of them may be another that speaks the same interface, such as a caching service
    (PCCS) of one's own; what it answers is believed by the vendor's signature alone.

    ``intel`` is the Provisioning Certification Service, version 4; ``intel_root`` has the root's revocation
    list, unless ``intel`` is a caching service that has it too (then empty). ``amd`` is the Key Distribution
    Service. ``nvidia_rim`` and ``nvidia_ocsp`` are NVIDIA's. ``aws`` replaces the host of the addresses that
    AWS's certificates name, for tests.
    """

    intel: str = "https://api.trustedservices.intel.com"
    intel_root: str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    amd: str = "https://kdsintf.amd.com"
    nvidia_rim: str = "https://rim.attestation.nvidia.com/v1/rim"
    nvidia_ocsp: str = "https://ocsp.ndis.nvidia.com"
    aws: str = ""


@dataclass(frozen=True)
class Fetcher:
    """Asks services. Without a cache every request goes out; with one, those that are older than
    ``maximum_age_s``, or none if ``offline``. ``now`` is the wall clock, in Unix seconds."""

    services: Services = field(default_factory=Services)
    transport: Transport = field(default_factory=Transport)
    cache: Cache | None = None
    maximum_age_s: int = 86_400
    offline: bool = False
    now: Callable[[], float] = time.time

    def ask(self, request: Request) -> Kept:
        """The answer to a request and when it came; :class:`~myelin.errors.InputError` if there is none."""
        now_s = int(self.now())
        kept = self.cache.find(request) if self.cache is not None else None
        if kept is not None and (self.offline or 0 <= now_s - kept.fetched_s <= self.maximum_age_s):
            return kept
        if self.offline:
            where = self.cache.folder if self.cache is not None else "no cache"
            raise InputError(f"{request.url}: not in {where}, and the network is not to be used (offline)")
        fresh = Kept(self.transport.ask(request), now_s)
        if self.cache is not None:
            self.cache.keep(request, fresh, _KEPT_HEADERS)
        return Kept(Answer(fresh.answer.headers, fresh.answer.body), now_s)
