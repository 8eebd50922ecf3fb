"""The enclave's released model, computed again bit for bit: what runs is the mechanism that is accounted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from compiled import Compiled
from reference import RunKeys, is_the_model, replay, run_keys
from typer.testing import CliRunner

from myelin.certificate import open_model
from myelin.cli.app import app
from myelin.contract import DataSchema
from myelin.errors import ProtocolError
from myelin.privacy.sampling import EMPTY
from world import Host, World, records_of


@pytest.fixture(scope="module")
def ran(replayed: Compiled, settle: Callable[[Compiled], World]) -> tuple[World, bytes, RunKeys]:
    """A run through loader, brokers and enclave, two threads; its model and the keys of its randomness."""
    world = settle(replayed)
    with Host(world, threads=2) as host:
        outputs = host.run()
    return world, open_model(outputs[1], world.researcher), run_keys(world)


def test_the_released_model_is_the_mechanism_to_the_bit(
    replayed: Compiled, ran: tuple[World, bytes, RunKeys]
) -> None:
    """Forty steps: sampler, truncation, clipping, accumulation, grid, noise, divisor, Adam."""
    world, model, keys = ran
    assert is_the_model(replayed, model, replay(replayed, world, keys))


def test_so_is_a_model_with_more_than_one_stream_of_noise(
    wide_two_steps: Compiled, settle: Callable[[Compiled], World]
) -> None:
    """Six parameters, eleven streams that begin and end elsewhere than parameters do; two steps of SGD."""
    world = settle(wide_two_steps)
    with Host(world, threads=2) as host:
        model = open_model(host.run()[1], world.researcher)
    assert is_the_model(wide_two_steps, model, replay(wide_two_steps, world, run_keys(world)))


def test_so_is_a_model_with_dropout(dropped: Compiled, settle: Callable[[Compiled], World]) -> None:
    """Every record's masks, by its index among all owners' records; under another key they are others."""
    world = settle(dropped)
    with Host(world, threads=2) as host:
        model = open_model(host.run()[1], world.researcher)
    keys = run_keys(world)
    assert is_the_model(dropped, model, replay(dropped, world, keys))
    other = replace(keys, dropout=keys.noise)
    assert not is_the_model(dropped, model, replay(dropped, world, other))


def test_so_is_a_regression_that_releases_an_average(
    regression: Compiled, settle: Callable[[Compiled], World]
) -> None:
    """Numeric labels normalised, Huber, AdamW on a schedule, and the average of ten steps given out."""
    world = settle(regression)
    with Host(world, threads=2) as host:
        model = open_model(host.run()[1], world.researcher)
    assert is_the_model(regression, model, replay(regression, world, run_keys(world)))
    said = CliRunner().invoke(app, ["inspect", str(regression.image.path)])
    assert said.exit_code == 0, said.output
    text = " ".join(said.output.split())
    assert "Huber(delta=0.3), AdamW(beta1=0.9, beta2=0.999, epsilon=1e-08, weight_decay=0.1, " in text
    assert "learning_rate=LinearWarmUp(then=CosineDecay(final=0, steps=9, initial=0.05), steps=3))" in text
    assert "released: ExponentialMovingAverage(decay=0.8) of the weights" in text
    assert "label 'dose': -3 to 17" in text


def test_a_number_out_of_its_range_is_refused_inside(
    regression: Compiled, settle: Callable[..., World]
) -> None:
    """An owner who seals by other means than `myelin seal` gets no further than the chunk with the record."""

    def spoiled(owner: int, schema: DataSchema) -> np.ndarray:
        records = records_of(owner, schema)
        records["label"][7] = np.nan
        return records

    with Host(settle(regression, spoiled)) as host, pytest.raises(ProtocolError, match="data_record_invalid"):
        host.run()


def test_steps_were_truncated(replayed: Compiled, ran: tuple[World, bytes, RunKeys]) -> None:
    """What is equal above includes truncation: none of 40 steps over capacity has a chance of 1e-11."""
    world, _, keys = ran
    drawn = np.array(replay(replayed, world, keys).drawn)
    assert (drawn > replayed.plan.capacity).any()
    assert (drawn < replayed.plan.capacity).any()
    assert abs(drawn.mean() - 64) < 6 * 8 / np.sqrt(len(drawn))


def without_one(step: int, slots: np.ndarray) -> np.ndarray:
    """One record less in the first step, at its own slot."""
    return np.concatenate([[EMPTY], slots[1:]]).astype(np.uint32) if step == 1 else slots


def shifted(step: int, slots: np.ndarray) -> np.ndarray:
    """The record with the largest index less in every step, so that nobody else moves."""
    filled = int((slots != EMPTY).sum())
    return np.concatenate([slots[: filled - 1], np.full(len(slots) - filled + 1, EMPTY)]).astype(np.uint32)


@pytest.mark.parametrize("change", [without_one, shifted])
def test_one_record_more_or_less_is_another_model(
    replayed: Compiled, ran: tuple[World, bytes, RunKeys], change: Callable[[int, np.ndarray], np.ndarray]
) -> None:
    """The equality above is not vacuous: it sees one record of 64 in one step."""
    world, model, keys = ran
    assert not is_the_model(replayed, model, replay(replayed, world, keys, change))


@pytest.mark.parametrize("key", ["sampling", "noise"])
def test_other_keys_are_another_model(
    replayed: Compiled, ran: tuple[World, bytes, RunKeys], key: str
) -> None:
    world, model, keys = ran
    other = replace(keys, **{key: bytes(32)})
    assert not is_the_model(replayed, model, replay(replayed, world, other))


def test_a_resumed_run_is_the_same_run(replayed: Compiled, ran: tuple[World, bytes, RunKeys]) -> None:
    world, model, keys = ran
    with Host(world) as host:
        assert open_model(host.run("resume")[1], world.researcher) == model
    assert run_keys(world) == keys
