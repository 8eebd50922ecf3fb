"""Replace the operators that matter by hand-written kernels, and keep images channel-last between them.

A pass over one Relax function. A four- or five-dimensional value that a kernel makes channel-last stays so
through elementwise operators, pooling, norms and sums; it is transposed only where something else reads it.
Products read transposed and reshaped factors where they lie, and take in what follows them, so a value may be
made only when something asks for it (:mod:`~.layout`, :mod:`~.products`).
One file per group of operators; the tables below join them: the first rule that takes a binding has it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import ir, relax
from tvm.ir import IRModule

from ...graph.relax_ir import (
    FAMILY,
    MASKS,
    bindings_of,
    emit_function,
    op_name,
    shape_of,
    substitute,
    tensor,
)
from ..kernels import Machine
from . import convolution, images, layout, pointwise, products, sequences
from .rewriter import Rewriter, Site

__all__ = ["DATA_PARAMETERS", "use_kernels"]

_GROUPS = (convolution, images, products, layout, pointwise, sequences)
#: Inputs of a step before its parameters: features, labels and mask.
DATA_PARAMETERS = 3


def _rewritten(module: IRModule, site: Site) -> bool:
    """Whether a rule took the binding."""
    name = op_name(site.call)
    if name != "call_tir":
        return any(name in group.OPERATORS and group.OPERATORS[name](site) for group in _GROUPS)
    function = module[site.call.args[0]]
    family = str((function.attrs or {}).get(FAMILY, ""))
    return any(family in group.FAMILIES and group.FAMILIES[family](site, function) for group in _GROUPS)


def _survey(rewriter: Rewriter, module: IRModule, function: relax.Function) -> None:
    """Note who reads what, and what depends on parameters only."""
    if len(function.params) > DATA_PARAMETERS:
        masks = int((function.attrs or {}).get(MASKS, 0))
        rewriter.weights.update(function.params[DATA_PARAMETERS : len(function.params) - masks])
    for binding in bindings_of(function):
        read = _variables(binding.value)
        for var in read:
            rewriter.uses[var] = rewriter.uses.get(var, 0) + 1
        if isinstance(binding.value, relax.Call):
            rewriter.calls[binding.var] = binding.value
            if op_name(binding.value) == "call_tir":
                rewriter.families[binding.var] = module[binding.value.args[0]]
        if read and rewriter.weights.issuperset(read):
            rewriter.weights.add(binding.var)


def use_kernels(module: IRModule, names: Sequence[str], machine: Machine) -> IRModule:
    """Rewrite the Relax functions ``names`` so that they call hand-written kernels wherever one fits."""
    others = {v: f for v, f in module.functions.items() if v.name_hint not in names}
    builder = relax.BlockBuilder(IRModule(others))
    for name in names:
        function = module[name]
        rewriter = Rewriter(builder, machine)
        parameters = [
            relax.Var(var.name, tensor(shape_of(var), str(var.ty.dtype))) for var in function.params
        ]
        rewriter.plain.update(zip(function.params, parameters, strict=True))
        _survey(rewriter, module, function)

        def body(function: relax.Function = function, rewriter: Rewriter = rewriter) -> list[relax.Expr]:
            for binding in bindings_of(function):
                value, var = binding.value, binding.var
                is_call = isinstance(value, relax.Call) and isinstance(value.op, ir.Op)
                if is_call and _rewritten(module, Site(rewriter, var, value)):
                    continue
                if isinstance(value, relax.TupleGetItem) and rewriter.take_field(var, value):
                    continue
                if var.same_as(function.body.body):
                    return [rewriter.get_plain(field) for field in value.fields]
                known = {v: rewriter.get_plain(v) for v in _variables(value)}
                rewriter.plain[var] = rewriter.emit(substitute(value, known))
            return [rewriter.get_plain(field) for field in function.body.body.fields]

        emit_function(builder, name, parameters, body)
    return relax.transform.DeadCodeElimination(list(names))(builder.finalize())


def _variables(value: relax.Expr) -> list[relax.Var]:
    """The variables that an expression reads."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Tuple):
        return [v for item in value.fields for v in _variables(item)]
    if isinstance(value, relax.TupleGetItem):
        return _variables(value.tuple_value)
    if isinstance(value, relax.Call):
        return [v for item in value.args for v in _variables(item)]
    return []
