"""Turn a fused Relax function into a flat list of kernel calls over numbered values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tvm import relax, tirx
from tvm.ir import Call as IrCall
from tvm.ir import IRModule

from ..errors import BuildError


@dataclass
class Value:
    """One tensor of the program before it has a place: dtype and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many elements the tensor has."""
        return math.prod(self.shape)


@dataclass
class FlatCall:
    """A call of the PrimFunc named ``kernel``; inputs and outputs index :attr:`FlatFunction.values`."""

    kernel: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass
class FlatFunction:
    """Values and calls of one function; ``parameters`` and ``results`` are indices, as in its signature."""

    values: list[Value] = field(default_factory=list)
    calls: list[FlatCall] = field(default_factory=list)
    parameters: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)


def static_shape(type_: relax.TensorType, what: str) -> tuple[int, ...]:
    """The shape of a tensor type as integers; BuildError if any extent is not a constant."""
    dims: list[int] = []
    for extent in type_.shape.values:
        if not isinstance(extent, tirx.IntImm):
            raise BuildError(f"{what}: expected a static shape, got {type_}; give every dimension a number")
        dims.append(int(extent.value))
    return tuple(dims)


class _Flattener:
    def __init__(self, name: str) -> None:
        self.name = name
        self.flat = FlatFunction()
        self.bound: dict[relax.Var, tuple[int, ...]] = {}

    def new(self, type_: object) -> int:
        if not isinstance(type_, relax.TensorType):
            raise BuildError(f"function {self.name}: expected tensors, got a value of type {type_}")
        value = Value(str(type_.dtype), static_shape(type_, f"function {self.name}"))
        self.flat.values.append(value)
        return len(self.flat.values) - 1

    def values_of(self, expr: relax.Expr) -> tuple[int, ...]:
        """The values an argument expression stands for."""
        if isinstance(expr, relax.Var):
            return self.bound[expr]
        if isinstance(expr, relax.Tuple):
            return tuple(v for item in expr.fields for v in self.values_of(item))
        if isinstance(expr, relax.TupleGetItem):
            return (self.values_of(expr.tuple_value)[int(expr.index)],)
        raise BuildError(
            f"function {self.name}: a constant tensor or an operator without a kernel is left: {expr}; "
            "rewrite the model so that it is computed from inputs or is a scalar"
        )

    def bind(self, var: relax.Var, expr: relax.Expr) -> None:
        if not isinstance(expr, IrCall):
            self.bound[var] = self.values_of(expr)
            return
        if expr.op.name != "relax.call_tir" or len(expr.args) != 2:
            raise BuildError(f"function {self.name}: operator {expr.op.name} has no kernel for this target")
        out = expr.ty_args[0]
        types = list(out.fields) if isinstance(out, relax.TupleType) else [out]
        inputs = self.values_of(expr.args[1])
        outputs = tuple(self.new(t) for t in types)
        self.flat.calls.append(FlatCall(expr.args[0].name_hint, inputs, outputs))
        self.bound[var] = outputs


def flatten(module: IRModule, name: str) -> FlatFunction:
    """List the kernel calls of the Relax function ``name``, in order, dead ones left out.

    Raises :class:`BuildError` for control flow, dynamic shapes, and operators that were not lowered to
    kernels.
    """
    function = module[name]
    walker = _Flattener(name)
    for parameter in function.params:
        index = walker.new(parameter.ty)
        walker.bound[parameter] = (index,)
        walker.flat.parameters.append(index)
    for block in function.body.blocks:
        for binding in block.bindings:
            if not isinstance(binding, relax.VarBinding):
                raise BuildError(f"function {name}: unexpected binding {binding}")
            walker.bind(binding.var, binding.value)
    walker.flat.results = list(walker.values_of(function.body.body))
    _drop_dead(walker.flat)
    return walker.flat


def _drop_dead(flat: FlatFunction) -> None:
    needed = set(flat.results)
    kept: list[FlatCall] = []
    for call in reversed(flat.calls):
        if needed.intersection(call.outputs):
            kept.append(call)
            needed.update(call.inputs)
    flat.calls = kept[::-1]
