"""Adds a zero *tap* to the output of each parametric layer.

The derivative of the loss by a tap is the gradient at that layer's output, and differentiating by the taps
instead of the weights makes Relax's reverse mode stop short of every weight gradient: what is left is the
backward pass of book-keeping (Bu et al. 2023, "Differentially Private Optimization on Large Model at Small
Cost").
"""

from __future__ import annotations

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
        taps: its tap parameters, one per layer, in the layers' order.
        seed: its last parameter, of the logits' shape: the gradient of the loss by the logits, taken as
            given.
    """

    function: relax.Function
    logits: relax.Var
    taps: tuple[relax.Var, ...]
    seed: relax.Var


def insert_taps(forward: relax.Function, layers: tuple[Layer, ...]) -> Tapped:
    """Add the taps of ``layers`` to ``forward``, and the scalar to differentiate.

    The scalar is linear in the logits, so its gradient starts from ``seed`` itself: a loss needs to be known
    by its gradient only, and no logarithm is computed.
    """
    builder = relax.BlockBuilder()
    parameters = [relax.Var(var.name, var.ty) for var in forward.params]
    taps = tuple(relax.Var(f"tap{i}", tensor(shape_of(layer.output))) for i, layer in enumerate(layers))
    seed = relax.Var("seed", forward.ret_ty)
    new: dict[relax.Var, relax.Expr] = dict(zip(forward.params, parameters, strict=True))
    tap_of = {layer.output: tap for layer, tap in zip(layers, taps, strict=True)}
    with builder.function("main", [*parameters, *taps, seed]):
        with builder.dataflow():
            for binding in bindings_of(forward):
                copy_bindings(builder, [binding], new)
                if binding.var in tap_of:
                    tapped = relax.op.add(new[binding.var], tap_of[binding.var])
                    new[binding.var] = builder.emit(tapped, name_hint=f"{binding.var.name}_tapped")
            logits = substitute(forward.body.body, new)
            product = builder.emit(relax.op.multiply(logits, seed), name_hint="product")
            output = builder.emit_output(relax.op.sum(product))
        builder.emit_func_output(output)
    return Tapped(builder.finalize()["main"], logits, taps, seed)
