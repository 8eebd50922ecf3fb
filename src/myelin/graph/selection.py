"""One of two numbers by a secret condition, so that no compiler makes a branch or a masked store of it."""

from __future__ import annotations

from tvm import tirx

__all__ = ["dtype_of", "fenced", "ones", "selected"]

_BITS = {"float32": ("int32", "f32"), "float64": ("int64", "f64")}


def fenced(value: tirx.PrimExpr) -> tirx.PrimExpr:
    """The same float, of which LLVM does not know where it comes from. Costs no instruction.

    A selection between a new value and the one that is in memory already, at the place where it is stored,
    else becomes a store under a mask: where the mask is all zeros, nothing is written.
    """
    return tirx.call_llvm_pure_intrin(
        dtype_of(value), f"llvm.arithmetic.fence.{_BITS[dtype_of(value)][1]}", value
    )


def dtype_of(value: tirx.PrimExpr) -> str:
    """The element type of an expression."""
    return str(value.dtype) if hasattr(value, "dtype") else str(value.ty.dtype)


def ones(condition: tirx.PrimExpr, dtype: str = "float32") -> tirx.PrimExpr:
    """All ones where the condition holds, else zero: an integer as wide as ``dtype``.

    A difference, whose first number is zero behind a fence, and which is behind one itself: LLVM does not
    know that it is all ones or zero, and makes no selection of it.
    """
    whole, _ = _BITS[dtype]
    nothing = tirx.reinterpret(whole, fenced(tirx.FloatImm(dtype, 0.0)))
    mask = nothing - condition.astype(whole)
    return tirx.reinterpret(whole, fenced(tirx.reinterpret(dtype, mask)))


def selected(condition: tirx.PrimExpr, a: tirx.PrimExpr, b: tirx.PrimExpr) -> tirx.PrimExpr:
    """``a`` where the condition holds, else ``b``: scalars of one float type, either of them NaN or not.

    By a mask, not by ``tirx.Select``: processors without AVX-512 have no selection between two scalar floats
    by a condition on other types or on several, so LLVM makes a branch of one, and loops of their own for
    either where it does not change inside.
    """
    dtype = dtype_of(a)
    whole, _ = _BITS[dtype]
    bits_a, bits_b = tirx.reinterpret(whole, a), tirx.reinterpret(whole, b)
    differing = tirx.bitwise_and(tirx.bitwise_xor(bits_a, bits_b), ones(condition, dtype))
    return tirx.reinterpret(dtype, tirx.bitwise_xor(bits_b, differing))
