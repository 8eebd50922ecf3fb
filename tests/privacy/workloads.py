"""Small versions of the benchmark's six workloads, compiled as for the image, beside the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from small_jobs import plan, small_job

from myelin.graph import TrainingGraph, differentiate
from myelin.model import AdamW, Job, Optimizer
from myelin.privacy import PrivateGraph, make_plain, make_private
from myelin.privacy.oracle import ClippedSums, clipped_sums
from myelin.schedule import NativeProgram, schedule
from myelin.zoo import Lstm, MnistCnn, Perceptron, ResNet, Transformer, Vgg

MICROBATCH = 5
TARGET = "x86-64-v3"
"""The lower of the two targets: every machine that runs these tests has it."""

SMALL: dict[str, tuple[Callable[[], Any], tuple[int, ...], int, int]] = {
    "mnist_cnn": (MnistCnn, (1, 28, 28), 10, 0),
    "vgg9": (lambda: Vgg(((5, 4), (6, 3), (4, 5, 3)), 8, 7, 4), (3, 8, 8), 4, 0),
    "resnet20": (lambda: ResNet(1, 6, 3, 4), (3, 9, 8), 4, 0),
    "mlp": (lambda: Perceptron((13, 11, 9, 4)), (13,), 4, 0),
    "lstm": (lambda: Lstm(17, 5, 6, 3), (7,), 3, 17),
    "transformer": (lambda: Transformer(2, 12, 3, 20, 7, 19, 4, final_norm=True), (7,), 4, 19),
}
"""By name: model, features' shape, classes, vocabulary or 0. Odd sizes, so that every kernel has a rest."""


@dataclass(frozen=True)
class Compiled:
    """A small workload, and its private step; some of the examples are clipped, some are not."""

    job: Job
    graph: TrainingGraph
    private: PrivateGraph
    program: NativeProgram
    values: tuple[npt.NDArray[np.float32], ...]
    clipping_norm: float

    def oracle(self, x: Any, labels: Any, mask: Any) -> ClippedSums:
        forward = self.graph.module["forward"]
        return clipped_sums(forward, self.values, x, labels, mask, self.clipping_norm)


OPTIMIZER = AdamW(0.01, weight_decay=0.3)


@lru_cache
def traced(name: str, optimizer: Optimizer) -> tuple[Job, TrainingGraph]:
    make, shape, classes, _ = SMALL[name]
    job = small_job(make, shape, classes, plan(MICROBATCH), optimizer)
    return job, differentiate(job)


@lru_cache
def compiled(name: str, optimizer: Optimizer = OPTIMIZER) -> Compiled:
    """Parameters are the initial ones, moved, so that no bias is zero and no scale one."""
    job, graph = traced(name, optimizer)
    random = np.random.default_rng(11)
    values = tuple(v + random.normal(0, 0.1, v.shape).astype(np.float32) for v in graph.parameter_values)
    x, labels, _ = batch_of(name)
    norms = clipped_sums(graph.module["forward"], values, x, labels, np.ones(MICROBATCH), 1.0).norms
    clipping_norm = float(np.round(np.median(norms), 6))
    private = make_private(graph, plan(MICROBATCH, clipping_norm=clipping_norm))
    program = NativeProgram(schedule(private, TARGET))
    return Compiled(job, graph, private, program, values, clipping_norm)


@lru_cache
def compiled_plain(name: str) -> NativeProgram:
    """The same workload's step without privacy."""
    return NativeProgram(schedule(make_plain(traced(name, OPTIMIZER)[1]), TARGET))


def batch_of(name: str, seed: int = 0) -> tuple[Any, Any, Any]:
    """Features, labels, a mask that leaves out one row."""
    _, shape, classes, vocabulary = SMALL[name]
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, (MICROBATCH, *shape))
    if vocabulary:
        x = random.integers(0, vocabulary, (MICROBATCH, *shape))
    mask = np.ones(MICROBATCH, np.float32)
    mask[2] = 0
    return x.astype(np.float32), random.integers(0, classes, MICROBATCH).astype(np.int32), mask
