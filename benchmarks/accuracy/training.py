"""Private training in this process: the image's kernels, sampler, noise and accountant, out of an enclave.

Sampler and noise are the enclave's, bit for bit (:mod:`myelin.privacy.sampling` and ``noise``). Their keys
come from the seed of a run, so a run can be repeated, and protects nothing: the data are public.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myelin.demo.baseline import train_without_privacy
from myelin.graph import differentiate
from myelin.host import best_target
from myelin.model import Job
from myelin.privacy import DpPlan, epsilon, make_private
from myelin.privacy.noise import CHUNK_COORDINATES, fill, grid
from myelin.privacy.sampling import EMPTY, draw
from myelin.schedule import InferenceProgram, NativeProgram, schedule, schedule_inference

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Data:
    """Examples as the model sees them, and their classes."""

    features: Array
    labels: Array
    test_features: Array
    test_labels: Array


@dataclass(frozen=True)
class Outcome:
    """What one run gave."""

    accuracy: float
    seconds: float
    epsilon: float | None = None


class PrivateRuns:
    """One job, compiled once; each seed is a run with its own initial values, sample and noise."""

    def __init__(self, job: Job) -> None:
        plan = job.plan
        assert isinstance(plan, DpPlan)
        self.job, self.plan = job, plan
        graph = differentiate(job)
        private = make_private(graph, plan)
        self.scheduled = schedule(private, best_target())
        self.forward = schedule_inference(graph, best_target())
        self.sensitivity_e9 = private.sensitivity_e9
        self.parameters = private.parameter_count
        self.epsilon = epsilon(plan.event(private.parameter_count, private.sensitivity_e9), plan.delta)

    def run(self, data: Data, seed: int) -> Outcome:
        """Train with one seed, and measure on the test examples."""
        start, plan, program = time.process_time(), self.plan, NativeProgram(self.scheduled)
        values = differentiate(dataclasses.replace(self.job, seed=seed)).parameter_values
        shapes, cuts = [v.shape for v in values], np.cumsum([v.size for v in values])[:-1]
        unit = grid(plan.noise_multiplier_e9, self.sensitivity_e9)
        keys = [
            hashlib.sha256(f"{self.job.name} {use} {seed}".encode()).digest() for use in ("draw", "noise")
        ]
        first: Sequence[Array] | None = values
        for step in range(1, plan.steps + 1):
            slots, _ = draw(keys[0], step, len(data.labels), plan.sampling_threshold, plan.capacity)
            sums = np.zeros(self.parameters)
            for part in physical_batches(slots, plan.microbatch):
                real = part != EMPTY
                rows = np.where(real, part, 0)
                x, y = data.features[rows] * _like(real, data.features), data.labels[rows] * real
                found, _, _ = program.run_step(x, y.astype(np.int32), real.astype(np.float32), first)
                first = None
                sums += np.concatenate([f.astype(np.float64).ravel() for f in found])
            units = np.rint(sums * (1 / unit)) + self.noise(keys[1], step)
            noisy = (units * (unit / plan.expected_batch_size)).astype(np.float32)
            parts = np.split(noisy, cuts)
            program.run_update(step, [p.reshape(s) for p, s in zip(parts, shapes, strict=True)])
        accuracy = self.accuracy(program.released(), data)
        return Outcome(accuracy, time.process_time() - start, self.epsilon)

    def noise(self, key: bytes, step: int) -> Array:
        """One draw for each coordinate; each parameter starts with a stream of its own."""
        drawn, first = [], 0
        for value in self.scheduled.parameter_values:
            drawn.append(fill(key, step, first, value.size))
            first += -(-value.size // CHUNK_COORDINATES) * CHUNK_COORDINATES
        return np.concatenate(drawn)

    def accuracy(self, values: Sequence[Array], data: Data) -> float:
        """Share of test examples whose largest logit is their class's."""
        program, size = InferenceProgram(self.forward, list(values)), self.plan.microbatch
        right = 0
        for start in range(0, len(data.test_labels), size):
            x = data.test_features[start : start + size]
            padded = np.zeros((size, *x.shape[1:]), np.float32)
            padded[: len(x)] = x
            found = program.run(padded)[: len(x)].argmax(1)
            right += int((found == data.test_labels[start : start + size]).sum())
        return right / len(data.test_labels)

    def run_plain(self, data: Data, seed: int, epochs: int, learning_rate: float, batch: int) -> Outcome:
        """The same model without privacy: SGD with momentum over shuffled batches, the same kernels."""
        start = time.process_time()
        plan = dataclasses.replace(self.plan, microbatch=batch, capacity=max(batch, self.plan.capacity))
        job = dataclasses.replace(self.job, plan=plan, seed=seed, average=None)
        trained = train_without_privacy(
            job, data.features, data.labels.astype(np.int32), epochs, learning_rate
        )
        values = [trained[role.name] for role in self.scheduled.roles.parameters]
        return Outcome(self.accuracy(values, data), time.process_time() - start)


def physical_batches(slots: npt.NDArray[np.uint32], size: int) -> list[npt.NDArray[np.uint32]]:
    """The slots of one step in physical batches, without those that are all empty: nothing is hidden here."""
    count = -(-len(slots) // size)
    padded = np.full(count * size, EMPTY, np.uint32)
    padded[: len(slots)] = slots
    return [part for part in padded.reshape(count, size) if part[0] != EMPTY]


def _like(real: Array, features: Array) -> Array:
    return real.astype(np.float32).reshape(-1, *([1] * (features.ndim - 1)))
