"""What an audit sees of a step: norms, sums and layers' norms, from the compiled kernels."""

from __future__ import annotations

import numpy as np
import pytest
from small_jobs import CASES, plan, small_job

from myelin.errors import BuildError, InputError
from myelin.graph import differentiate
from myelin.privacy import inspect_step
from myelin.privacy.oracle import clipped_sums


def test_a_batch_in_three_physical_ones_agrees_with_the_oracle() -> None:
    make, shape, classes = CASES["tokens"]
    the_plan, random = plan(3, clipping_norm=0.5), np.random.default_rng(4)
    graph = differentiate(small_job(make, shape, classes, the_plan))
    values = [v + random.normal(0, 0.1, v.shape).astype(np.float32) for v in graph.parameter_values]
    x, y = random.uniform(-1, 1, (8, *shape)).astype(np.float32), random.integers(0, classes, 8)
    x[6, 0, 0] = np.nan
    found = inspect_step(make, values, x, y, the_plan)
    oracle = clipped_sums(graph.module["forward"], values, x, list(y), np.ones(8), 0.5)
    finite = np.arange(8) != 6
    assert found.per_example_norms.shape == (8,)
    assert found.per_example_norms[6] == np.inf
    np.testing.assert_allclose(found.per_example_norms[finite], oracle.norms[finite], rtol=5e-6)
    assert list(found.clipped_sum) == list(found.per_layer_norms) == list(graph.parameter_names)
    for index, name in enumerate(graph.parameter_names):
        np.testing.assert_allclose(found.clipped_sum[name], oracle.sums[index], rtol=1e-5, atol=1e-6)
        norms = np.array([np.linalg.norm(gradient[index]) for gradient in oracle.gradients])
        np.testing.assert_allclose(found.per_layer_norms[name][finite], norms[finite], rtol=5e-6)
    squares = sum(norms[finite].astype(np.float64) ** 2 for norms in found.per_layer_norms.values())
    np.testing.assert_allclose(found.per_example_norms[finite], np.sqrt(squares), rtol=1e-6)


def test_a_module_with_its_initial_parameters() -> None:
    make, shape, _ = CASES["logistic"]
    found = inspect_step(make(), None, np.ones((2, *shape)), [0, 1], plan(4))
    # Both weights are zero to the logits' difference only by chance: a gradient there is in any case.
    assert (found.per_example_norms > 0).all()


def test_arrays_that_do_not_fit_are_named() -> None:
    make, shape, _ = CASES["logistic"]
    x = np.ones((2, *shape))
    with pytest.raises(InputError, match=r"as many labels, got shapes \(2, 30\) and \(3,\)"):
        inspect_step(make, None, x, [0, 1, 1], plan(4))
    with pytest.raises(InputError, match="y: expected whole numbers, got float64"):
        inspect_step(make, None, x, [0.0, 1.0], plan(4))
    with pytest.raises(InputError, match=r"params: expected 2 arrays \(layer0.weight, layer0.bias\), got 1"):
        inspect_step(make, [np.zeros((2, 30))], x, [0, 1], plan(4))
    with pytest.raises(InputError, match=r"params: layer0.bias: expected shape \(2,\), got \(3,\)"):
        inspect_step(make, [np.zeros((2, 30)), np.zeros(3)], x, [0, 1], plan(4))
    with pytest.raises(BuildError, match=r"expected an instance of myelin\.model\.nn\.Module"):
        inspect_step(lambda: 3, None, x, [0, 1], plan(4))
