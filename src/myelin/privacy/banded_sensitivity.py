"""L2 sensitivity of correlated noise's encoded sums: what one turn of a record moves, with all rounding."""

from __future__ import annotations

import math
from fractions import Fraction

from myelin.errors import BuildError
from myelin.model import Plan

from .sensitivity import sensitivity_bound

__all__ = ["banded_sensitivity_bound"]

_E9 = 10**9
_UNIT64 = Fraction(1, 2**53)
_FINE = 2**200


def banded_sensitivity_bound(
    plan: Plan, parameters: int, reduction_length: int, sigma_units: int
) -> Fraction:
    """Most that one turn of a record moves ``v``, in L2 over the steps of its window and all coordinates.

    *Guarantee*. Write c for the coefficients, b for their number, and A for
    :func:`~myelin.privacy.sensitivity_bound` on a grid so fine that rounding to it adds nothing: the most
    that a step's sum moves as computed, before it is encoded. In step j of the window, ``Σ c_i x`` moves by
    ``c_j A`` in exact arithmetic, so by ``‖c‖ A`` over all b. As computed, in float64 with coefficients that
    are rounded, it errs by at most ``(b + 4)·2⁻⁵³`` of ``Σ c_i |x_i|``, on each side; a sum's norm is at most
    that of all its slots, twice for its own rounding. Rounding to the grid moves each coordinate by at most
    half a unit on each side. Both come in each of b steps: √b times, in L2.

    So S = ‖c‖·A + √b·(4·(b + 4)·2⁻⁵³·‖c‖₁·m·K·C + √P·grid), and the grid is itself a share of S, as in
    :func:`~myelin.privacy.sensitivity_bound`.

    Raises:
        BuildError: as of :func:`~myelin.privacy.sensitivity_bound`.
    """
    numbers = plan.correlation.coefficients_e9
    bands = len(numbers)
    single = sensitivity_bound(plan, parameters, reduction_length, _FINE)
    length = Fraction(math.isqrt(sum(n * n for n in numbers) << 80) + 1, _E9 << 40)
    root = Fraction(math.isqrt(bands * parameters << 80) + 1, 2**40)
    steps = Fraction(math.isqrt(bands << 80) + 1, 2**40)
    slots = reduction_length * -(-plan.capacity // reduction_length)
    float64 = 4 * (bands + 4) * _UNIT64 * Fraction(sum(numbers), _E9) * slots * single
    multiplier = Fraction(plan.noise_multiplier_e9 + 1, _E9)
    share = root * multiplier * (1 + Fraction(1, 2**40)) / sigma_units
    if share > Fraction(1, 4):
        raise BuildError(
            f"{parameters} parameters and {bands} bands with noise_multiplier {plan.noise_multiplier}: "
            f"rounding to the noise's grid of {sigma_units} units would add {float(share):.0%} to the "
            "sensitivity; use a smaller model, fewer bands or less noise"
        )
    return (length * single + steps * float64) / (1 - share)
