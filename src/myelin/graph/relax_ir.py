"""What Myelin uses of Relax's IR, in one place: another TVM version is a change to this file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from tvm import ir, relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812  (TVM's own name for it)

__all__ = [
    "FAMILY",
    "MASKS",
    "bindings_of",
    "call_family",
    "constant",
    "copy_bindings",
    "emit_function",
    "family",
    "loops",
    "op_name",
    "shape_of",
    "substitute",
    "tensor",
]

FAMILY = "myelin.family"
"""The attribute that names what a PrimFunc computes, for the scheduler."""


MASKS = "myelin.masks"
"""The attribute that says how many of a step's last inputs are masks of dropout layers."""


def shape_of(value: relax.Expr) -> tuple[int, ...]:
    """Static shape of a tensor-valued expression."""
    return tuple(int(size) for size in value.ty.shape.values)


def tensor(shape: Sequence[int], dtype: str = "float32") -> relax.TensorType:
    """Type of a tensor of a static shape."""
    return relax.TensorType(tuple(shape), dtype)


def constant(value: relax.Expr) -> npt.NDArray[np.float64] | None:
    """The number or array that ``value`` is; None if it is no constant."""
    return np.asarray(value.value.numpy(), np.float64) if isinstance(value, ir.GenericConst) else None


def op_name(value: relax.Expr) -> str:
    """Name of the operator that ``value`` calls, without ``relax.``; its class if it is no call."""
    if isinstance(value, relax.Call) and isinstance(value.op, ir.Op):
        return str(value.op.name).removeprefix("relax.")
    return type(value).__name__


def substitute(value: relax.Expr, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr:
    """``value`` with its variables replaced; a variable that ``new`` lacks stays."""
    if isinstance(value, relax.Var):
        return new.get(value, value)
    if isinstance(value, relax.Call):
        arguments = [substitute(argument, new) for argument in value.args]
        return relax.Call(value.op, arguments, value.attrs, value.ty_args)
    if isinstance(value, relax.Tuple):
        return relax.Tuple([substitute(field, new) for field in value.fields])
    if isinstance(value, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(value.tuple_value, new), value.index)
    return value


def bindings_of(function: relax.Function) -> Iterator[relax.VarBinding]:
    """The bindings of a function, in order."""
    for block in function.body.blocks:
        yield from block.bindings


def copy_bindings(
    builder: relax.BlockBuilder, bindings: Sequence[relax.VarBinding], new: dict[relax.Var, relax.Expr]
) -> None:
    """Emit ``bindings`` into ``builder``; ``new`` maps old variables to new ones and is added to.

    A binding whose variable is in ``new`` already is left out: that is how a pass replaces a value.
    A binding that only renames a variable emits nothing.
    """
    for binding in bindings:
        if binding.var in new:
            continue
        value = substitute(binding.value, new)
        is_name = isinstance(value, relax.Var)
        new[binding.var] = value if is_name else builder.emit(value, name_hint=binding.var.name)


def emit_function(
    builder: relax.BlockBuilder,
    name: str,
    parameters: Sequence[relax.Var],
    body: Callable[[], Sequence[relax.Expr]],
) -> None:
    """Add the function ``name``: one dataflow block that ``body`` emits, its results as a tuple."""
    with builder.function(name, list(parameters)):
        with builder.dataflow():
            output = builder.emit_output(relax.Tuple(list(body())))
        builder.emit_func_output(output)


def family(
    name: str, arguments: Sequence[te.Tensor], attributes: Mapping[str, object] | None = None
) -> tirx.PrimFunc:
    """A PrimFunc from tensor expressions, inputs then outputs, that carries :data:`FAMILY`."""
    function = te.create_prim_func(list(arguments)).without_attr("global_symbol").with_attr(FAMILY, name)
    for key, value in (attributes or {}).items():
        function = function.with_attr(f"myelin.{key}", value)
    return function


def loops(
    name: str,
    inputs: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
    body: Callable[..., None],
    attributes: Mapping[str, object] | None = None,
) -> tirx.PrimFunc:
    """A PrimFunc of a family from loops that ``body`` writes, where tensor expressions cannot say it.

    ``body`` gets a flat float32 buffer per input and output, given by their shapes. What it writes is the
    schedule already.
    """
    shapes = [tuple(shape) for shape in (*inputs, *outputs)]
    with IRBuilder() as builder, T.prim_func(s_tir=False):
        T.func_name(name.replace(".", "_"))
        # An opaque operator (pattern 8) is not fused with anything.
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8, FAMILY: name})
        arguments = [
            T.arg(f"a{i}", T.Buffer(shape, "float32", layout=None)) for i, shape in enumerate(shapes)
        ]
        flat = [
            T.decl_buffer((math.prod(shape),), "float32", data=argument.data, layout=None)
            for argument, shape in zip(arguments, shapes, strict=True)
        ]
        body(*flat)
    function = builder.get().without_attr("global_symbol")
    for key, value in (attributes or {}).items():
        function = function.with_attr(f"myelin.{key}", value)
    return function


def call_family(
    builder: relax.BlockBuilder,
    function: tirx.PrimFunc,
    inputs: Sequence[relax.Expr],
    outputs: Sequence[relax.TensorType],
    name: str,
) -> tuple[relax.Expr, ...]:
    """Emit a call of ``function`` (added under its family's name) and give its results."""
    kernel = builder.add_func(function, str(function.attrs[FAMILY]).replace(".", "_"))
    types = list(outputs) if len(outputs) > 1 else outputs[0]
    result = builder.emit(relax.call_tir(kernel, relax.Tuple(list(inputs)), types), name_hint=name)
    if len(outputs) == 1:
        return (result,)
    return tuple(builder.emit(relax.TupleGetItem(result, i), name_hint=name) for i in range(len(outputs)))
