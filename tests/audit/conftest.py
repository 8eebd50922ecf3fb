"""Two images, each built once: one for looking at the noise, one for computing a run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tvm")

from compiled import Compiled, compile_job

from world import World, make_world

WIDE = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import SGD, Job, nn
from myelin.privacy import DpPlan

class Net(nn.Module):
    def __init__(self):
        self.first = nn.Linear(4, 200)
        self.second = nn.Linear(200, 200)
        self.third = nn.Linear(200, 3)

    def forward(self, features):
        return self.third(nn.tanh(self.second(nn.tanh(self.first(features)))))

job = Job(
    name="wide", model=lambda: Net(), loss="cross_entropy", optimizer=SGD(1.0),
    plan=DpPlan(dataset_size=8000, expected_batch_size=2, capacity=4, microbatch=2, steps={steps},
                noise_multiplier=1.5, clipping_norm=1.0, delta=1e-5),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""

REPLAYED = """
from pathlib import Path
from myelin.contract import DataSchema
from myelin.model import Adam, Job, nn
from myelin.privacy import DpPlan

class Net(nn.Module):
    def __init__(self):
        self.hidden = nn.Linear(4, 19)
        self.output = nn.Linear(19, 3)

    def forward(self, features):
        return self.output(nn.relu(self.hidden(features)))

# Every other step draws more than it has slots for, and the last physical batch is never full.
job = Job(
    name="replayed", model=lambda: Net(), loss="cross_entropy", optimizer=Adam(0.01),
    plan=DpPlan(dataset_size=8000, expected_batch_size=64, capacity=64, microbatch=13, steps=40,
                noise_multiplier=8.0, clipping_norm=0.7, delta=1e-5),
    schema=DataSchema.load(Path(__file__).with_name("schema.toml")),
)
"""


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
def settle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Compiled], World]:
    """Makes a world of owners, brokers and a signed contract around an image."""

    def world_of(compiled: Compiled) -> World:
        built = compiled.image
        folder = Path(tmp_path_factory.mktemp("world"))
        return make_world(folder, built.path, built.manifest, built.measurement, built.plan_digest)

    return world_of
