"""Tapped forward function → backward function: Relax's reverse mode, cleared of what only drove it."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax
from tvm.relax.op.base import register_gradient

from myelin.errors import BuildError

from .composites import LoweredCopy
from .layers import Layer
from .relax_ir import bindings_of, emit_function, op_name, shape_of, tensor
from .taps import Tapped

__all__ = ["Seed", "backward_function"]

Seed = Callable[[relax.BlockBuilder, relax.Expr, relax.Expr], relax.Expr]
"""``(builder, outputs, labels) → gradient of the summed loss by the model's outputs``."""


def _relu_gradient(
    output: relax.Var, _call: relax.Call, gradient: relax.Var, _context: relax.BlockBuilder
) -> list[relax.Expr]:
    """``where(y > 0, dy, 0)``: 0 at 0, as training frameworks have it, from the output alone."""
    zero = relax.const(0.0, "float32")
    return [relax.op.where(relax.op.greater(output, zero), gradient, zero)]


register_gradient("relax.nn.relu", _relu_gradient, level=20)
"""Over Relax's own rule, which is of level 10 and gives 1 at 0."""


class _Backward:
    """Copies the adjoint function: composites become families, and what only drove the reverse mode goes."""

    def __init__(
        self, builder: relax.BlockBuilder, adjoint: relax.Function, tapped: Tapped, seed: Seed, labels: str
    ) -> None:
        self.builder, self.adjoint, self.seed = builder, adjoint, seed
        count = len(adjoint.params) - len(tapped.taps) - 1
        self.forward_parameters = adjoint.params[:count]
        self.taps, self.old_seed = list(adjoint.params[count:-1]), adjoint.params[-1]
        self.parameters = [relax.Var(var.name, var.ty) for var in self.forward_parameters]
        self.labels = relax.Var("labels", tensor(shape_of(tapped.seed)[:1], labels))
        self.new: dict[relax.Var, relax.Expr] = dict(
            zip(self.forward_parameters, self.parameters, strict=True)
        )
        self.rest = LoweredCopy(builder, self.new)

    def copy(self) -> None:
        """Emit everything but the result."""
        for binding in bindings_of(self.adjoint):
            self._copy(binding)

    def _copy(self, binding: relax.VarBinding) -> None:
        value, var, new = binding.value, binding.var, self.new
        used = list(value.args) if isinstance(value, relax.Call) else []
        if op_name(value) == "add" and used[1] in self.taps:
            new[var] = new[used[0]]
        elif self.old_seed in used and self.old_seed not in new:
            # Only the derivative of sum(logits · seed) is wanted.
            new[self.old_seed] = self.seed(self.builder, new[used[0]], self.labels)
            new[var] = new[self.old_seed]
        elif self.old_seed in used or _is_scalar(var) or any(_is_scalar(argument) for argument in used[:1]):
            new[var] = new[self.old_seed]  # the scalar loss, its derivative 1, and 1 · seed
        else:
            self.rest.copy(binding)


def backward_function(
    builder: relax.BlockBuilder,
    name: str,
    tapped: Tapped,
    layers: tuple[Layer, ...],
    seed: Seed,
    label_dtype: str = "int32",
) -> None:
    """Add ``name`` to ``builder``: ``(features, labels, *parameters) → (*inputs, *output_gradients)``.

    ``inputs`` are the data of those uses that have one, ``output_gradients`` the gradients of the summed loss
    at the places of all uses, both in the order of ``layers`` and of their uses. No parameter's gradient is
    computed.
    """
    module = relax.transform.Gradient("main", list(tapped.taps))(tvm.IRModule({"main": tapped.function}))
    adjoint = module["main_adjoint"]
    back = _Backward(builder, adjoint, tapped, seed, label_dtype)
    twins = _twins(tapped.function, adjoint)
    fields = dict(zip(tapped.taps, adjoint.body.body.fields[1].fields, strict=True))
    uses = [use for layer in layers for use in layer.uses]

    def body() -> list[relax.Expr]:
        back.copy()
        inputs = []
        for use in uses:
            if use.input is not None:
                twin = twins[tapped.values[use.input]]
                inputs.append(
                    back.new[twin] if use.field is None else back.rest.tuples[twin].fields[use.field]
                )
        return [*inputs, *(back.new[fields[tapped.places[use.output]]] for use in uses)]

    emit_function(builder, name, [back.parameters[0], back.labels, *back.parameters[1:]], body)


def _twins(tapped: relax.Function, adjoint: relax.Function) -> dict[relax.Expr, relax.Var]:
    """The adjoint function's variable for each of the tapped function's: it begins with a copy of it."""
    twins: dict[relax.Expr, relax.Var] = dict(zip(tapped.params, adjoint.params, strict=True))
    for old, copy in zip(bindings_of(tapped), bindings_of(adjoint), strict=False):
        if op_name(old.value) != op_name(copy.value):
            raise BuildError(f"differentiation changed {op_name(old.value)} to {op_name(copy.value)}")
        twins[old.var] = copy.var
    return twins


def _is_scalar(value: relax.Expr) -> bool:
    return isinstance(value, relax.Var) and isinstance(value.ty, relax.TensorType) and not shape_of(value)
