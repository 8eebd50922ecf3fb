"""Elementary functions inside tensor expressions, replaced by polynomials.

A family's body says ``exp``, ``tanh``, ``erf`` or ``sigmoid``; code generation would turn these into calls of
a mathematics library, which the image does not have.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Call, IRModule, Op

from . import elementary

__all__ = ["expand_intrinsics"]

_FUNCTIONS: dict[str, Callable[[tirx.PrimExpr], object]] = {
    "tirx.erf": elementary.erf,
    "tirx.exp": elementary.exp,
    "tirx.sigmoid": elementary.sigmoid,
    "tirx.tanh": elementary.tanh,
}


def _replaced(value: Call) -> object:
    """A call of another function, or of another type than float32, stays; the image's check finds those."""
    function = _FUNCTIONS.get(str(value.op.name)) if isinstance(value.op, Op) else None
    return value if function is None or str(value.ty.dtype) != "float32" else function(value.args[0])


def _expand(module: IRModule, _context: tvm.transform.PassContext) -> IRModule:
    """Replace the elementary functions in every PrimFunc of ``module``."""
    functions = {
        variable: tvm_ffi.structural_map(function, (Call, _replaced))
        if isinstance(function, tirx.PrimFunc)
        else function
        for variable, function in module.functions.items()
    }
    return IRModule(functions, attrs=module.attrs)


expand_intrinsics = tvm.transform.module_pass(_expand, opt_level=0, name="ExpandIntrinsics")
"""The pass that replaces them."""
