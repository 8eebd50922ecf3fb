"""Tapped forward function → backward function: Relax's reverse mode, cleared of what only drove it."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax
from tvm.relax.op.base import register_gradient

from .relax_ir import bindings_of, copy_bindings, emit_function, op_name, shape_of, tensor
from .taps import Tapped

__all__ = ["Seed", "backward_function"]

Seed = Callable[[relax.BlockBuilder, relax.Expr, relax.Expr], relax.Expr]
"""``(builder, logits, labels) → gradient of the summed loss by the logits``."""


def _relu_gradient(
    output: relax.Var, _call: relax.Call, gradient: relax.Var, _context: relax.BlockBuilder
) -> list[relax.Expr]:
    """``where(y > 0, dy, 0)``: 0 at 0, as training frameworks have it, from the output alone."""
    zero = relax.const(0.0, "float32")
    return [relax.op.where(relax.op.greater(output, zero), gradient, zero)]


register_gradient("relax.nn.relu", _relu_gradient, level=20)
"""Over Relax's own rule, which is of level 10 and gives 1 at 0."""


def backward_function(builder: relax.BlockBuilder, name: str, tapped: Tapped, seed: Seed) -> None:
    """Add ``name`` to ``builder``: ``(features, labels, *parameters) → (*inputs, *output_gradients)``.

    ``inputs`` are the data inputs of the tapped layers that have one (not biases), ``output_gradients`` the
    gradients of the summed loss at the layers' outputs, both in the layers' order. No parameter's gradient is
    computed.
    """
    module = relax.transform.Gradient("main", list(tapped.taps))(tvm.IRModule({"main": tapped.function}))
    adjoint = module["main_adjoint"]
    count = len(adjoint.params) - len(tapped.taps) - 1
    forward_parameters, taps, old_seed = adjoint.params[:count], adjoint.params[count:-1], adjoint.params[-1]
    parameters = [relax.Var(var.name, var.ty) for var in forward_parameters]
    labels = relax.Var("labels", tensor(tapped.seed.ty.shape.values[:1], "int32"))
    values = {binding.var: binding.value for binding in bindings_of(adjoint)}

    def body() -> list[relax.Expr]:
        new: dict[relax.Var, relax.Expr] = dict(zip(forward_parameters, parameters, strict=True))
        inputs: dict[relax.Var, relax.Expr] = {}
        for binding in bindings_of(adjoint):
            used = list(binding.value.args) if isinstance(binding.value, relax.Call) else []
            if op_name(binding.value) == "add" and used[1] in taps:
                new[binding.var] = new[used[0]]
                producer = values[used[0]]
                if op_name(producer) != "add":
                    inputs[used[1]] = new[producer.args[0]]
            elif (
                old_seed in used and old_seed not in new
            ):  # only the derivative of sum(logits · seed) is wanted
                new[old_seed] = seed(builder, new[used[0]], labels)
                new[binding.var] = new[old_seed]
            elif old_seed in used or not shape_of(binding.var) or (used and _is_scalar(used[0])):
                new[binding.var] = new[old_seed]  # the scalar loss, its derivative 1, and 1 · seed
            else:
                copy_bindings(builder, [binding], new)
        gradients = [new[field] for field in adjoint.body.body.fields[1].fields]
        return [*(inputs[tap] for tap in taps if tap in inputs), *gradients]

    emit_function(builder, name, [parameters[0], labels, *parameters[1:]], body)


def _is_scalar(value: relax.Expr) -> bool:
    return isinstance(value, relax.Var) and not shape_of(value)
