"""Compile one kernel and run it on NumPy arrays."""

import math

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm
import tvm_ffi

from myelin.schedule.objects import llvm_target
from targets import TARGETS, WIDEST

__all__ = ["TARGETS", "WIDEST", "aligned", "build", "close", "normal", "run", "the_same"]


def build(function, target):
    """The kernel as a function of tensors."""
    named = tvm.IRModule({"f": function.with_attr("global_symbol", "f")})
    with tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}):
        return tvm.tirx.build(named, target=llvm_target(target), pipeline="s_tir")["f"]


def aligned(array):
    """A copy that begins where tensors of an arena begin."""
    raw = np.zeros(array.nbytes + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    copy = raw[skip : skip + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def run(function, target, *inputs):
    """Every output of a kernel, which begins as NaN (integers: 99)."""
    return call(build(function, target), function, *inputs)


def call(built, function, *inputs):
    """The same of a kernel that is built."""
    outputs = []
    for parameter in list(function.params)[len(inputs) :]:
        shape, dtype = [int(extent) for extent in parameter.shape], str(parameter.dtype)
        outputs.append(aligned(np.full(shape, np.nan if dtype == "float32" else 99, dtype)))
    inputs = [aligned(x) for x in inputs]
    built(*(tvm_ffi.from_dlpack(x) for x in (*inputs, *outputs)))
    return outputs


def the_same(found):
    """The first target's outputs, after comparing with them those of the others, to the bit."""
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(a, b)
    return found[0]


def normal(*shape, seed=0):
    return np.random.default_rng([seed, math.prod(shape)]).standard_normal(shape).astype(np.float32)


def close(got, want, tolerance=3e-6):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, np.abs(want).max()))
