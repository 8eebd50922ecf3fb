"""One of two numbers by a secret condition, so that no compiler makes a branch of it."""

from __future__ import annotations

from tvm import tirx

__all__ = ["selected"]

_BITS = {"float32": ("int32", "f32"), "float64": ("int64", "f64")}


def selected(condition: tirx.PrimExpr, a: tirx.PrimExpr, b: tirx.PrimExpr) -> tirx.PrimExpr:
    """``a`` where the condition holds, else ``b``: scalars of one float type, either of them NaN or not.

    By a mask, not by ``tirx.Select``: processors without AVX-512 have no selection between two scalar floats
    by a condition on other types or on several, so LLVM makes a branch of one, and loops of their own for
    either where it does not change inside. The mask goes through a fence, which costs no instruction and
    which LLVM does not look behind.
    """
    dtype = str(a.dtype) if hasattr(a, "dtype") else str(a.ty.dtype)
    whole, suffix = _BITS[dtype]
    ones = tirx.IntImm(whole, 0) - condition.astype(whole)
    held = tirx.call_llvm_pure_intrin(dtype, f"llvm.arithmetic.fence.{suffix}", tirx.reinterpret(dtype, ones))
    bits_a, bits_b = tirx.reinterpret(whole, a), tirx.reinterpret(whole, b)
    differing = tirx.bitwise_and(tirx.bitwise_xor(bits_a, bits_b), tirx.reinterpret(whole, held))
    return tirx.reinterpret(dtype, tirx.bitwise_xor(bits_b, differing))
