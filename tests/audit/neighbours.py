"""A compiled step and records for it: what a test of neighbouring datasets is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from compiled import TARGET

from myelin.graph import differentiate
from myelin.model import SGD, Job
from myelin.privacy import DpPlan, PrivateGraph, make_private
from myelin.privacy.dropout import draw_masks
from myelin.privacy.noise import grid
from myelin.schedule import NativeProgram, schedule

CLASSES = 3
EMPTY = -1
DROPOUT_KEY = bytes(range(64, 96))

# Nothing divides anything: 59 slots, five physical batches of 13, vectors of 8.
PLAN = DpPlan(
    dataset_size=1000,
    expected_batch_size=50,
    capacity=59,
    microbatch=13,
    steps=1,
    noise_multiplier=1.0,
    clipping_norm=0.3,
    delta=1e-5,
)


@dataclass(frozen=True)
class Case:
    """A compiled step, and data for it."""

    plan: DpPlan
    private: PrivateGraph
    native: NativeProgram
    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]

    @property
    def sensitivity(self) -> float:
        return self.private.sensitivity_e9 / 1e9

    @property
    def unit(self) -> float:
        return grid(self.plan.noise_multiplier_e9, self.private.sensitivity_e9)

    def total(
        self, slots: Sequence[int], parameters: list[npt.NDArray[np.float32]], step: int = 1
    ) -> npt.NDArray[np.float64]:
        """The sum over the records in `slots`, in units of the grid."""
        return np.rint(self.sums(slots, parameters, step) * (1 / self.unit))

    def sums(
        self, slots: Sequence[int], parameters: list[npt.NDArray[np.float32]], step: int = 1
    ) -> npt.NDArray[np.float64]:
        """The clipped sum of a logical batch, as the enclave adds it up before noise."""
        size = self.plan.microbatch
        padded = np.full(size * self.plan.physical_batches, EMPTY)
        padded[: len(slots)] = slots
        sums = np.zeros(self.private.parameter_count)
        for part in padded.reshape(-1, size):
            real = part != EMPTY
            features = self.features[np.where(real, part, 0)].copy()
            features[~real] = 0
            labels = np.where(real, self.labels[part], 0).astype(np.int32)
            masks = draw_masks(DROPOUT_KEY, step, part.astype(np.uint32), self.native.dropout)
            parts, _, _ = self.native.run_step(features, labels, real.astype(np.float32), parameters, masks)
            sums += np.concatenate([p.astype(np.float64).ravel() for p in parts])
        assert np.isfinite(sums).all()
        return sums

    def moved(self, a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
        return float(np.linalg.norm(a - b)) * self.unit


def compile_case(
    network: Callable[[], Any],
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    plan: DpPlan = PLAN,
) -> Case:
    """Compile the private step of a network for records like these."""
    schema = SimpleNamespace(
        shape=features.shape[1:], label=SimpleNamespace(classes=tuple("abcdefgh"[:CLASSES]))
    )
    job = Job("neighbours", network, "cross_entropy", SGD(0.1), plan, schema, seed=3)
    private = make_private(differentiate(job), plan)
    return Case(plan, private, NativeProgram(schedule(private, TARGET)), features, labels)
