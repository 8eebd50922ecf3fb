"""The ghost norm of a convolution: from Gram matrices, while the gradient itself is made only in the sum.

For one example write a_t ∈ R^d for the inputs that place t of the output meets (zeros beyond the border), t =
1 … T in row-major order, and b_t for the output gradient there. The kernel's gradient is ``g = Σ a_t b_tᵀ``.

*Guarantee.* What the clipped sum adds is not g but ĝ, each element of which is summed over t in order in
float32: u = 2⁻²⁴, two roundings a term if products are rounded too. :func:`upper_bound` is never below
``‖ĝ‖``, which is the norm that :mod:`~myelin.privacy.clipping` wants:

- Let ``s_k = Σ_{t ≤ k} a_t b_tᵀ`` and ``e_k`` the error of the computed partial sum. Then ``‖e_k‖ ≤ (1 +
  u)·(‖e_{k−1}‖ + u·‖a_k‖·‖b_k‖) + u·‖s_k‖``, so ``‖ĝ − g‖ ≤ (1 + u)^T · u · (Σ_k ‖s_k‖ + (1 + u)·Σ_k
  ‖a_k‖·‖b_k‖)`` (a running error bound: Higham 2002, section 3.3). It follows the partial sums, not the
  terms, so it stays small where gradients of neighbouring places cancel. For T up to 2¹² the powers are below
  1 + 2⁻¹¹. Terms that are zero, which kernels leave out, cause no error. A result below 2⁻¹²⁶ is flushed to
  zero: two losses of at most 2⁻¹²⁶ a term and element, in all below ``T · √(elements) · 2⁻¹²⁴``.
- ``‖s_k‖² = Σ_{t, s ≤ k} ⟨a_t, a_s⟩·⟨b_t, b_s⟩`` is computed in float64 (v = 2⁻⁵³) from products of two
  float32, which are exact. An inner product of n numbers errs by at most γ(n) times the product of the
  norms; ``⟨a_t, a_s⟩`` has at most d additions over channels and d over taps; then come a product, and at
  most 2·T additions one after the other. With ``size = Σ ‖a_t‖·‖b_t‖`` the error of ``‖s_k‖²`` is at most
  ``γ(2·d + o + 2·T + 8)·size²``, and :func:`slack` is more than twice that, which covers the roundings of
  size and of the bound as well.

So ``‖ĝ‖ ≤ √(‖s_T‖² + slack·size²) + u·(1 + 2⁻¹⁰)·(Σ_k √(‖s_k‖² + slack·size²) + size) +
T·√(elements)·2⁻¹²⁴``, and a factor 1 + 2⁻²² covers the rest. Above the truth it is by about u·T/2 where
nothing cancels, 2·10⁻⁶ for 64 places; and at most by 0.1 % while the mean length of a partial sum is below
0.001 / (u·T) gradients: for 64 places, where all terms of one half cancel those of the other, while ``size``
is below 900 times the norm. Beyond that the float32 sum is itself that uncertain. It is infinite where an
input or gradient is not finite, or the bound is above the largest norm.
"""

from __future__ import annotations

import math

from tvm import relax, te, tirx

from myelin.graph import Use
from myelin.graph.relax_ir import call_family, family, shape_of, tensor

from .clipping import LARGEST_NORM
from .cost import Cost
from .strategy import Normed, Site, Strategy

__all__ = ["GHOST", "slack", "upper_bound"]

_PLACES_MAX = 1 << 12
"""Most places for which the bound's powers of 1 + u are covered."""

_UNIT = 2.0**-24


def _wide(value: float) -> tirx.PrimExpr:
    return tirx.const(value, "float64")


def slack(kernel: tuple[int, ...], places: int) -> float:
    """Error of a squared length of a partial sum, relative to ``size²``; ``kernel`` is ``[out, in, …]``."""
    outputs, *inputs = kernel
    return (2 * math.prod(inputs) + outputs + 2 * places + 16) * 2.0**-51


def upper_bound(
    kernel: tuple[int, ...], places: int, square: tirx.PrimExpr, size: tirx.PrimExpr, walk: tirx.PrimExpr
) -> tirx.PrimExpr:
    """float32 upper bound of the norm of the computed gradient, from float64 sums of one example.

    Args:
        kernel: the parameter's shape.
        places: of the output.
        square: ``‖Σ a_t b_tᵀ‖²`` as computed.
        size: ``Σ ‖a_t‖·‖b_t‖``.
        walk: ``Σ_k √(max(‖s_k‖², 0) + slack·size²)``.
    """
    zero = _wide(0.0)
    more = size * size * _wide(slack(kernel, places))
    length = tirx.sqrt(tirx.Select(square < zero, zero, square) + more)
    lost = _wide(places * math.sqrt(math.prod(kernel)) * 2.0**-124)
    bound = (length + (walk + size) * _wide(_UNIT * (1 + 2.0**-10)) + lost) * _wide(1.0 + 2.0**-22)
    finite = tirx.all(bound <= _wide(LARGEST_NORM), square <= _wide(LARGEST_NORM**2))
    return tirx.Select(finite, bound.astype("float32"), tirx.const(math.inf, "float32"))


class _Reference:
    """The ghost norm of one use as tensor expressions: what a kernel of the family must compute."""

    def __init__(self, shape: tuple[int, ...], use: Use, data: relax.Expr, gradient: relax.Expr) -> None:
        self.shape, self.use = shape, use
        self.a = te.placeholder(shape_of(data), "float32", name="data")
        self.b = te.placeholder(shape_of(gradient), "float32", name="gradient")
        self.batch, _, self.rows, self.columns = shape_of(gradient)
        self.places = self.rows * self.columns

    def pixel(self, n: tirx.Var, place: tirx.Var, c: tirx.Var, u: tirx.Var, v: tirx.Var) -> tirx.PrimExpr:
        """What a place meets, float64."""
        (stride_y, stride_x), (top, left, _, _) = self.use.strides, self.use.padding
        height, width = (int(size) for size in self.a.shape[2:])
        y = tirx.floordiv(place, self.columns) * stride_y + u - top
        x = tirx.floormod(place, self.columns) * stride_x + v - left
        inside = tirx.all(y >= 0, y < height, x >= 0, x < width)
        return tirx.if_then_else(inside, self.a[n, c, y, x], tirx.const(0.0, "float32")).astype("float64")

    def norm(self) -> te.Tensor:
        """Each example's bound."""
        outputs, *inputs = self.shape
        c, u, v = (te.reduce_axis((0, size)) for size in inputs)
        o = te.reduce_axis((0, outputs))
        t, s, k, own = (te.reduce_axis((0, self.places)) for _ in range(4))
        square = (self.batch, self.places, self.places)
        left = te.compute(
            square,
            lambda n, i, j: te.sum(self.pixel(n, i, c, u, v) * self.pixel(n, j, c, u, v), axis=[c, u, v]),
            name="inputs",
        )

        def slope(n: tirx.Var, place: tirx.Var) -> tirx.PrimExpr:
            row, column = tirx.floordiv(place, self.columns), tirx.floormod(place, self.columns)
            return self.b[n, o, row, column].astype("float64")

        right = te.compute(square, lambda n, i, j: te.sum(slope(n, i) * slope(n, j), axis=o), name="outputs")
        zero = _wide(0.0)
        prefix = te.compute(
            square[:2],
            lambda n, i: te.sum(
                tirx.Select(tirx.all(t <= i, s <= i), left[n, t, s] * right[n, t, s], zero), axis=[t, s]
            ),
            name="prefix",
        )
        size = te.compute(
            square[:1],
            lambda n: te.sum(tirx.sqrt(left[n, own, own] * right[n, own, own]), axis=own),
            name="size",
        )
        relative = _wide(slack(self.shape, self.places))
        walk = te.compute(
            square[:1],
            lambda n: te.sum(tirx.sqrt(tirx.max(prefix[n, k], zero) + size[n] * size[n] * relative), axis=k),
            name="walk",
        )
        return te.compute(
            square[:1],
            lambda n: upper_bound(self.shape, self.places, prefix[n, self.places - 1], size[n], walk[n]),
            name="norm",
        )

    def weighted(self, coefficients: te.Tensor) -> te.Tensor:
        """The sum of the examples' gradients, each times its coefficient, by selection."""
        rows, columns = te.reduce_axis((0, self.rows)), te.reduce_axis((0, self.columns))
        n = te.reduce_axis((0, self.batch))
        (stride_y, stride_x), (top, left, _, _) = self.use.strides, self.use.padding
        height, width = (int(size) for size in self.a.shape[2:])
        zero = tirx.const(0.0, "float32")

        def term(n: tirx.Var, o: tirx.Var, c: tirx.Var, u: tirx.Var, v: tirx.Var) -> tirx.PrimExpr:
            y, x = rows * stride_y + u - top, columns * stride_x + v - left
            inside = tirx.all(y >= 0, y < height, x >= 0, x < width)
            return tirx.if_then_else(inside, self.a[n, c, y, x], zero) * self.b[n, o, rows, columns]

        each = te.compute(
            (self.batch, *self.shape),
            lambda *i: te.sum(term(*i), axis=[rows, columns]),
            name="example_gradient",
        )

        def counted(*index: tirx.Var) -> tirx.PrimExpr:
            factor = coefficients[n]
            return te.sum(tirx.Select(factor > zero, factor * each[(n, *index)], zero), axis=n)

        return te.compute(self.shape, counted, name="clipped_sum")


def _attributes(use: Use) -> dict[str, object]:
    return {"strides": use.strides, "padding": use.padding, "groups": use.groups}


def _norm(builder: relax.BlockBuilder, site: Site) -> Normed:
    """``norm.conv2d``: data and output gradient to the bounds; ``kernel_shape`` is the parameter's."""
    (data,), (gradient,), use = site.inputs, site.gradients, site.layer.uses[0]
    reference = _Reference(site.layer.shape, use, data, gradient)
    attributes = {**_attributes(use), "kernel_shape": site.layer.shape}
    function = family("norm.conv2d", [reference.a, reference.b, reference.norm()], attributes)
    return Normed(call_family(builder, function, [data, gradient], [tensor((site.batch,))], "norm")[0])


def _total(builder: relax.BlockBuilder, site: Site, _normed: Normed, coefficients: relax.Expr) -> relax.Expr:
    """``gradient.conv2d_weighted``: data, output gradient and coefficients to the clipped sum."""
    (data,), (gradient,), use = site.inputs, site.gradients, site.layer.uses[0]
    reference = _Reference(site.layer.shape, use, data, gradient)
    factors = te.placeholder((site.batch,), "float32", name="coefficients")
    total = reference.weighted(factors)
    function = family(
        "gradient.conv2d_weighted", [reference.a, reference.b, factors, total], _attributes(use)
    )
    inputs = [data, gradient, coefficients]
    return call_family(builder, function, inputs, [tensor(site.layer.shape)], "clipped_sum")[0]


def _fits(site: Site) -> bool:
    use = site.layer.uses[0]
    is_plain = use.groups == 1 and use.dilation == (1, 1)
    return len(site.layer.uses) == 1 and is_plain and site.positions <= _PLACES_MAX


def _cost(site: Site) -> Cost:
    """Two symmetric Gram matrices in double precision, twice the work, and the batch's gradient."""
    (outputs, inputs, *taps), places = site.layer.shape, site.positions
    pixels = math.prod(shape_of(site.inputs[0])[2:])
    elements = math.prod(site.layer.shape)
    flops = 2 * (pixels**2 * inputs + places**2 * (outputs + math.prod(taps)))
    scratch = 8 * (pixels**2 + places**2 + pixels * inputs + places * outputs)
    return Cost(
        flops=flops + 2 * places * elements,
        bytes=2 * scratch + 4 * (2 * site.values + elements // site.batch),
    )


GHOST = Strategy("ghost", _fits, _cost, _norm, _total)
"""For few places and a large kernel: the examples' gradients, too many to stay in cache, are not kept."""
