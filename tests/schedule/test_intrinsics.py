"""The error function and the activations made of it, against float64."""

import math

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm
from kernel_runs import TARGETS, build
from tvm import relax, te, tirx

from myelin.graph.composites import lowered
from myelin.graph.relax_ir import emit_function, tensor
from myelin.model.operators import call
from myelin.schedule.intrinsics import expand_intrinsics
from myelin.schedule.lower import lower
from myelin.schedule.objects import llvm_target

COUNT = 1 << 16


def ran(function, *arrays):
    out = tvm.runtime.tensor(np.zeros(COUNT, np.float32))
    function(*(tvm.runtime.tensor(a) for a in arrays), out)
    return out.numpy()


@pytest.mark.parametrize("target", TARGETS)
def test_the_error_function(target):
    source = te.placeholder((COUNT,), "float32", name="x")
    result = te.compute((COUNT,), lambda i: tirx.erf(source[i]), name="erf")
    module = tvm.IRModule({"main": te.create_prim_func([source, result]).without_attr("global_symbol")})
    assert "erf(" in str(module)
    expanded = expand_intrinsics(module)["main"]
    assert "erf(" not in str(expanded)
    function = build(expanded, target)
    random = np.random.default_rng(0)
    special = np.resize(np.float32([0.0, -0.0, 4.0, -4.0, np.inf, -np.inf, 1e-38, 3e38]), COUNT)
    for x in (
        random.uniform(-5, 5, COUNT),
        random.normal(0, 1, COUNT) * 10.0 ** random.uniform(-30, 0, COUNT),
        special,
    ):
        x = x.astype(np.float32)
        got, exact = ran(function, x), np.vectorize(math.erf)(x.astype(np.float64))
        assert (np.abs(got) <= 1).all()
        assert (np.abs(got - exact) <= 5e-7 * np.abs(exact) + 1e-37).all()
    assert np.isnan(ran(function, np.full(COUNT, np.nan, np.float32))).all()


def test_what_is_not_float32_stays_for_the_check_of_the_image_to_find():
    source = te.placeholder((4,), "float64", name="x")
    result = te.compute((4,), lambda i: tirx.tanh(source[i]), name="y")
    module = tvm.IRModule({"main": te.create_prim_func([source, result])})
    tvm.ir.assert_structural_equal(expand_intrinsics(module)["main"], module["main"])


def kernel_of(name, count, target, **attributes):
    """The kernel that an operator of the model ends as."""
    builder = relax.BlockBuilder()
    arguments = [relax.Var(f"a{i}", tensor((1, COUNT))) for i in range(count)]
    operator = builder.normalize(call(name, arguments, **attributes))
    emit_function(builder, "main", arguments, lambda: list(lowered(builder, operator, "result")))
    module = lower(builder.finalize(), llvm_target(target), ["main"])
    (function,) = [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]
    built = build(function, target)

    def run(*arrays):
        out = tvm.runtime.tensor(np.zeros((1, COUNT), np.float32))
        built(*(tvm.runtime.tensor(a.astype(np.float32)[None]) for a in arrays), out)
        return out.numpy()[0].astype(np.float64)

    return run


def exact_gelu(x, approximate):
    """Value and derivative."""
    if approximate == "tanh":
        slope = math.sqrt(2 / math.pi)
        t = np.tanh(slope * (x + 0.044715 * x**3))
        inner = slope * (1 + 3 * 0.044715 * x**2)
        return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * inner
    below = 0.5 * np.vectorize(math.erfc)(-x / math.sqrt(2))
    return x * below, below + x * np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_and_its_gradient(target, approximate):
    forward = kernel_of("gelu", 1, target, approximate=approximate)
    backward = kernel_of("gelu_gradient", 2, target, approximate=approximate)
    random = np.random.default_rng(1)
    for x in (
        random.uniform(-8, 8, COUNT),
        random.normal(0, 1, COUNT) * 10.0 ** random.uniform(-20, 3, COUNT),
    ):
        x = x.astype(np.float32).astype(np.float64)
        value, slope = exact_gelu(x, approximate)
        gradient = random.normal(0, 1, COUNT).astype(np.float32).astype(np.float64)
        assert (np.abs(forward(x) - value) <= 4e-7 * np.abs(x)).all()
        assert (np.abs(backward(gradient, x) - gradient * slope) <= 2e-6 * np.abs(gradient)).all()
    ends = np.resize([np.inf, 3e38, -3e38, 1e20, -1e20], COUNT)
    np.testing.assert_array_equal(forward(ends)[:5], [np.inf, *np.float32([3e38, 0, 1e20, 0])])
    if approximate == "none":
        np.testing.assert_array_equal(backward(np.ones(COUNT), ends)[1:5], [1, 0, 1, 0])
    assert np.isnan(forward(np.full(COUNT, np.nan))).all()
