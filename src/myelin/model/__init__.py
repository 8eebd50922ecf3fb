"""Room 1: a job as its author writes it. Model, loss, optimizer, DP plan and data schema, in one Python file.

Importing this package needs no compiler; only :mod:`myelin.model.nn`, which a job file imports, needs TVM.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .job import Job, Plan, Schema
from .learning_rate import Constant, CosineDecay, LearningRate, LinearWarmUp, StepDecay, largest_rate
from .loading import load_job
from .loss import BinaryCrossEntropy, CrossEntropy, Huber, Loss, MeanSquaredError, as_loss
from .optimizer import SGD, Adam, AdamW, DPAdamBC, ExponentialMovingAverage, Optimizer
from .parameters import initial_values

__all__ = [  # noqa: RUF022  (plain order)
    "Adam",
    "AdamW",
    "BinaryCrossEntropy",
    "Constant",
    "CosineDecay",
    "CrossEntropy",
    "DPAdamBC",
    "ExponentialMovingAverage",
    "Huber",
    "Job",
    "LearningRate",
    "LinearWarmUp",
    "Loss",
    "MeanSquaredError",
    "Optimizer",
    "Plan",
    "SGD",
    "Schema",
    "StepDecay",
    "as_loss",
    "initial_values",
    "largest_rate",
    "load_job",
    "nn",
]


def __getattr__(name: str) -> Any:
    """Load :mod:`myelin.model.nn` when it is first asked for."""
    if name == "nn":
        return import_module("myelin.model.nn")
    raise AttributeError(f"module 'myelin.model' has no attribute {name!r}")
