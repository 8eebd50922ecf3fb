"""A workload's forward pass in this process, compiled here, its kernels run by the TVM runtime's threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from myelin.graph import differentiate
from myelin.schedule import InferenceProgram, schedule_inference

from .myelin_build import TARGET, job_of
from .workloads import Workload


def open_inference(workload: Workload, batch: int) -> tuple[Callable[[], None], int]:
    """Compile for one batch size; a function that runs one batch, and the number of parameters."""
    job = job_of(workload, "plain")
    plan = replace(
        job.plan, microbatch=batch, capacity=max(batch, workload.batch), expected_batch_size=workload.batch
    )
    graph = differentiate(replace(job, plan=plan))
    program = InferenceProgram(schedule_inference(graph, TARGET))
    features = np.random.default_rng(7).uniform(0, 1, (batch, *workload.shape)).astype(np.float32)

    def step() -> None:
        program.run(features)

    return step, sum(value.size for value in graph.parameter_values)
