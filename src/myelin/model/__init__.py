"""Room 1: a job as its author writes it. Model, loss, optimizer, DP plan and data schema, in one Python file.

Importing this package needs no compiler; only :mod:`myelin.model.nn` and
the doors for other frameworks' models, which a job file imports, need TVM.
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
    "from_onnx",
    "from_torch",
    "initial_values",
    "largest_rate",
    "load_job",
    "nn",
]


def __getattr__(name: str) -> Any:
    """Load what needs the compiler when it is first asked for."""
    if name == "nn":
        return import_module("myelin.model.nn")
    if name in ("from_onnx", "from_torch"):
        return getattr(import_module(f"myelin.model.{'onnx' if name == 'from_onnx' else 'pytorch'}"), name)
    raise AttributeError(f"module 'myelin.model' has no attribute {name!r}")
