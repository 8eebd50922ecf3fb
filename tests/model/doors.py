"""A job around a model from elsewhere, and its compiled logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from myelin.contract import DataSchema
from myelin.graph import TrainingGraph, differentiate
from myelin.model import SGD, Job
from myelin.privacy import DpPlan, make_private
from myelin.schedule import InferenceProgram, NativeProgram, schedule, schedule_inference
from targets import WIDEST

BATCH = 4


def job(model: Callable[[], Any], shape: tuple[int, ...], classes: int, tokens: int = 0) -> Job:
    """A job with a physical batch of :data:`BATCH`."""
    schema = DataSchema.from_mapping(
        {
            "shape": list(shape),
            "lower": 0.0,
            "upper": float(tokens or 1),
            "normalize": "none" if tokens else "unit",
            "label": {"classes": [f"class {i}" for i in range(classes)]},
        }
    )
    plan = DpPlan(100, 8, 16, BATCH, 2, 1.0, 1.0, 1e-5)
    return Job("imported", model, "cross_entropy", SGD(0.1), plan, schema)


def features(shape: tuple[int, ...], tokens: int = 0) -> np.ndarray[Any, Any]:
    """Features of one physical batch."""
    values = np.random.default_rng(0).uniform(0, tokens or 1, (BATCH, *shape))
    return (np.floor(values) if tokens else values).astype(np.float32)


def logits(graph: TrainingGraph, x: np.ndarray[Any, Any], values: Any = None) -> np.ndarray[Any, Any]:
    """What the compiled model gives, with its initial values or others."""
    return np.asarray(InferenceProgram(schedule_inference(graph, WIDEST), values).run(x))


def graph_of(job: Job) -> TrainingGraph:
    """The job's training graph."""
    return differentiate(job)


def losses_of_training(made: Job, x: np.ndarray[Any, Any], classes: int) -> tuple[float, float]:
    """Cross-entropy of a batch before and after 20 private steps on it, compiled, without noise.

    Nothing is clipped, for clipped gradients may lead elsewhere.
    """
    plan = DpPlan(100, 8, 16, BATCH, 2, 1.0, 100.0, 1e-5)
    graph = differentiate(dataclasses.replace(made, plan=plan))
    private = make_private(graph, plan)
    program = NativeProgram(schedule(private, WIDEST))
    labels, ones = (np.arange(BATCH) % classes).astype(np.int32), np.ones(BATCH, np.float32)

    def loss(values: Any) -> float:
        found = np.asarray(InferenceProgram(module, values).run(x), np.float64)
        shifted = found - found.max(1, keepdims=True)
        return float(np.mean(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(BATCH), labels]))

    module, values = schedule_inference(graph, WIDEST), list(graph.parameter_values)
    before = loss(values)
    for number in range(1, 21):
        sums, norms, contributing = program.run_step(x, labels, ones)
        assert contributing.all()
        assert (norms < plan.clipping_norm).all()
        values = program.run_update(number, [total / BATCH for total in sums])
    return before, loss(values)
