"""The plan's encoding and the model file's prefix."""

from __future__ import annotations

import json

import cbor2
import numpy as np
import pytest
from safetensors.numpy import load

from myelin.errors import BuildError
from myelin.image import BuiltImage, read_plan
from myelin.image.manifest import read_section
from myelin.image.plan import model_header, pack_parameters


def sorted_keys(value: object) -> bool:
    if isinstance(value, dict):
        order = [cbor2.dumps(key) for key in value]
        return order == sorted(order) and all(map(sorted_keys, value.values()))
    return all(map(sorted_keys, value)) if isinstance(value, list) else True


def test_is_sorted_and_reads_back(built: BuiltImage) -> None:
    plan = read_plan(built.path)
    assert sorted_keys(plan)
    # Default encoding: floats in eight bytes, shortest integers, definite lengths.
    assert cbor2.dumps(plan) == read_section(built.path, ".myelin.plan")
    assert plan["dp"]["microbatch"] == 64
    assert plan["data"]["record_bytes"] == 30 * 4 + 4


def test_noise_on_the_grid_is_at_least_what_is_promised(built: BuiltImage) -> None:
    from myelin.privacy.noise import SIGMA_UNITS

    dp = read_plan(built.path)["dp"]
    promised = dp["noise_multiplier_e9"] * dp["sensitivity_e9"] * 1e-18
    assert promised <= dp["grid"] * SIGMA_UNITS <= promised * (1 + 1e-9)


def test_header_and_values_are_a_safetensors_file() -> None:
    values = {"a.weight": np.arange(6, dtype="<f4").reshape(2, 3), "a.bias": np.float32([7.0])}
    file = model_header([(name, value.shape) for name, value in values.items()])
    assert len(file) % 8 == 0
    loaded = load(file + b"".join(value.tobytes() for value in values.values()))
    assert list(json.loads(file[8:])) == ["__metadata__", "a.weight", "a.bias"]
    for name, value in values.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_two_parameters_of_one_name_are_refused() -> None:
    with pytest.raises(BuildError, match="parameter w: expected a name of its own"):
        model_header([("w", (1,)), ("w", (2,))])


def test_parameters_are_aligned() -> None:
    packed = pack_parameters([np.float32([1, 2, 3]), np.float32([[4.0]])])
    assert len(packed) == 68
    np.testing.assert_array_equal(np.frombuffer(packed[:12], "<f4"), [1, 2, 3])
    np.testing.assert_array_equal(np.frombuffer(packed[64:], "<f4"), [4])
