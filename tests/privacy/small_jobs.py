"""Small jobs, random data and the compiled step: what the tests of the private graph share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from myelin.graph import TrainingGraph, differentiate
from myelin.model import SGD, Job, nn
from myelin.privacy import DpPlan, PrivateGraph, make_private
from myelin.zoo import MnistCnn, Perceptron


class PaddedNet(nn.Module):
    """Grouped, strided, padded convolution, average pooling, a layer without bias."""

    def __init__(self) -> None:
        self.first = nn.Conv2D(2, 4, 3, stride=2, padding=1, groups=2)
        self.second = nn.Conv2D(4, 3, 2, bias=False)
        self.output = nn.Linear(18, 3)

    def forward(self, x: Any) -> Any:
        x = nn.avg_pool2d(nn.tanh(self.first(x)), 2, 1, padding=1)
        return self.output(nn.flatten(nn.max_pool2d(nn.relu(self.second(x)), 2, 1)))


class Tokens(nn.Module):
    """A linear layer on each of 5 positions, a residual connection, then one on all of them."""

    def __init__(self) -> None:
        self.token = nn.Linear(3, 3)
        self.output = nn.Linear(15, 2)

    def forward(self, x: Any) -> Any:
        return self.output(nn.flatten(nn.tanh(self.token(x)) * 0.5 + x))


CASES: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "logistic": (lambda: Perceptron([30, 2], "tanh"), (30,), 2),
    "hospitals tanh": (lambda: Perceptron([30, 32, 2], "tanh"), (30,), 2),
    "hospitals relu": (lambda: Perceptron([30, 32, 2], "relu"), (30,), 2),
    "mnist": (MnistCnn, (1, 28, 28), 10),
    "padded": (PaddedNet, (2, 7, 6), 3),
    "tokens": (Tokens, (5, 3), 2),
}


def plan(microbatch: int = 4, **changes: Any) -> DpPlan:
    values: dict[str, Any] = {
        "dataset_size": 1000,
        "expected_batch_size": microbatch,
        "capacity": 2 * microbatch,
        "microbatch": microbatch,
        "steps": 10,
        "noise_multiplier": 1.0,
        "clipping_norm": 1.0,
        "delta": 1e-5,
    }
    return DpPlan(**{**values, **changes})


def small_job(make: Any, shape: Sequence[int], classes: int, the_plan: DpPlan, optimizer: Any = None) -> Job:
    schema = SimpleNamespace(
        shape=tuple(shape), label=SimpleNamespace(classes=tuple(map(str, range(classes))))
    )
    return Job("small", make, "cross_entropy", optimizer or SGD(0.1), the_plan, schema, seed=1)


@dataclass(frozen=True)
class Built:
    """A job's graphs and its compiled functions."""

    job: Job
    graph: TrainingGraph
    private: PrivateGraph
    machine: Any

    def step(self, *arguments: npt.NDArray[Any]) -> tuple[list[npt.NDArray[Any]], Any, Any]:
        """``(features, labels, mask, *parameters)`` → sums, norms, contributing."""
        *sums, norms, contributing = self.call("step", *arguments)
        return sums, norms, contributing

    def call(self, name: str, *arguments: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        return [r.numpy() for r in self.machine[name](*[tvm.runtime.tensor(a) for a in arguments])]


def build(job: Job) -> Built:
    graph = differentiate(job)
    private = make_private(graph, job.plan)  # type: ignore[arg-type]
    machine = relax.VirtualMachine(relax.build(private.module, target="llvm"), tvm.cpu())
    return Built(job, graph, private, machine)


@lru_cache
def built_case(name: str, clipping_norm: float = 1.0) -> Built:
    """One of :data:`CASES`, for microbatches of 5."""
    return build(small_job(*CASES[name], plan(5, clipping_norm=clipping_norm)))


def draw(
    job: Job, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Features in [-1, 1], labels, a mask of ones."""
    random, batch = np.random.default_rng(seed), job.plan.microbatch
    x = random.uniform(-1, 1, (batch, *job.schema.shape)).astype(np.float32)
    labels = random.integers(0, len(job.schema.label.classes), batch).astype(np.int32)
    return x, labels, np.ones(batch, np.float32)
