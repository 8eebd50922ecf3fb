"""Subnormal numbers are zero inside, on every thread: the time they take would tell what is in a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from compiled import Compiled, tensors_of
from reference import replay, run_keys

from myelin.certificate import open_model
from myelin.contract import DataSchema
from world import Host, World, records_of


def unseen(owner: int, schema: DataSchema) -> np.ndarray:
    """The owner's records, with features that the model sees as zeros."""
    records = records_of(owner, schema)
    records["features"] = -np.array(schema.offset) / np.array(schema.scale)
    return records


def test_what_becomes_subnormal_is_lost(subnormal: Compiled, settle: Callable[[Compiled], World]) -> None:
    """Features times 1e-42 and back: zeros in the enclave, nearly themselves where nothing is flushed."""
    world = settle(subnormal)
    with Host(world, threads=2) as host:
        model = open_model(host.run()[1], world.researcher)
    got, keys = tensors_of(model, subnormal.private.parameter_values), run_keys(world)
    here = replay(subnormal, world, keys).model
    flushed = replay(subnormal, replace(world, records=unseen), keys).model
    assert all(np.array_equal(a, b) for a, b in zip(got, flushed, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(got, here, strict=True))
