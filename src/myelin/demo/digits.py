"""The demo of MNIST: all 60,000 training images among three owners, and a convolutional network."""

from __future__ import annotations

from pathlib import Path

from myelin.contract import DataSchema
from myelin.demo.datasets import mnist, write_npz
from myelin.demo.jobs import job_folder
from myelin.demo.networks import convolutional
from myelin.demo.scenario import Scenario

__all__ = ["digits"]


def digits(data: Path | None = None) -> Scenario:
    """Three owners with 20,000 images each. `data` as :func:`myelin.demo.datasets.mnist` takes it."""
    folder = job_folder("mnist")
    schema = DataSchema.load(folder / "schema.toml")
    return Scenario(
        title="MNIST among three owners",
        name="mnist",
        job=folder / "job.py",
        schema_file=folder / "schema.toml",
        schema=schema,
        owners=("east", "middle", "far"),
        split=mnist(data),
        data_suffix=".npz",
        write_data=lambda path, split, rows: write_npz(path, split, rows, schema.label.column),
        network=convolutional,
        budget_epsilon=3.0,
        budget_delta=1e-5,
        plain_epochs=3,
        plain_learning_rate=0.02,
    )
