"""Dropout layers: their masks become inputs of the function that is trained, and serving is without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import relax

from .relax_ir import bindings_of, copy_bindings, op_name, shape_of, substitute, tensor

__all__ = ["Dropout", "without_dropout"]


@dataclass(frozen=True)
class Dropout:
    """One dropout layer.

    Attributes:
        shape: of its input without the batch: an example's mask.
        threshold: an element is kept with probability ``threshold / 2³²``, and is then multiplied by the
            inverse of it.
    """

    shape: tuple[int, ...]
    threshold: int


def without_dropout(
    forward: relax.Function,
) -> tuple[relax.Function, relax.Function, tuple[Dropout, ...]]:
    """Take the dropout layers out of a traced function ``(features, *parameters) → outputs``.

    Returns:
        The function for serving, ``(features, *parameters) → outputs``, in which they do nothing; the one for
        training, ``(features, *parameters, *masks) → outputs``, in which each is a product with its mask,
        float32 of its input's shape; and the layers, in the order of the masks. Without dropout layers both
        functions are the one given.
    """
    calls = [b.value for b in bindings_of(forward) if op_name(b.value) == "myelin.dropout"]
    if not calls:
        return forward, forward, ()
    shapes = [shape_of(call.args[0]) for call in calls]
    layers = tuple(
        Dropout(shape[1:], int(call.attrs["threshold"])) for shape, call in zip(shapes, calls, strict=True)
    )
    masks = [relax.Var(f"dropout{i}", tensor(shape)) for i, shape in enumerate(shapes)]
    return _copied(forward, None), _copied(forward, masks), layers


def _copied(forward: relax.Function, masks: Sequence[relax.Var] | None) -> relax.Function:
    """``forward`` with products with ``masks`` in place of the dropout layers, or nothing in their place."""
    builder = relax.BlockBuilder()
    parameters = [relax.Var(var.name, var.ty) for var in forward.params]
    new: dict[relax.Var, relax.Expr] = dict(zip(forward.params, parameters, strict=True))
    left = iter(masks or ())
    with builder.function("main", [*parameters, *(masks or ())]):
        with builder.dataflow():
            for binding in bindings_of(forward):
                if op_name(binding.value) != "myelin.dropout":
                    copy_bindings(builder, [binding], new)
                    continue
                source = substitute(binding.value.args[0], new)
                new[binding.var] = source
                if masks is not None:
                    product = relax.op.multiply(source, next(left))
                    new[binding.var] = builder.emit(product, name_hint=binding.var.name)
            output = builder.emit_output(substitute(forward.body.body, new))
        builder.emit_func_output(output)
    return builder.finalize()["main"].without_attr("global_symbol")
