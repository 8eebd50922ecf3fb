"""The same model without privacy, for comparison: the same kernels, no clipping, no noise, data in the clear.

Run as ``python -m myelin.demo.baseline JOB DATA EPOCHS LEARNING_RATE OUT``, a process of its own, so that
nothing of it touches the private run.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from myelin.model import SGD, Job, load_job

__all__ = ["train_without_privacy"]

NO_CLIPPING = 1e9
"""A clipping norm that no gradient reaches."""


def train_without_privacy(
    job: Job,
    features: NDArray[np.float32],
    labels: NDArray[np.int32],
    epochs: int,
    learning_rate: float,
) -> dict[str, NDArray[np.float32]]:
    """Parameters by name after plain minibatch SGD on shuffled data (features as the model sees them)."""
    from myelin.graph import differentiate
    from myelin.privacy import make_private
    from myelin.schedule import NativeProgram, schedule

    plan = dataclasses.replace(job.plan, clipping_norm=NO_CLIPPING)  # type: ignore[type-var]
    plain = dataclasses.replace(job, plan=plan, optimizer=SGD(learning_rate, momentum=0.9))
    program = NativeProgram(schedule(make_private(differentiate(plain), plan), "x86-64-v3"))
    batch, random = plan.microbatch, np.random.default_rng(job.seed)
    step, values = 0, [np.asarray(v) for v in program.scheduled.parameter_values]
    mask = np.ones(batch, np.float32)
    for _ in range(epochs):
        order = random.permutation(len(labels))
        for start in range(0, len(order) - batch + 1, batch):
            rows = order[start : start + batch]
            sums, _, _ = program.run_step(features[rows], labels[rows], mask)
            step += 1
            values = program.run_update(step, [s / np.float32(batch) for s in sums])
    names = [role.name for role in program.scheduled.roles.parameters]
    return dict(zip(names, values, strict=True))


def main() -> None:
    """Train on the arrays of an ``.npz`` and write the parameters to another."""
    job_file, data, epochs, learning_rate, out = sys.argv[1:6]
    with np.load(data, allow_pickle=False) as arrays:
        features, labels = arrays["features"], arrays["labels"]
    job = load_job(Path(job_file))
    parameters = train_without_privacy(job, features, labels, int(epochs), float(learning_rate))
    np.savez(out, **parameters)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
