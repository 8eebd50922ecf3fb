"""L2 sensitivity of the gradient sum as computed: float32 sums, float64 accumulation, integer grid."""

from __future__ import annotations

import math
from fractions import Fraction

from myelin.errors import BuildError
from myelin.model import Plan

__all__ = ["noise_deviation", "sensitivity_bound", "sensitivity_e9"]

_NANO = 10**9
_UNIT32, _UNIT64 = Fraction(1, 2**24), Fraction(1, 2**53)


def _accumulation(count: int, unit: Fraction) -> Fraction:
    """γₙ = n·u / (1 − n·u), the worst relative error of n roundings (Higham 2002, lemma 3.1)."""
    if count * unit * 2 > 1:
        raise BuildError(f"{count} roundings in one sum: too many for a bound; lower the microbatch")
    return count * unit / (1 - count * unit)


def _nanos_up(value: float) -> Fraction:
    """``value``, or the next multiple of 1e-9 above it, as plans write it."""
    return Fraction(math.ceil(Fraction(value) * _NANO), _NANO)


def sensitivity_bound(plan: Plan, parameters: int, reduction_length: int, sigma_units: int) -> Fraction:
    """Most that the sum on the grid moves, in L2, when one record is replaced by one that adds nothing.

    *Guarantee*, for the *replace-special* relation. Write m for ``reduction_length``, the examples whose
    gradients one float32 reduction adds, K for the physical batches of a step, C for the clipping norm, P for
    ``parameters``, u = 2⁻²⁴ and v = 2⁻⁵³, and γ(n) = n·u / (1 − n·u).

    1. Kernels give each example the same bits whatever its slot and batch-mates are (``docs/abi.md``), so
       every other example's gradient and coefficient are the same bits on both sides. If the record that adds
       nothing is drawn as any other is, the slots of all others stay too, and one physical batch changes.
       Nothing below leans on that: slots may shift, as they do when the draw is truncated, so that examples
       meet in other physical batches and every batch rounds differently.
    2. Each example's coefficient times its gradient has, in exact arithmetic, a norm of at most C
       (:mod:`myelin.privacy.clipping`). Removing one moves the exact sum by at most C.
    3. The float32 sum of a batch errs, per coordinate and in any order of summation, fused or not, by at most
       γ(m + 2) times the sum of magnitudes (two products and m − 1 additions), in L2 by at most γ(m + 2)·m·C,
       on each of the two sides, in each of the K batches. The enclave flushes subnormal results to zero: c·b
       loses 2⁻¹²⁶, times an input of at most 2⁶⁰, and product and addition 2⁻¹²⁶ each: together below 2⁻⁶⁵
       per coordinate and example. (Inputs that are subnormal are zero there, for the norm and for the sum.)
    4. Float64 accumulation over the K batches, in lanes that are then added (at most 2·K additions), and the
       product with the grid's reciprocal (two roundings) err, on each side, by at most (2·K + 2)·v relative
       to a sum whose norm is at most m·K·C (twice, to cover step 3).
    5. Rounding to the grid moves each coordinate by at most half a unit on each side: √P · grid in all.

    So S = C·(1 + 2·K·m·γ(m + 2)) + 4·(2·K + 2)·v·m·K·C + 2·K·m·√P·2⁻⁶⁵ + √P·grid, and the grid is itself
    ``noise_multiplier · S / sigma_units`` rounded up, by less than 2⁻⁴⁰: S = (the rest) / (1 −
    √P·noise_multiplier·(1 + 2⁻⁴⁰) / sigma_units). Any larger S satisfies it as well, so rounding S up is
    safe. Where a truncated draw lets another record take the place, two records' shares change: the sum moves
    by at most 2·S, which is what the accountant takes for that case.

    Args:
        plan: the mechanism.
        parameters: number of coordinates.
        reduction_length: the microbatch of the compiled step.
        sigma_units: standard deviation of the noise in grid units (``myelin.privacy.noise.SIGMA_UNITS``).

    Returns:
        an upper bound, exact: never below the clipping norm.

    Raises:
        BuildError: the model is so large or the noise so strong that rounding to the grid would dominate.
    """
    clipping_norm = _nanos_up(plan.contribution_norm)
    if not Fraction(1, 2**20) <= clipping_norm <= 2**30:
        raise BuildError(f"clipping_norm {plan.clipping_norm}: expected a value from 2**-20 to 2**30")
    m, batches = reduction_length, -(-plan.capacity // reduction_length)
    root = Fraction(math.isqrt(parameters * 2**80) + 1, 2**40)
    single = clipping_norm * (1 + 2 * batches * m * _accumulation(m + 2, _UNIT32))
    double = 4 * (2 * batches + 2) * _UNIT64 * m * batches * clipping_norm
    underflow = 2 * batches * m * root * Fraction(1, 2**65)
    share = root * _nanos_up(plan.noise_multiplier) * (1 + Fraction(1, 2**40)) / sigma_units
    if share > Fraction(1, 4):
        raise BuildError(
            f"{parameters} parameters with noise_multiplier {plan.noise_multiplier}: rounding to the noise's "
            f"grid of {sigma_units} units would add {float(share):.0%} to the sensitivity; "
            "use a smaller model or less noise"
        )
    return (single + double + underflow) / (1 - share)


def sensitivity_e9(plan: Plan, parameters: int, reduction_length: int, sigma_units: int) -> int:
    """:func:`sensitivity_bound` in units of 1e-9, rounded up, as plan and event carry it."""
    bound = sensitivity_bound
    if plan.correlation is not None:
        from .banded_sensitivity import banded_sensitivity_bound as bound
    return math.ceil(bound(plan, parameters, reduction_length, sigma_units) * _NANO)


def noise_deviation(plan: Plan, bound_e9: int) -> float:
    """Standard deviation of the noise in one coordinate of the released gradient: ``noise_multiplier ×
    sensitivity / expected_batch_size``, with the numbers that the mechanism runs with (the grid's rounding
    makes it larger by less than 2⁻⁴⁰ of it)."""
    numerator = plan.noise_multiplier_e9 * bound_e9
    return float(Fraction(numerator, _NANO * _NANO * plan.expected_batch_size))
