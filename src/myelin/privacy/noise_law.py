"""The law of one draw of the enclave's noise: its tables, and how far it is from the rounded Gaussian.

A draw is ``z = S y + fine``, with S = 2^18, ``y`` from tables, and ``fine`` a sum of random bits less its
mean: ``n_j`` bits of weight ``2^j`` for each j below 18 (:attr:`Construction.orders`).

*Why bits of every weight, and why more of the heavy.* The transform of ``y`` has period 2π/S in the frequency
of z, so it has images of itself around every ``2πl/S``; what ``fine`` leaves of them is the error. A bit of
weight ``2^j`` has the transform ``cos(2^j ω/2)``. For l an odd multiple of ``2^a``, it is zero at ``2πl/S``
where ``2^j = S / 2^(a+1)``, and there alone: that image is damped by the ``n_j``-th power of ``2^j φ/2``, φ
the distance from the image's centre. φ is about 1/σ, so a light bit damps far more than a heavy one, and
three of them do what sixteen of the heaviest do (:func:`alias_divergence`). Within the first period the law
of ``y`` makes up for what ``fine`` damps: its transform is the Gaussian's divided by that of ``fine``.

*Tables.* ``y`` has a sign and a magnitude. The *head* gives magnitude k the mass ``floor(2^23 P(|y| = k)) /
2^23``, decided by 23 bits. What is left over in all, :func:`reserve_share`, goes to the *reserve*, a law of
its own with 63 bits, which is drawn apart, for few draws, and taken by those whose 23 bits do not decide. A
lane of 256 draws has four in reserve. If a fifth is wanted, the fourth is taken again, and draws are no
longer independent: :func:`exhaustion` bounds how often.

*Guarantee*. Let P be the law of ``round(N(0, σ²))``, P' that of a draw as implemented, B the integers within
:data:`BODY` standard deviations. N draws, whatever is done with them and in whatever order they are asked
for, are within total variation

    N · TOTAL_VARIATION + sqrt(N · DIVERGENCE / 2)

of N draws of P. For let R be P' outside of B, and inside P, scaled so that R(B) = P'(B). First, TV(R, P) is
at most the larger of P and P' outside of B; over N draws that adds up, and so does the chance of exhaustion:
:data:`TOTAL_VARIATION`. Second, ``KL(P' ‖ R) <= χ²(P' ‖ R) <= Σ_B (P' − P)² / P · (1 + 2^-50)``, which is
:data:`DIVERGENCE`; the divergence of N draws is N times that, even if what is asked for next depends on what
was seen (chain rule), and by Pinsker's inequality the total variation is at most the root of half of it.

:func:`distance` computes both sums by enumerating P' and P over all integers; a test compares with the
constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "BODY",
    "CONSTRUCTION",
    "DIVERGENCE",
    "HEAD_BITS",
    "LANE_DRAWS",
    "RESERVE",
    "RESERVE_BITS",
    "TOTAL_VARIATION",
    "Construction",
    "alias_divergence",
    "coarse_probabilities",
    "distance",
    "exhaustion",
    "fine_probabilities",
    "head",
    "implemented_probabilities",
    "reserve",
    "reserve_share",
]

Extended = npt.NDArray[np.longdouble]


@dataclass(frozen=True)
class Construction:
    """A Gaussian of ``coarse_sigma`` spacings, and ``orders[j]`` random bits of weight ``2^j`` for every j
    below the spacing's.

    The enclave has :data:`CONSTRUCTION`. Smaller ones let tests look at every part.
    """

    coarse_sigma: int
    orders: tuple[int, ...]

    @property
    def spacing(self) -> int:
        """Grid units between values of the coarse part."""
        return 1 << len(self.orders)

    @property
    def sigma(self) -> int:
        """Standard deviation of a draw, in grid units."""
        return self.coarse_sigma * self.spacing

    @property
    def fine_mean(self) -> int:
        """Mean of the sum of the bits; an even number of bits of weight 1 makes it an integer."""
        return sum(order << place for place, order in enumerate(self.orders)) // 2


CONSTRUCTION: Final = Construction(
    coarse_sigma=4, orders=(4, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 6, 7, 9, 16, 16)
)
"""What the enclave draws with."""

HEAD_BITS: Final = 23
"""Random bits that decide most magnitudes."""

RESERVE_BITS: Final = 63
"""Random bits that decide a magnitude in reserve."""

RESERVE: Final = 4
"""Magnitudes in reserve for a lane's draws of one stream."""

LANE_DRAWS: Final = 256
"""Draws of one lane of one stream."""

BODY: Final = 9.5
"""Standard deviations within which laws are compared by divergence; farther out, by mass."""

DIVERGENCE: Final = 2.0**-89.5
"""One draw's divergence from the rounded Gaussian, as above (a test computes it)."""

TOTAL_VARIATION: Final = 2.0**-68
"""What one draw adds to the total variation apart from :data:`DIVERGENCE` (a test computes it)."""

_PRECISION_DIGITS: Final = 60
_TRANSFORM_POINTS: Final = 1024
_COARSE_VALUES: Final = 80


def _arithmetic(digits: int = _PRECISION_DIGITS) -> Any:
    """High-precision arithmetic of its own, so that no other user's precision is changed."""
    import mpmath  # type: ignore[import-untyped]

    context = mpmath.mp.clone()
    context.dps = digits
    return context


@lru_cache(maxsize=4)
def coarse_probabilities(construction: Construction = CONSTRUCTION) -> tuple[Any, ...]:
    """Ideal weights of ``y = 0, 1, 2, …`` (``−y`` has the weight of ``y``), as high-precision numbers.

    Their transform on ``|φ| <= π`` is that of the rounded Gaussian divided by that of the fine bits, both at
    ``φ / spacing``. At π it is below 1e-30, far below what the reserve's bits can tell, so an equidistant sum
    inverts it.
    """
    mp = _arithmetic()
    spacing, orders = construction.spacing, construction.orders

    def transform(k: int) -> Any:
        if k == 0:
            return mp.mpf(1)
        phi = 2 * mp.pi * k / _TRANSFORM_POINTS
        half = phi / (2 * spacing)
        value = mp.exp(-((construction.coarse_sigma * phi) ** 2) / 2) * mp.sin(half) / half
        for place, order in enumerate(orders):
            value /= mp.cos(half * 2**place) ** order
        return value

    half_points = _TRANSFORM_POINTS // 2
    # Past 1e-80 a term is below the precision of the sum.
    terms = [(k, value) for k in range(half_points) if (value := transform(k)) > mp.mpf(10) ** -80]
    cosines = [mp.cos(2 * mp.pi * k / _TRANSFORM_POINTS) for k in range(_TRANSFORM_POINTS)]
    return tuple(
        sum((1 if k == 0 else 2) * value * cosines[k * y % _TRANSFORM_POINTS] for k, value in terms)
        / _TRANSFORM_POINTS
        for y in range(_COARSE_VALUES)
    )


def _magnitudes() -> list[Any]:
    """Ideal probabilities of ``|y| = 0, 1, 2, …``."""
    weights = coarse_probabilities()
    return [weights[0], *(2 * weight for weight in weights[1:])]


@lru_cache(maxsize=1)
def head() -> tuple[int, ...]:
    """The short table: ``|y|`` is the number of these that the 23 bits reach, if they do not reach the last.

    Row j is the sum of the first ``j + 1`` of ``floor(2^23 P(|y| = k))``; magnitudes that get nothing are
    left out.
    """
    mp = _arithmetic()
    rows, total = [], 0
    for probability in _magnitudes():
        mass = int(mp.floor(probability * 2**HEAD_BITS))
        if mass == 0:
            break
        total += mass
        rows.append(total)
    return tuple(rows)


def reserve_share() -> float:
    """How often a draw is taken from the reserve."""
    return 1 - head()[-1] / 2**HEAD_BITS


@lru_cache(maxsize=1)
def reserve() -> tuple[int, ...]:
    """The reserve's table: ``|y|`` is the number of these that 63 bits reach.

    Row j is ``2^63 Q(|y| <= j)``, rounded, where Q is what the head leaves over, divided by its sum; those
    that round to 2^63 are left out.
    """
    mp = _arithmetic()
    steps = [0, *head()]
    rows, total = [], mp.mpf(0)
    for k, probability in enumerate(_magnitudes()):
        kept = steps[k + 1] - steps[k] if k + 1 < len(steps) else 0
        total += probability * 2**HEAD_BITS - kept
        value = int(mp.nint(total / (2**HEAD_BITS - steps[-1]) * 2**RESERVE_BITS))
        if value >= 2**RESERVE_BITS:
            break
        rows.append(value)
    return tuple(rows)


def implemented_probabilities() -> tuple[Any, ...]:
    """Weights of ``y = 0, 1, 2, …`` as the two tables give them, exactly, as high-precision numbers."""
    mp = _arithmetic()
    steps, later = [0, *head()], [0, *reserve(), 2**RESERVE_BITS]
    left = mp.mpf(2**HEAD_BITS - steps[-1]) / 2**HEAD_BITS
    weights = []
    for k in range(len(later) - 1):
        kept = steps[k + 1] - steps[k] if k + 1 < len(steps) else 0
        mass = mp.mpf(kept) / 2**HEAD_BITS + left * (later[k + 1] - later[k]) / 2**RESERVE_BITS
        weights.append(mass if k == 0 else mass / 2)
    return tuple(weights)


def exhaustion() -> float:
    """Bound of the chance, for each draw of a lane, that the lane wants more than it has in reserve.

    The union bound over the sets of draws that could be the ones too many.
    """
    wanted = RESERVE + 1
    return math.comb(LANE_DRAWS, wanted) * reserve_share() ** wanted / LANE_DRAWS


@lru_cache(maxsize=4)
def fine_probabilities(construction: Construction = CONSTRUCTION) -> Extended:
    """Probabilities of the bits' sum, ``0`` to twice the mean, with relative error below 2^-56.

    Every bit is one addition of positive numbers, and halving is exact.
    """
    if np.finfo(np.longdouble).nmant < 63:
        raise NotImplementedError("the noise's law is enumerated in 80-bit floats, as on x86-64")
    law = np.ones(1, np.longdouble)
    for place, order in enumerate(construction.orders):
        for _ in range(order):
            longer = np.zeros(len(law) + (1 << place), np.longdouble)
            longer[: len(law)] = law
            longer[1 << place :] += law
            law = longer / 2
    return law


def _gaussian(z: Extended, sigma: int) -> Extended:
    """Probabilities of ``round(N(0, sigma²))``, with relative error below 2^-55.

    The density at the middle, and two terms of its mean over the interval; the third is below 2^-70 for sigma
    of 2^12 and more.
    """
    t = (z / sigma) ** 2
    mean = 1 + (t - 1) / (24 * sigma**2) + (t * t - 6 * t + 3) / (1920 * np.longdouble(sigma) ** 4)
    scale = sigma * np.sqrt(2 * np.longdouble(np.pi) + np.longdouble("2.4492935982947064e-16"))
    result: Extended = np.exp(-t / 2) / scale * mean
    return result


def _laws(
    weights: Sequence[Any], construction: Construction
) -> Iterator[tuple[Extended, Extended, Extended]]:
    """All z from 0 on, spacing by spacing: z, its probability as implemented, and the rounded Gaussian's."""
    fine, mean, spacing = fine_probabilities(construction), construction.fine_mean, construction.spacing
    cells = -(-len(fine) // spacing)
    fine = np.concatenate([fine, np.zeros(cells * spacing - len(fine), np.longdouble)])
    parts = fine.reshape(cells, spacing)
    weighed = [np.longdouble(str(_arithmetic().nstr(weight, 30))) for weight in weights]
    last = len(weighed) - 1 + cells
    for cell in range(mean // spacing, last + 1):
        law, term = np.zeros(spacing, np.longdouble), np.empty(spacing, np.longdouble)
        for part in range(cells):
            if abs(cell - part) < len(weighed):
                law += np.multiply(parts[part], weighed[abs(cell - part)], out=term)
        z = np.arange(cell * spacing - mean, (cell + 1) * spacing - mean).astype(np.longdouble)
        yield z[z >= 0], law[z >= 0], _gaussian(z[z >= 0], construction.sigma)


@lru_cache(maxsize=4)
def distance(weights: tuple[Any, ...], construction: Construction = CONSTRUCTION) -> tuple[float, float]:
    """How far draws whose coarse part has ``weights`` (of y = 0, 1, 2, …) are from the rounded Gaussian.

    Enumerates all integers: seconds for the enclave's.

    Returns:
        ``Σ (P' − P)² / P`` over the body, and the mass outside of it, of P or of P', whichever is more. Both
        are rounded up.
    """
    mp = _arithmetic()
    edge = BODY * construction.sigma
    total, outside = np.longdouble(0), np.longdouble(0)
    for z, law, ideal in _laws(weights, construction):
        law = law * np.where(z == 0, 1, 2)  # −z has the probability of z
        ideal = ideal * np.where(z == 0, 1, 2)
        within = z <= edge
        total += ((law - ideal)[within] ** 2 / ideal[within]).sum()
        outside += law[~within].sum()
    gaussian = float(mp.erfc((edge - 1) / (construction.sigma * mp.sqrt(2))))
    # By Minkowski's inequality, errors of P'/P below 2^-53 add no more than that to the root.
    divergence = (np.sqrt(total) + np.longdouble(2.0**-53)) ** 2
    return float(divergence) * (1 + 2.0**-50), max(gaussian, float(outside)) * (1 + 2.0**-40)


def alias_divergence(construction: Construction = CONSTRUCTION) -> float:
    """What the images leave of ``Σ (P' − P)² / P`` with ideal weights, to first order in 1/σ.

    The image around ``2πl/S``, l an odd multiple of ``2^a``, is the Gaussian's transform times ``(φσ)^n
    c_l``: n bits have weight ``S / 2^(a+1)``, whose transforms are ``2^-(a+2) φ σ / coarse_sigma`` there, and
    the lighter bits' are ``cos(2^j πl/S)``, which does not vanish. Such a term adds ``P(z) He_n(z/σ) c_l``
    times an oscillation to the law, so ``n! c_l²`` to the divergence, and different l add up, for their
    oscillations are orthogonal.
    """
    total, places = 0.0, len(construction.orders)
    for a in range(places):
        order = construction.orders[places - 1 - a]
        near = (2.0 ** -(a + 2) / construction.coarse_sigma) ** (2 * order) * math.factorial(order)
        odd = np.arange(1, max(2, 2 ** min(places - a - 1, 13)), 2)
        damped = np.ones(len(odd))
        for place in range(places - 1 - a):
            damped *= np.cos(np.pi * odd * 2.0 ** (a + place - places)) ** (2 * construction.orders[place])
        # −l is an image of its own, but for l = S/2. Past the 2^12th, they add nothing.
        total += near * float(damped.sum()) * (1 if a == places - 1 else 2)
    return total
