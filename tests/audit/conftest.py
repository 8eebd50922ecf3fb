"""The images, each built once, and worlds around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tvm")

from compiled import Compiled, compile_job
from jobs import DROPPED, NUMERIC_SCHEMA, REGRESSION, REPLAYED, SUBNORMAL, WIDE

from world import Records, World, make_world, records_of


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """41,803 coordinates, one step with learning rate 1: the model moves by the noisy gradient alone."""
    return compile_job(tmp_path_factory.mktemp("wide"), WIDE.format(steps=1))


@pytest.fixture(scope="session")
def wide_two_steps(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The same with two steps."""
    return compile_job(tmp_path_factory.mktemp("wide2"), WIDE.format(steps=2))


@pytest.fixture(scope="session")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Forty steps of Adam, half of which truncate, and physical batches that do not divide the capacity."""
    return compile_job(tmp_path_factory.mktemp("replayed"), REPLAYED)


@pytest.fixture(scope="session")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Three dropout layers, one of more than one group of words; five steps, no last batch full."""
    return compile_job(tmp_path_factory.mktemp("dropped"), DROPPED)


@pytest.fixture(scope="session")
def subnormal(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """What the model sees of a record goes through subnormal numbers first; one step of SGD."""
    return compile_job(tmp_path_factory.mktemp("subnormal"), SUBNORMAL)


@pytest.fixture(scope="session")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Numbers as labels, Huber's loss, weight decay, a schedule, and an average of the weights released."""
    return compile_job(tmp_path_factory.mktemp("regression"), REGRESSION, NUMERIC_SCHEMA)


@pytest.fixture(scope="session")
def settle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Compiled], World]:
    """Makes a world of owners, brokers and a signed contract around an image."""

    def world_of(compiled: Compiled, records: Records = records_of) -> World:
        built = compiled.image
        folder = Path(tmp_path_factory.mktemp("world"))
        schema: Any = compiled.job.schema
        facts = (built.manifest, built.measurement, built.plan_digest)
        return make_world(folder, built.path, *facts, schema, records)

    return world_of
