"""Per-example norms and clip coefficients, in double precision, rounded so that they never understate.

*Guarantee.* Let g be the gradient of one example in exact arithmetic on the float32 values that
:mod:`~myelin.privacy.rules` adds up: the kept gradient itself, or the outer product of a linear layer's input
and output gradient. Then the example's coefficient c satisfies ``c · ‖g‖ ≤ clipping_norm``, whatever the
values are:

- a *ghost* norm is the root of a product of two sums of squares, each added in float64, where the square of a
  float32 neither overflows nor underflows, and n terms in any order have a relative error below n·2⁻⁵³
  (Higham 2002, section 4.2): for n up to 2²⁸, 2⁻²⁵. It is multiplied by 1 + 2⁻²² before it is rounded to
  float32;
- a *kept* gradient's n squares may be added in float64 as well, or in float32 chains of at most 64 fused
  multiply-adds whose results are added in float64, whatever a kernel finds faster. All terms are positive, so
  a chain's relative error is at most γ(64) = 64·2⁻²⁴ / (1 − 64·2⁻²⁴) < 2⁻¹⁸·(1 + 2⁻¹⁷) (Higham 2002, lemma
  3.1), and that of the norm half of it. A fused result below 2⁻¹²⁶ is flushed to zero, so at most n·2⁻¹²⁶ of
  the sum is lost, which :func:`upper_norm` adds back. Then it multiplies by 1 + 2⁻¹⁹ + 2⁻²², above
  (1 + 2⁻²⁵)·(1 − γ(64))^(−1/2)·(1 + 2⁻²⁴), and rounds to float32. A chain that overflows is infinite, and so
  is the norm: squares of a gradient within the largest norm are at most 2¹²⁰ in all and do not;
- either is an upper bound, at most 5·10⁻⁶ above the truth, plus √n·2⁻⁶³ for a kept gradient: below 2⁻⁴⁹ next
  to a clipping norm of at least 2⁻²⁰. A norm below 2⁻¹²⁶ may become 0: the same slack of the other layers
  covers it where it matters;
- the enclave reads subnormal numbers as zero, in the norm and in the sum alike;
- c is 1 if the norm over all layers is at most the clipping norm, else ``clipping_norm / norm`` lowered by
  2⁻²², then rounded;
- an example whose norm, or a factor of it, is not finite or above 2⁶⁰ has c = 0. A comparison finds it, which
  is false for NaN, and whatever uses c *selects* by ``c > 0``: a NaN times zero would be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import relax, te, tirx

from myelin.errors import BuildError
from myelin.graph.relax_ir import call_family, family, shape_of, tensor
from myelin.graph.selection import selected

__all__ = [
    "LARGEST_NORM",
    "LOWERED",
    "clip",
    "clip_examples",
    "flat_coefficient",
    "kept_norm",
    "norm_placeholders",
    "norms_and_contributing",
    "outer_norm",
    "upper_norm",
    "upper_outer_norm",
    "whole_norm",
]

LARGEST_NORM = 2.0**60
"""An example with a larger norm, or a factor of a norm, counts as overflown and contributes nothing."""

_SLACK = 2.0**-22
"""Relative inflation of norms and deflation of coefficients: above every rounding that it has to cover."""

LOWERED = 1.0 - _SLACK
"""Factor on coefficients: further below 1 than their roundings take them up."""

_CHAIN_SLACK = 2.0**-19 + 2.0**-22
"""The same where squares may be added in float32 chains of at most 64."""

_TERMS_MAX = 2**28
"""Most terms of one sum of squares that the slack covers."""


def _wide(value: float) -> tirx.PrimExpr:
    return tirx.const(value, "float64")


def _square_sum(values: te.Tensor, name: str) -> te.Tensor:
    """Sum of squares over all axes but the first, float64 ``[batch]``."""
    batch, *sizes = (int(size) for size in values.shape)
    if math.prod(sizes) > _TERMS_MAX:
        raise BuildError(
            f"a layer with {math.prod(sizes)} values per example: the norm's bound covers {_TERMS_MAX}"
        )
    axes = [te.reduce_axis((0, size)) for size in sizes]

    def term(i: tirx.Var) -> tirx.PrimExpr:
        value = values[(i, *axes)].astype("float64")
        return te.sum(value * value, axis=axes)

    return te.compute((batch,), term, name=name)


def upper_norm(squares: tirx.PrimExpr, terms: int) -> tirx.PrimExpr:
    """float32 upper bound of a kept gradient's norm, from the float64 sum of its ``terms`` squares.

    The sum may come from float32 chains of at most 64 fused multiply-adds, added in float64. The bound is
    infinite where the sum is NaN or above the square of :data:`LARGEST_NORM`.
    """
    bound = tirx.sqrt(squares + _wide(terms * 2.0**-126)) * _wide(1.0 + _CHAIN_SLACK)
    return _finite(squares <= _wide(LARGEST_NORM**2), bound)


def upper_outer_norm(left: tirx.PrimExpr, right: tirx.PrimExpr) -> tirx.PrimExpr:
    """float32 upper bound of an outer product's norm, from its factors' sums of squares.

    Each sum is of exact squares, in float64, in any order. The bound is infinite where a sum is NaN or above
    the square of :data:`LARGEST_NORM`.
    """
    limit = _wide(LARGEST_NORM**2)
    fits = tirx.all(left <= limit, right <= limit)
    return _finite(fits, tirx.sqrt(left * right) * _wide(1.0 + _SLACK))


def _finite(fits: tirx.PrimExpr, norm: tirx.PrimExpr) -> tirx.PrimExpr:
    return selected(fits, norm.astype("float32"), tirx.const(math.inf, "float32"))


def outer_norm(builder: relax.BlockBuilder, left: relax.Expr, right: relax.Expr) -> relax.Expr:
    """Upper bound of the norm of each example's outer product of ``left`` and ``right``: the ghost norm.

    Exact for one position per example, where ``‖a bᵀ‖ = ‖a‖·‖b‖`` and nothing can cancel.

    Args:
        builder: where to emit.
        left: float32 ``[batch, …]``.
        right: float32 ``[batch, …]``.

    Returns:
        float32 ``[batch]``.
    """
    a = te.placeholder(shape_of(left), "float32", name="left")
    b = te.placeholder(shape_of(right), "float32", name="right")
    a2, b2 = _square_sum(a, "left_squares"), _square_sum(b, "right_squares")
    norm = te.compute(a2.shape, lambda i: upper_outer_norm(a2[i], b2[i]), name="norm")
    function = family("norm.outer", [a, b, norm])
    return call_family(builder, function, [left, right], [tensor(shape_of(left)[:1])], "norm")[0]


def kept_norm(builder: relax.BlockBuilder, gradient: relax.Expr) -> relax.Expr:
    """Upper bound of the norm of each example's kept gradient, float32 ``[batch, …]`` to ``[batch]``."""
    g = te.placeholder(shape_of(gradient), "float32", name="gradient")
    squares, terms = _square_sum(g, "squares"), math.prod(shape_of(gradient)[1:])
    norm = te.compute(squares.shape, lambda i: upper_norm(squares[i], terms), name="norm")
    function = family("norm.kept", [g, norm])
    return call_family(builder, function, [gradient], [tensor(shape_of(gradient)[:1])], "norm")[0]


def clip(
    builder: relax.BlockBuilder, layer_norms: Sequence[relax.Expr], mask: relax.Expr, clipping_norm: float
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Combine the layers' norms into each example's norm and coefficient.

    Args:
        builder: where to emit.
        layer_norms: upper bounds, float32 ``[batch]`` each.
        mask: float32 ``[batch]``, 1 for an example, 0 for padding.
        clipping_norm: most that an example adds.

    Returns:
        norms float32 ``[batch]`` (an upper bound; 0 for padding), contributing int32 ``[batch]`` (1 for an
        example that is counted), coefficients float32 ``[batch]`` in [0, 1], 0 exactly where nothing may be
        added.
    """
    return clip_examples(
        builder, "clip.flat", layer_norms, mask, lambda norm: flat_coefficient(norm, clipping_norm)
    )


def clip_examples(
    builder: relax.BlockBuilder,
    name: str,
    layer_norms: Sequence[relax.Expr],
    mask: relax.Expr,
    coefficient: Callable[[tirx.PrimExpr], tirx.PrimExpr],
    more: Sequence[tuple[te.Tensor, relax.Expr]] = (),
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """The family ``name``: as :func:`clip`, with ``coefficient`` of the whole norm, float64 to float32.

    ``more`` are inputs that the coefficient reads too, with their values.
    """
    shape = shape_of(mask)
    parts, real = norm_placeholders(len(layer_norms), mask)
    norm = whole_norm(parts)
    zero = tirx.const(0.0, "float32")
    coefficients = te.compute(
        shape,
        lambda i: selected(_counted(norm, real, i), coefficient(norm[i]), zero),
        name="coefficients",
    )
    outputs = [*norms_and_contributing(norm, real), coefficients]
    function = family(name, [*parts, real, *(t for t, _ in more), *outputs])
    types = [tensor(shape), tensor(shape, "int32"), tensor(shape)]
    inputs = [*layer_norms, mask, *(value for _, value in more)]
    a, b, c = call_family(builder, function, inputs, types, "clip")
    return a, b, c


def flat_coefficient(norm: tirx.PrimExpr, bound: float) -> tirx.PrimExpr:
    """1 if the float64 ``norm`` is at most the bound, else their quotient, lowered, as float32."""
    limit = _wide(bound)
    lowered = (limit / norm * _wide(LOWERED)).astype("float32")
    return selected(norm <= limit, tirx.const(1.0, "float32"), lowered)


def norm_placeholders(count: int, like: relax.Expr) -> tuple[list[te.Tensor], te.Tensor]:
    """Norms of ``count`` layers, and the mask, each of the shape of ``like``."""
    shape = shape_of(like)
    parts = [te.placeholder(shape, "float32", name=f"norm{i}") for i in range(count)]
    return parts, te.placeholder(shape, "float32", name="mask")


def whole_norm(parts: Sequence[te.Tensor]) -> te.Tensor:
    """float64 upper bound of the norm of what the parts are norms of."""

    def total(i: tirx.Var) -> tirx.PrimExpr:
        squares = _wide(0.0)
        for part in parts:
            squares = squares + part[i].astype("float64") * part[i].astype("float64")
        return tirx.sqrt(squares) * _wide(1.0 + 2.0**-40)

    return te.compute(parts[0].shape, total, name="norm")


def norms_and_contributing(norm: te.Tensor, real: te.Tensor) -> list[te.Tensor]:
    """Norms as the step gives them, rounded up and 0 for padding, and who contributes, 1 or 0."""
    half, zero = tirx.const(0.5, "float32"), tirx.const(0.0, "float32")
    wider, one, none = _wide(1.0 + _SLACK), tirx.const(1, "int32"), tirx.const(0, "int32")
    norms = te.compute(
        norm.shape,
        lambda i: selected(real[i] > half, (norm[i] * wider).astype("float32"), zero),
        name="norms",
    )
    contributing = te.compute(
        norm.shape, lambda i: tirx.Select(_counted(norm, real, i), one, none), name="contributing"
    )
    return [norms, contributing]


def _counted(norm: te.Tensor, real: te.Tensor, i: tirx.Var) -> tirx.PrimExpr:
    """Whether an example is one and its norm is finite and not too large."""
    half = tirx.const(0.5, "float32")
    return tirx.all(real[i] > half, norm[i] <= _wide(LARGEST_NORM))
