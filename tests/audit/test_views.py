"""Augmented views through a real image: the model computed again to the bit, and what is signed of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compiled import Compiled, compile_job
from jobs import IMAGES_SCHEMA, VIEWED
from reference import is_the_model, replay, run_certified, run_keys
from typer.testing import CliRunner

from myelin.certificate import open_model
from myelin.cli.app import app
from myelin.contract import DataSchema
from world import RECORDS, Host, World

AUGMENT = [["flip"], ["crop", 2], ["reflected-crop", 1]]


def images(owner: int, schema: DataSchema) -> np.ndarray:
    """Records of an owner: images of 0 to 9, no two alike."""
    random, made = np.random.default_rng(owner), np.zeros(RECORDS, schema.record_dtype)
    made["features"] = random.integers(0, 10, (RECORDS, 60))
    made["label"] = random.integers(0, 3, RECORDS)
    return made


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Four views of each record, which are a physical batch; dropout's masks differ between them."""
    job = VIEWED.format(microbatch=1, views=4)
    return compile_job(tmp_path_factory.mktemp("viewed"), job, IMAGES_SCHEMA)


def test_the_model_is_the_mechanism_to_the_bit_and_the_certificate_says_so(
    viewed: Compiled, settle: Callable[..., World]
) -> None:
    event = run_certified(viewed, settle(viewed, images))
    assert (event["views"], event["augment"]) == (4, AUGMENT)
    assert viewed.image.manifest["event"]["augment"] == AUGMENT
    said = CliRunner().invoke(app, ["inspect", str(viewed.image.path)])
    words = "of a record, the mean over 4 augmented views (flip, crop 2, reflected-crop 1)"
    assert words in " ".join(said.output.split())


def test_under_another_key_it_is_another_model(viewed: Compiled, settle: Callable[..., World]) -> None:
    """Each of the keys of views and of dropout matters: the equality above sees both."""
    world = settle(viewed, images)
    with Host(world, threads=2) as host:
        model = open_model(host.run()[1], world.researcher)
    keys = run_keys(world)
    assert is_the_model(viewed, model, replay(viewed, world, keys))
    for other in (replace(keys, augment=keys.dropout), replace(keys, dropout=keys.augment)):
        assert not is_the_model(viewed, model, replay(viewed, world, other))


def test_so_is_a_model_of_one_view_in_batches_of_several_records(
    tmp_path: Path, settle: Callable[..., World]
) -> None:
    """No last batch is full."""
    compiled = compile_job(tmp_path, VIEWED.format(microbatch=7, views=1), IMAGES_SCHEMA)
    event = run_certified(compiled, settle(compiled, images))
    assert (event["views"], event["augment"]) == (1, AUGMENT)
