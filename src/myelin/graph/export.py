"""Model → forward function: static shapes, parameters as arguments."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax
from tvm.relax.frontend import nn

from myelin.errors import BuildError, MyelinError
from myelin.model.adapters import is_frozen

from .relax_ir import shape_of

__all__ = ["forward_function"]


def forward_function(
    model: Any, batch: int, feature_shape: Sequence[int], outputs: int | None
) -> tuple[relax.Function, tuple[str, ...]]:
    """Trace ``model.forward`` on features ``float32 [batch, *feature_shape]``.

    ``outputs`` is how many numbers it must put out for an example; None takes any.

    A parameter that the model holds under several names is one, with the first of them. Frozen parameters
    come after those that are trained.

    Returns:
        the function ``(features, *parameters) → outputs [batch, outputs]`` in one dataflow block, and the
        parameters' names in order.

    Raises:
        BuildError: it is no module, cannot be traced, or its outputs have another shape.
    """
    if not isinstance(model, nn.Module):
        raise BuildError(
            f"job model made a {type(model).__name__}; expected an instance of myelin.model.nn.Module"
        )
    arguments = list(inspect.signature(model.forward).parameters)
    if len(arguments) != 1:
        raise BuildError(
            f"model {type(model).__name__}: expected forward(self, features), "
            f"got forward(self, {', '.join(arguments)})"
        )
    spec = {"forward": {arguments[0]: nn.spec.Tensor([batch, *feature_shape], "float32")}}
    try:
        module, parameters = model.export_tvm(spec=spec)
    except MyelinError:
        raise
    except Exception as error:  # the model is the user's code: whatever it raises is its fault to name
        raise BuildError(
            f"model {type(model).__name__} cannot be traced on features {[batch, *feature_shape]}: "
            f"{type(error).__name__}: {error}; expected forward(self, features) of nn layers and functions"
        ) from error
    module = relax.transform.CanonicalizeBindings()(relax.transform.Normalize()(module))
    function = relax.analysis.remove_all_unused(module["forward"])
    function, parameters = _ordered(*_without_aliases(function, parameters))
    _check_types(function, tuple(name for name, _ in parameters))
    logits = function.ret_ty
    shape = tuple(int(s) for s in logits.shape.values) if isinstance(logits, relax.TensorType) else ()
    if shape[:1] != (batch,) or len(shape) != 2 or shape[1] != (outputs or shape[1]):
        single = outputs == 1
        wide = "one wide, as the loss needs" if single else "as wide as the schema has classes"
        raise BuildError(
            f"model {type(model).__name__}: expected logits of shape {[batch, outputs or 'any']} "
            f"(batch, {'one output' if single else 'classes of the schema'}), got {logits}; "
            f"make the last layer {wide}"
        )
    if len(function.body.blocks) != 1 or not isinstance(function.body.blocks[0], relax.DataflowBlock):
        raise BuildError(
            f"model {type(model).__name__}: forward must be plain layers, without side effects or branches"
        )
    function = function.without_attr("num_input")
    return function, tuple(name for name, _ in parameters)


def _without_aliases(
    function: relax.Function, parameters: Sequence[tuple[str, Any]]
) -> tuple[relax.Function, list[tuple[str, Any]]]:
    """One argument for a parameter that the model holds under several names; it goes by the first.

    Tracing reads the one that comes last: the others are arguments that nothing reads.
    """
    last = {id(parameter): place for place, (_, parameter) in enumerate(parameters)}
    if len(last) == len(parameters):
        return function, list(parameters)
    first = {id(parameter): (name, parameter) for name, parameter in reversed(parameters)}
    order = dict.fromkeys(id(parameter) for _, parameter in parameters)
    variables = [function.params[0], *(function.params[1 + last[key]] for key in order)]
    return (
        relax.Function(variables, function.body, function.ret_ty, function.is_pure, function.attrs),
        [first[key] for key in order],
    )


def _ordered(
    function: relax.Function, parameters: Sequence[tuple[str, Any]]
) -> tuple[relax.Function, list[tuple[str, Any]]]:
    """Those that are trained before those that are frozen, each in the model's order."""
    order = sorted(range(len(parameters)), key=lambda place: is_frozen(parameters[place][1]))
    variables = [function.params[0], *(function.params[1 + place] for place in order)]
    return (
        relax.Function(variables, function.body, function.ret_ty, function.is_pure, function.attrs),
        [parameters[place] for place in order],
    )


def _check_types(function: relax.Function, names: tuple[str, ...]) -> None:
    for name, var in zip(names, function.params[1:], strict=True):
        dtype = str(var.ty.dtype)
        if dtype != "float32":
            raise BuildError(f"parameter {name}: expected dtype float32, got {dtype}")
        if any(not isinstance(size, tvm.tirx.IntImm) for size in var.ty.shape.values):
            raise BuildError(f"parameter {name}: expected a static shape, got {var.ty.shape}")
        if min(shape_of(var), default=1) < 1:
            raise BuildError(f"parameter {name}: expected sizes of at least 1, got {shape_of(var)}")
