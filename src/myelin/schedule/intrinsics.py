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

__all__ = ["erf", "expand_intrinsics"]

# Numerator and denominator, in x², of a rational function for |x| ≤ 4, as in Eigen's generic_fast_erf_float.
_NUMERATOR = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_DENOMINATOR = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
_ERF_LIMIT = 4.0


def _f(value: float) -> tirx.PrimExpr:
    return tirx.const(value, "float32")


def _horner(coefficients: tuple[float, ...], x: tirx.Var) -> tirx.PrimExpr:
    total = _f(coefficients[0])
    for coefficient in coefficients[1:]:
        total = tirx.op.fma(total, x, _f(coefficient))
    return total


def erf(x: tirx.PrimExpr) -> tirx.PrimExpr:
    """The error function, float32, at most 5·10⁻⁷ from the truth, relative; never beyond ±1; NaN for NaN."""
    value, square, quotient = (tirx.Var(name, "float32") for name in ("x", "x2", "q"))
    clamped = tirx.max(tirx.min(value, _f(_ERF_LIMIT)), _f(-_ERF_LIMIT))
    inner = tirx.Var("c", "float32")
    ratio = inner * _horner(_NUMERATOR, square) / _horner(_DENOMINATOR, square)
    bounded = tirx.Let(quotient, ratio, tirx.max(tirx.min(quotient, _f(1.0)), _f(-1.0)))
    of_clamped = tirx.Let(inner, clamped, tirx.Let(square, inner * inner, bounded))
    return tirx.Let(value, x, tirx.Select(tirx.isnan(value), value, of_clamped))


_FUNCTIONS: dict[str, Callable[[tirx.PrimExpr], object]] = {
    "tirx.erf": erf,
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
