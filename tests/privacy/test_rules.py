"""Rules per family: every strategy yields the oracle's norm and sum; the cost model chooses one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import CASES, build, built_case, draw, plan, small_job
from tvm import relax

from myelin.errors import BuildError
from myelin.graph import Layer, Use, differentiate
from myelin.graph.relax_ir import emit_function, tensor
from myelin.privacy import Cost, make_private, private_graph
from myelin.privacy.conv2d import correlation
from myelin.privacy.oracle import clipped_sums
from myelin.privacy.rules import RULES, strategies
from myelin.privacy.strategy import Site
from myelin.privacy.tiles import KEPT_FINISH, SUM_FINISH, tiled_multiply_adds


def site(
    kind: str, shape: tuple[int, ...], data: tuple[int, ...], output: tuple[int, ...], **more: Any
) -> Site:
    a, b = relax.Var("data", tensor(data)), relax.Var("gradient", tensor(output))
    return Site(Layer(kind, "w", 0, shape, (Use(b, a, **more),)), (a,), (b,))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    group=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(3, 6), st.integers(3, 6)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
)
def test_convolution_gradients_by_the_definition(
    group: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
) -> None:
    batch, in_group, out = 2, channels[0], channels[1] * group
    rows, columns = ((size[k] + padding[k] + padding[k + 2] - kernel[k]) // strides[k] + 1 for k in range(2))
    data, output = (batch, in_group * group, *size), (batch, out, rows, columns)
    the_site = site(
        "conv2d", (out, in_group, *kernel), data, output, strides=strides, padding=padding, groups=group
    )
    builder = relax.BlockBuilder()
    a, b, use = the_site.inputs[0], the_site.gradients[0], the_site.layer.uses[0]
    emit_function(
        builder,
        "main",
        [a, b],
        lambda: [
            correlation(builder, the_site.layer.shape, use, a, b),
            correlation(builder, the_site.layer.shape, use, a, b, per_example=False),
        ],
    )
    machine = relax.VirtualMachine(relax.build(builder.finalize(), target="llvm"), tvm.cpu())
    random = np.random.default_rng(0)
    x, dy = (random.normal(size=s).astype(np.float32) for s in (data, output))
    found, total = (r.numpy() for r in machine["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(dy)))
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), padding[::2], padding[1::2]))
    expected = np.zeros((batch, out, in_group, *kernel))
    for n, o, i, j in np.ndindex(batch, out, rows, columns):
        first = o // channels[1] * in_group
        top, left = i * strides[0], j * strides[1]
        window = padded[n, first : first + in_group, top : top + kernel[0], left : left + kernel[1]]
        expected[n, o] += dy[n, o, i, j] * window
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(total, expected.sum(axis=0), atol=2e-5)


@pytest.mark.parametrize("name", ["hospitals relu", "mnist"])
def test_keeping_every_layer_gives_what_the_chosen_strategies_give(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = built_case(name)
    monkeypatch.setattr(private_graph, "strategies", lambda s: strategies(s)[-1:])
    kept = build(small_job(*CASES[name], plan(5)))
    assert {row.strategy for row in kept.private.table} == {"keep"}
    assert {row.strategy for row in chosen.private.table} == {"keep", "ghost"}
    x, labels, mask = draw(kept.job)
    values = kept.private.parameter_values
    first, second = kept.step(x, labels, mask, *values), chosen.step(x, labels, mask, *values)
    np.testing.assert_allclose(first[1], second[1], rtol=3e-6)
    for a, b in zip(first[0], second[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_cancelling_positions_keep_their_small_norm() -> None:
    """Σₜ bₜaₜᵀ of large opposite terms: a Gram-matrix norm in float32 would be off by orders of magnitude."""
    built = built_case("tokens")
    x, labels, mask = draw(built.job)
    x[:, 1:] = np.float32(1e-3) * x[:, 1:]
    x[:, 1], x[:, 0] = 300 * np.ones(3), -300 * np.ones(3)
    values = [v.copy() for v in built.private.parameter_values]
    values[0] *= np.float32(1e-4)  # tanh stays in its linear part, so both positions have like gradients
    values[2][:, :6] = 0.3
    _, norms, _ = built.step(x, labels, mask, *values)
    oracle = clipped_sums(built.graph.module["forward"], values, x, labels, mask, 1.0)
    np.testing.assert_allclose(norms, oracle.norms, rtol=1e-5)


def test_the_table_shows_costs_and_takes_the_cheapest() -> None:
    table = make_private(differentiate(small_job(*CASES["mnist"], plan())), plan()).table
    rows = {row.name: row for row in table}
    assert list(rows) == [
        f"{n}.{p}" for n in ("conv1", "conv2", "hidden", "output") for p in ("weight", "bias")
    ]
    assert [rows[f"{n}.weight"].positions for n in ("conv1", "conv2", "hidden")] == [196, 25, 1]
    assert {n: r.strategy for n, r in rows.items() if n.endswith("weight")} == {
        "conv1.weight": "keep",
        "conv2.weight": "keep",
        "hidden.weight": "ghost",
        "output.weight": "ghost",
    }
    for row in table:
        assert row.costs[row.strategy].seconds == min(cost.seconds for cost in row.costs.values())
    assert rows["conv2.weight"].costs["keep"].flops == 2 * 25 * 8192 + 4 * 8192


def test_costs_add_arithmetic_and_traffic() -> None:
    assert Cost(50_000_000_000, 0).seconds == 1.0
    assert Cost(0, 20_000_000_000).seconds == 1.0


def test_tiles_of_3_by_3_cost_what_their_kernels_do() -> None:
    """Each tile 16 products and two transforms, and the sums to be finished."""
    tiled = tiled_multiply_adds((3, 3, 16, 16), (1, 1), (32, 32), KEPT_FINISH)
    assert tiled == 256 * (16 * 256 + 48 * 32) + 112 * 256
    assert tiled_multiply_adds((3, 3, 16, 16), (2, 2), (32, 32), KEPT_FINISH) is None
    assert tiled_multiply_adds((1, 3, 16, 16), (1, 1), (32, 32), KEPT_FINISH) is None
    assert tiled_multiply_adds((3, 3, 64, 64), (1, 1), (34, 32), SUM_FINISH) is None, "more than 256 tiles"
    few = (3, 3, 256, 256), (1, 1), (4, 4)
    assert tiled_multiply_adds(*few, KEPT_FINISH) is None
    assert tiled_multiply_adds(*few, SUM_FINISH) is not None
    images = site("conv2d", (64, 64, 3, 3), (2, 64, 8, 8), (2, 64, 8, 8))
    kept = next(strategy for strategy in strategies(images) if strategy.name == "keep")
    assert kept.cost(images).flops == 2 * (16 * (16 * 4096 + 48 * 128) + 112 * 4096) + 4 * 9 * 4096


def test_a_kind_without_a_rule_is_refused_by_name() -> None:
    said = r"layer w of kind lstm cannot be made private.*bias, conv2d, conv2d_transpose, embedding, linear"
    with pytest.raises(BuildError, match=said):
        strategies(site("lstm", (2, 3), (4, 3), (4, 2)))


def test_ghost_norms_are_only_offered_for_one_position() -> None:
    assert [s.name for s in strategies(site("linear", (2, 3), (4, 3), (4, 2)))] == ["ghost", "keep"]
    assert [s.name for s in strategies(site("linear", (2, 3), (4, 5, 3), (4, 5, 2)))] == ["keep"]
    assert sorted(RULES) == [
        "bias",
        "conv2d",
        "conv2d_transpose",
        "embedding",
        "linear",
        "position",
        "product",
        "scale",
        "shared",
    ]
