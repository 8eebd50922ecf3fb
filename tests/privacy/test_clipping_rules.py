"""Clipping rules: against the float64 oracle, and never above the bound in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import CASES, Built, build, draw, plan, small_job
from tvm import relax

from myelin.errors import InputError
from myelin.graph.relax_ir import emit_function, tensor
from myelin.privacy import AutomaticClipping, Event, PerLayerClipping
from myelin.privacy.clipping_kernels import clip_automatic, clip_groups
from myelin.privacy.oracle import clipped_sums

BATCH, CLIPPING_NORM, STABILITY = 6, 0.7, 0.01
BOUNDS = {"one": 0.7, "two": 0.1}
RULES: dict[str, Any] = {
    "automatic": AutomaticClipping(),
    "automatic, stable": AutomaticClipping(3.0),
    "per layer": PerLayerClipping(),
    "per layer, with shares": "shares",
}


SHARES = {
    "hospitals tanh": {"layer0": 1.0, "layer1": 1.0, "layer1.weight": 3.0},
    "hospitals relu": {"layer0": 1.0, "layer1": 1.0, "layer1.weight": 3.0},
}


def rule_for(name: str, rule: str) -> Any:
    """One of :data:`RULES`; with shares for the names of a case, where it has some."""
    value = RULES[rule]
    return PerLayerClipping(SHARES.get(name)) if value == "shares" else value


def built(name: str, rule: Any, clipping_norm: float) -> Built:
    return build(small_job(*CASES[name], plan(5, clipping_norm=clipping_norm, clipping=rule)))


@pytest.mark.parametrize("name", ["hospitals tanh", "mnist", "tokens"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("clipping_norm", [0.5, 1000.0])
def test_the_step_agrees_with_the_oracle(name: str, rule: str, clipping_norm: float) -> None:
    job = built(name, rule_for(name, rule), clipping_norm)
    x, labels, mask = draw(job.job)
    mask[2] = 0
    values = job.private.parameter_values
    sums, norms, contributing = job.step(x, labels, mask, *values)
    names = job.private.parameter_names
    forward = job.graph.module["forward"]
    oracle = clipped_sums(
        forward, values, x, labels, mask, clipping_norm, rule=rule_for(name, rule), names=names
    )
    np.testing.assert_allclose(norms, oracle.norms, rtol=5e-6)
    np.testing.assert_array_equal(contributing, [1, 1, 0, 1, 1])
    for name_of, found, expected in zip(names, sums, oracle.sums, strict=True):
        scale = max(np.abs(expected).max(), 1e-3)
        np.testing.assert_allclose(found, expected, atol=1e-5 * scale, err_msg=name_of)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("factor", [1.0, 1e-6, 1e6])
def test_one_example_adds_at_most_the_clipping_norm(rule: str, factor: float) -> None:
    job = built("hospitals relu", rule_for("hospitals relu", rule), 0.3)
    x, labels, _ = draw(job.job)
    values = [(v * factor).astype(np.float32) for v in job.private.parameter_values]
    for i in range(len(x)):
        alone = np.zeros(len(x), np.float32)
        alone[i] = 1
        sums, _, _ = job.step(x, labels, alone, *values)
        length = np.sqrt(sum((s.astype(np.float64) ** 2).sum() for s in sums))
        assert length <= 0.3 * (1 + 4 * 2.0**-24)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spoil", [np.nan, np.inf, 3e38])
def test_a_bad_example_changes_no_bit_of_the_others(rule: str, spoil: float) -> None:
    job = built("mnist", rule_for("mnist", rule), 1.0)
    x, labels, mask = draw(job.job)
    bad, values = x.copy(), job.private.parameter_values
    bad[1].flat[:] = spoil
    sums, _, contributing = job.step(bad, labels, mask, *values)
    assert contributing[1] == 0
    mask[1] = 0
    padded, _, _ = job.step(x, labels, mask, *values)
    assert all(np.array_equal(s, p) for s, p in zip(sums, padded, strict=True))


@pytest.fixture(scope="module")
def machine() -> relax.VirtualMachine:
    builder = relax.BlockBuilder()
    a, b, mask = (relax.Var(n, tensor((BATCH,))) for n in ("a", "b", "mask"))
    emit_function(
        builder,
        "automatic",
        [a, b, mask],
        lambda: clip_automatic(builder, [a, b], mask, CLIPPING_NORM, STABILITY),
    )

    def groups() -> list[relax.Expr]:
        norms, contributing, coefficients = clip_groups(builder, [a, b], mask, list(BOUNDS), BOUNDS)
        return [norms, contributing, *coefficients]

    emit_function(builder, "groups", [a, b, mask], groups)
    return relax.VirtualMachine(relax.build(builder.finalize(), target="llvm"), tvm.cpu())


def call(machine: relax.VirtualMachine, name: str, *arguments: npt.ArrayLike) -> list[Any]:
    given_ = [tvm.runtime.tensor(np.asarray(a, np.float32)) for a in arguments]
    return [r.numpy() for r in machine[name](*given_)]


NORMS = st.lists(
    st.one_of(st.floats(0, width=32), st.just(float("nan"))), min_size=2 * BATCH, max_size=2 * BATCH
)
MASKS = st.lists(st.sampled_from([0.0, 1.0]), min_size=BATCH, max_size=BATCH)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(norms=NORMS, mask=MASKS)
def test_automatic_coefficients_never_let_more_than_the_clipping_norm_pass(
    machine: relax.VirtualMachine, norms: list[float], mask: list[float]
) -> None:
    parts = np.array(norms, np.float32).reshape(2, BATCH)
    _, contributing, coefficients = call(machine, "automatic", *parts, mask)
    limit, gamma = Fraction(CLIPPING_NORM), Fraction(STABILITY)
    for i in range(BATCH):
        finite = np.isfinite(parts[:, i]).all()
        square = (
            sum((Fraction(float(v)) ** 2 for v in parts[:, i]), Fraction(0)) if finite else Fraction(2**200)
        )
        if mask[i] == 0 or square > 2**121:
            assert (contributing[i], coefficients[i]) == (0, 0)
        elif square < 2**119:
            c = Fraction(float(coefficients[i]))
            assert contributing[i] == 1
            assert c > 0
            # c (n + γ) <= C without roots: (C − c γ)² >= c² n².
            assert c * gamma < limit
            assert (limit - c * gamma) ** 2 >= c * c * square
            near = c * (1 + Fraction(1, 10**6))
            assert limit <= near * gamma or (limit - near * gamma) ** 2 <= near * near * square


@settings(max_examples=200, deadline=None, derandomize=True)
@given(norms=NORMS, mask=MASKS)
def test_a_group_s_coefficients_never_let_more_than_its_bound_pass(
    machine: relax.VirtualMachine, norms: list[float], mask: list[float]
) -> None:
    parts = np.array(norms, np.float32).reshape(2, BATCH)
    _, contributing, *coefficients = call(machine, "groups", *parts, mask)
    for i in range(BATCH):
        finite = np.isfinite(parts[:, i]).all()
        square = sum(Fraction(float(v)) ** 2 for v in parts[:, i]) if finite else Fraction(2**200)
        if mask[i] == 0 or square > 2**121:
            assert not contributing[i]
            assert not any(c[i] for c in coefficients)
        elif square < 2**119:
            for own, bound, norm in zip(coefficients, BOUNDS.values(), parts[:, i], strict=True):
                passed = Fraction(float(own[i])) * Fraction(float(norm))
                assert 0 < own[i] <= 1
                assert passed <= Fraction(bound)
                assert own[i] == 1 or passed >= Fraction(bound) * (1 - Fraction(1, 10**6))


NAMES = ("embed.table", "body.0.weight", "body.0.bias", "head.weight", "scale")


def test_groups_are_modules_and_their_bounds_squared_add_up() -> None:
    rule = PerLayerClipping()
    bounds = rule.bounds_e9(10**9, NAMES)
    assert bounds == {"embed": 5 * 10**8, "body.0": 5 * 10**8, "head": 5 * 10**8, "scale": 5 * 10**8}
    given_ = PerLayerClipping({"body": 1, "body.0.bias": 2, "head": 2, "embed": 4, "scale": 1e-3})
    assert given_.groups(NAMES) == ["embed", "body", "body.0.bias", "head", "scale"]
    shared = given_.bounds_e9(999_999_937, NAMES)
    assert 0 < 999_999_937**2 - sum(bound**2 for bound in shared.values()) < 10 * 999_999_937
    assert shared["embed"] == pytest.approx(4 * shared["body"], rel=1e-7)
    assert given_.executed(plan(5, clipping_norm=0.999999937), NAMES) == ("per-layer", *shared.values())


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"body": 1, "embed": 1, "head": 1}, "got none for scale"),
        ({"": 1}, "got none for embed.table"),
        ({"body": 1, "embed": 1, "head": 1, "scale": 1, "tail": 1}, "got tail"),
        ({"body": 1e-6, "embed": 1, "head": 1, "scale": 1e6}, "at least 2"),
    ],
)
def test_shares_that_do_not_fit_the_model_are_refused(shares: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PerLayerClipping(shares).executed(plan(5), NAMES)


@pytest.mark.parametrize("share", [0, -1.0, float("nan"), "1", True])
def test_a_share_is_a_positive_number(share: Any) -> None:
    with pytest.raises(InputError, match=r"PerLayerClipping.shares\['a'\]: expected a number"):
        PerLayerClipping({"a": share})


def test_what_automatic_clipping_gives() -> None:
    with pytest.raises(InputError, match=r"AutomaticClipping.stability: expected a number from 1e-06"):
        AutomaticClipping(0)
    assert AutomaticClipping(0.25).executed(plan(5), ()) == ("automatic", 250_000_000)


@pytest.mark.parametrize(
    "clipping",
    [
        ["per-layer"],
        ["adaptive", 1, 1, 1],
        ["adaptive", 1, 1, 1, 10**6],
        ["per-layer", 8 * 10**8, 6 * 10**8 + 1],
        ["automatic"],
        ["automatic", 0],
        ["flat", 1],
        ["none"],
        [],
        "flat",
        ["automatic", 1.0],
    ],
)
def test_an_event_of_another_rule_is_refused(clipping: Any) -> None:
    numbers = plan(5).event(10, 10**9)
    with pytest.raises(InputError, match=r"DpEvent\.clipping: expected"):
        Event.from_map({**numbers, "clipping": clipping})
