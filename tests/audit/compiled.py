"""One job compiled twice from the same graph: to a real image, and to a program that runs in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myelin.graph import differentiate
from myelin.host import best_target
from myelin.image import BuiltImage, build_image, read_plan
from myelin.model import Job, load_job
from myelin.privacy import DpPlan, PrivateGraph, make_private
from myelin.schedule import NativeProgram, ScheduledModule, schedule
from world import SCHEMA

TARGET = best_target()


@dataclass(frozen=True)
class Compiled:
    """A job, what it was compiled to, and the image of it."""

    job: Job
    private: PrivateGraph
    scheduled: ScheduledModule
    image: BuiltImage

    @property
    def plan(self) -> DpPlan:
        plan: Any = self.job.plan
        assert isinstance(plan, DpPlan)
        return plan

    @property
    def lanes(self) -> int:
        """Lanes of the image, from its plan."""
        return int(read_plan(self.image.path)["lanes"])

    @property
    def sigma(self) -> float:
        """Standard deviation that the released gradient's noise must have, from the plan's own numbers."""
        sensitivity = self.private.sensitivity_e9 / 1e9
        return self.plan.noise_multiplier * sensitivity / self.plan.expected_batch_size

    def native(self) -> NativeProgram:
        """The kernels of the image, with its initial parameters, outside of it."""
        return NativeProgram(self.scheduled)


def compile_job(folder: Path, job: str, schema: str = SCHEMA) -> Compiled:
    """Write a job file and its schema, compile, link the image."""
    (folder / "job.py").write_text(job)
    (folder / "schema.toml").write_text(schema)
    loaded = load_job(folder / "job.py")
    private = make_private(differentiate(loaded), loaded.plan)
    scheduled = schedule(private, TARGET)
    image = build_image(scheduled, private, loaded, folder / "job.myelin", TARGET)
    return Compiled(loaded, private, scheduled, image)


def tensors_of(model: bytes, like: tuple[npt.NDArray[np.float32], ...]) -> list[npt.NDArray[np.float32]]:
    """The parameters in a released safetensors file, which holds them in order and nothing else."""
    start = 8 + int.from_bytes(model[:8], "little")
    values = np.frombuffer(model, "<f4", offset=start)
    assert values.size == sum(value.size for value in like)
    cuts = np.cumsum([value.size for value in like])[:-1]
    return [part.reshape(v.shape) for part, v in zip(np.split(values, cuts), like, strict=True)]
