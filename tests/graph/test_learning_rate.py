"""Numbers of a step: schedules, powers and averages as compiled, against their definitions in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax, tirx

from myelin.graph.learning_rate import emit_numbers, one_minus_power, rate_at, wide
from myelin.graph.relax_ir import emit_function, tensor
from myelin.model import Constant, CosineDecay, LinearWarmUp, StepDecay
from myelin.privacy.oracle_update import learning_rate_at

LAST = 2**31 - 1
RATES = {
    "constant": Constant(0.3),
    "cosine": CosineDecay(0.5, 1000, final=0.01),
    "cosine to zero": CosineDecay(2.0, 7),
    "the longest cosine": CosineDecay(0.1, LAST),
    "steps": StepDecay(0.8, 30, 0.5),
    "fast steps": StepDecay(0.8, 1, 0.999999),
    "warm-up": LinearWarmUp(100, then=0.25),
    "warm-up, then cosine": LinearWarmUp(10, then=CosineDecay(0.4, 90, 0.002)),
    "warm-up, then steps": LinearWarmUp(3, then=StepDecay(0.4, 5)),
}
STEPS = [1, 2, 3, 4, 7, 8, 9, 10, 11, 30, 31, 61, 100, 101, 500, 999, 1000, 1001, 2**20, 2**30 + 7, LAST]


def numbers() -> dict[str, object]:
    rates = {name: lambda t, rate=rate: rate_at(rate, t) for name, rate in RATES.items()}
    powers = {f"power {b}": lambda t, b=b: wide(1.0) / one_minus_power(b, t) for b in (0.0, 0.9, 0.999999)}
    return {**rates, **powers}


@pytest.fixture(scope="module")
def module() -> tvm.IRModule:
    """One kernel with all of them."""
    builder = relax.BlockBuilder()
    step = relax.Var("step_number", tensor((1,), "int32"))
    functions = {name.replace(" ", "_").replace(".", "_"): of for name, of in numbers().items()}
    emit_function(
        builder, "main", [step], lambda: list(emit_numbers(builder, step, "numbers", functions).values())
    )
    return builder.finalize()


def test_schedules_agree_with_their_definitions(module: tvm.IRModule) -> None:
    machine = relax.VirtualMachine(relax.build(module, target="llvm"), tvm.cpu())
    for t in STEPS:
        found = [float(v.numpy()[0]) for v in machine["main"](tvm.runtime.tensor(np.array([t], np.int32)))]
        expected = [learning_rate_at(rate, t) for rate in RATES.values()]
        expected += [float(1 / -np.expm1(t * np.log(b))) if b else 1.0 for b in (0.0, 0.9, 0.999999)]
        # 1 + cos loses in the oracle what sin² keeps in the kernel.
        np.testing.assert_allclose(found, np.float32(expected), rtol=1.3e-7, atol=1e-16, err_msg=str(t))


def test_a_schedule_of_a_schedule_goes_on_where_the_warm_up_ends() -> None:
    rate = LinearWarmUp(10, then=CosineDecay(0.4, 90))
    values = [learning_rate_at(rate, t) for t in range(1, 102)]
    assert values[:10] == pytest.approx([0.04 * t for t in range(1, 11)])
    assert values[9] == values[10] == 0.4
    assert all(a > b for a, b in pairwise(values[10:]))
    assert values[100] == pytest.approx(0.0, abs=1e-17)


def test_no_target_can_round_otherwise(module: tvm.IRModule) -> None:
    """A product next to a sum may be fused by one code generator and not by another: there is none."""
    left, fused = [], []

    def look(node: object) -> object:
        parts = (node.a, node.b) if isinstance(node, tirx.Add | tirx.Sub) else ()
        wide_parts = [p for p in parts if str(p.ty.dtype) == "float64"]
        left.extend(p for p in wide_parts if isinstance(p, tirx.Mul))
        fused.append("fma" in str(getattr(node, "op", "")))
        return node

    kernels = [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]
    for function in kernels:
        tvm_ffi.structural_map(function, (tvm.ir.Call, look))
        tvm_ffi.structural_map(function, (tirx.Add, look))
        tvm_ffi.structural_map(function, (tirx.Sub, look))
    assert any(fused)
    assert not left
