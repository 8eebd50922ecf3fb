"""Rules of the linear layer ``y = x Wᵀ``: a gradient is ``Σₜ bₜ aₜᵀ``, a the input, b the output gradient.

The positions t are those of a sequence, one after the other over all uses of the weight.

A ghost norm over many positions, from Gram matrices, is not offered. Its norm could be bounded, but its sum
``Σᵢ Σₜ cᵢ bᵢₜ aᵢₜᵀ`` adds terms that may cancel within an example: they are then larger than the clipping
norm by any factor, and so is the rounding that they leave in the sum, which no sensitivity would cover
(:func:`myelin.privacy.sensitivity_bound`, step 3, needs magnitudes that add up to the norm). It would also be
dearer than keeping at every width that is not far below the length of the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, te

from myelin.graph.relax_ir import call_family, family, shape_of, tensor

from .clipping import kept_norm, outer_norm
from .cost import Cost
from .strategy import Normed, Rule, Site, Strategy, batch_cost, kept_strategy

__all__ = ["RULE", "example_gradient"]


def _ghost_cost(site: Site) -> Cost:
    outputs, inputs = site.layer.shape
    size = inputs + outputs
    return Cost(flops=3 * size + 2 * inputs * outputs, bytes=4 * (3 * size + inputs * outputs // site.batch))


def _ghost_norm(builder: relax.BlockBuilder, site: Site) -> Normed:
    return Normed(outer_norm(builder, site.inputs[0], site.gradients[0]))


def _ghost_total(
    builder: relax.BlockBuilder, site: Site, _normed: Normed, coefficients: relax.Expr
) -> relax.Expr:
    """One matrix product ``(c·b)ᵀ a``; both factors are 0, by selection, where an example does not count."""
    op, zero = relax.op, relax.const(0.0, "float32")
    column = builder.emit(op.reshape(coefficients, (site.batch, 1)), name_hint="coefficient")
    counts = builder.emit(op.greater(column, zero), name_hint="counts")
    scaled = builder.emit(op.where(counts, op.multiply(site.gradients[0], column), zero), name_hint="scaled")
    inputs = builder.emit(op.where(counts, site.inputs[0], zero), name_hint="inputs")
    return builder.emit(op.matmul(op.permute_dims(scaled), inputs), name_hint="clipped_sum")


def _joined(builder: relax.BlockBuilder, values: Sequence[relax.Expr], name: str) -> relax.Expr:
    """Values ``[batch, …, width]`` as ``[batch, positions, width]``, one after the other."""
    parts = []
    for value in values:
        shape = shape_of(value)
        if len(shape) != 3:
            positions = 1
            for size in shape[1:-1]:
                positions *= size
            value = builder.emit(relax.op.reshape(value, (shape[0], positions, shape[-1])), name_hint=name)
        parts.append(value)
    return parts[0] if len(parts) == 1 else builder.emit(relax.op.concat(parts, axis=1), name_hint=name)


def _product(builder: relax.BlockBuilder, site: Site, name: str, per_example: bool) -> relax.Expr:
    """``Σₜ gradients[n, t, o] · inputs[n, t, i]``, per example or over the batch."""
    inputs, gradients = (
        _joined(builder, values, hint)
        for values, hint in ((site.inputs, "inputs"), (site.gradients, "gradients"))
    )
    batch, positions, width = shape_of(inputs)
    outputs = shape_of(gradients)[2]
    a = te.placeholder((batch, positions, width), "float32", name="inputs")
    b = te.placeholder((batch, positions, outputs), "float32", name="gradients")
    t = te.reduce_axis((0, positions), name="position")
    example = te.reduce_axis((0, batch), name="example")
    if per_example:
        shape: tuple[int, ...] = (batch, outputs, width)
        result = te.compute(shape, lambda n, o, i: te.sum(b[n, t, o] * a[n, t, i], axis=t), name="product")
    else:
        shape = (outputs, width)
        result = te.compute(
            shape,
            lambda o, i: te.sum(b[example, t, o] * a[example, t, i], axis=[example, t]),
            name="product",
        )
    function = family(name, [a, b, result])
    return call_family(builder, function, [inputs, gradients], [tensor(shape)], "gradient")[0]


def example_gradient(builder: relax.BlockBuilder, site: Site) -> relax.Expr:
    """Each example's gradient, float32 ``[batch, out, in]``: the family ``gradient.linear``."""
    return _product(builder, site, "gradient.linear", per_example=True)


def _flops(site: Site) -> int:
    outputs, inputs = site.layer.shape
    return 2 * site.positions * inputs * outputs


def _is_vector(site: Site) -> bool:
    return len(site.gradients) == 1 and len(shape_of(site.gradients[0])) == 2


RULE = Rule(
    strategies=(
        Strategy("ghost", _is_vector, _ghost_cost, _ghost_norm, _ghost_total),
        kept_strategy(_flops, example_gradient, kept_norm),
    ),
    example_gradient=example_gradient,
    batch_gradient=lambda builder, site: _product(builder, site, "gradient.linear_sum", per_example=False),
    batch_cost=lambda site: batch_cost(site, _flops(site)),
)
"""Ghost for one position per example, where nothing cancels in norm and sum; keep for any."""
