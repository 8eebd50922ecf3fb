"""Adds a zero *tap* wherever a parameter's gradient is made from the gradient of the loss.

The derivative of the loss by a tap is the gradient at that place, and differentiating by the taps instead of
the weights makes Relax's reverse mode stop short of every weight gradient: what is left is the backward pass
of book-keeping (Bu et al. 2023, "Differentially Private Optimization on Large Model at Small Cost").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm import relax

from .layers import Layer
from .relax_ir import bindings_of, copy_bindings, shape_of, substitute, tensor

__all__ = ["Tapped", "insert_taps"]


@dataclass(frozen=True)
class Tapped:
    """A forward function with taps.

    Attributes:
        function: ``(features, *parameters, *taps, seed) → sum(logits · seed)``, a scalar.
        logits: its variable that holds the logits.
        taps: its tap parameters, one per place, in the order of the forward function.
        seed: its last parameter, of the logits' shape: the gradient of the loss by the logits, taken as
            given.
        places: the tap of each place, by the forward function's variable.
        values: its value for each variable of the forward function.
    """

    function: relax.Function
    logits: relax.Var
    taps: tuple[relax.Var, ...]
    seed: relax.Var
    places: Mapping[relax.Var, relax.Var]
    values: Mapping[relax.Var, relax.Expr]


def insert_taps(forward: relax.Function, layers: tuple[Layer, ...]) -> Tapped:
    """Add the taps of ``layers`` to ``forward``, and the scalar to differentiate.

    Uses that share a place share its tap. The scalar is linear in the logits, so its gradient starts from
    ``seed`` itself: a loss needs to be known by its gradient only, and no logarithm is computed.
    """
    builder = relax.BlockBuilder()
    parameters = [relax.Var(var.name, var.ty) for var in forward.params]
    outputs = {use.output for layer in layers for use in layer.uses}
    ordered = [b.var for b in bindings_of(forward) if b.var in outputs]
    taps = tuple(relax.Var(f"tap{i}", tensor(shape_of(var))) for i, var in enumerate(ordered))
    places = dict(zip(ordered, taps, strict=True))
    seed = relax.Var("seed", forward.ret_ty)
    new: dict[relax.Var, relax.Expr] = dict(zip(forward.params, parameters, strict=True))
    with builder.function("main", [*parameters, *taps, seed]):
        with builder.dataflow():
            for binding in bindings_of(forward):
                copy_bindings(builder, [binding], new)
                if binding.var in places:
                    tapped = relax.op.add(new[binding.var], places[binding.var])
                    new[binding.var] = builder.emit(tapped, name_hint=f"{binding.var.name}_tapped")
            logits = substitute(forward.body.body, new)
            product = builder.emit(relax.op.multiply(logits, seed), name_hint="product")
            output = builder.emit_output(relax.op.sum(product))
        builder.emit_func_output(output)
    return Tapped(builder.finalize()["main"], logits, taps, seed, places, new)
