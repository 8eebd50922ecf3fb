"""Zero-concentrated DP of an event, as an exact integer of micro-ρ: for people, quotas and a cross-check.

*What decides* is ε of the composed events by the PLD accountant (:class:`~myelin.contract.Ledger`). ρ is
coarser: it leaves out what sampling amplifies. It needs no numerics and adds exactly, so it is what quotas
are counted in, and what shows an accountant that reports far more than it can.
"""

from __future__ import annotations

import math

from myelin.contract.event import DpEvent
from myelin.errors import ProtocolError
from myelin.privacy.banded import participations

__all__ = ["MOST_ZCDP_U", "epsilon_of_zcdp", "micro_zcdp"]

MOST_ZCDP_U = (1 << 63) - 1
"""The largest ρ of one event that a ledger takes, in millionths."""


def micro_zcdp(event: DpEvent) -> int:
    """ρ of an event in millionths, rounded up.

    *Guarantee.* Each step is, given who was drawn, a Gaussian mechanism of multiplier σ on one record's
    replaced contribution, so it is 1/(2σ²)-zCDP (Bun and Steinke 2016, proposition 1.6); a mixture over
    draws is no more, by joint quasi-convexity of Rényi divergence; T steps add (lemma 1.7). Where records
    take turns, the run is one Gaussian mechanism of multiplier σ/√turns (protocol section 7). Up to the
    distance of the sampler from a Gaussian, which the accountant takes off δ.

    Raises ``budget_exhausted`` if there is no noise, or more than :data:`MOST_ZCDP_U`.
    """
    times = event.steps
    if event.correlation:
        times = participations(event.dataset_size, max(event.capacity, 1), event.steps)
    noise = event.noise_multiplier_e9
    # ρ·10⁶ = times · 10⁶ / (2 (noise/10⁹)²), in integers, rounded up.
    rho_u = -(-times * 10**24 // (2 * noise * noise)) if noise else MOST_ZCDP_U + 1
    if rho_u > MOST_ZCDP_U:
        raise ProtocolError.named("budget_exhausted", "the event: without noise, or with too little to count")
    return rho_u


def epsilon_of_zcdp(rho_u: int, delta: float) -> float:
    """ε at ``delta`` of ``rho_u`` millionths: ρ + 2√(ρ ln(1/δ)) (Bun and Steinke 2016, proposition 1.3)."""
    rho = rho_u / 1e6
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))
