"""The demo of three hospitals: breast-cancer biopsies, a small network, half a minute."""

from __future__ import annotations

from myelin.contract import DataSchema
from myelin.demo.datasets import breast_cancer, write_csv
from myelin.demo.jobs import job_folder
from myelin.demo.networks import perceptron
from myelin.demo.scenario import Scenario

__all__ = ["hospitals"]


def hospitals() -> Scenario:
    """Three hospitals with 152, 152 and 151 biopsies; 114 more are held out for the test."""
    folder = job_folder("01_hospitals")
    schema = DataSchema.load(folder / "schema.toml")
    return Scenario(
        title="Three hospitals, one model",
        name="hospitals",
        job=folder / "job.py",
        schema_file=folder / "schema.toml",
        schema=schema,
        owners=("north", "south", "west"),
        split=breast_cancer(),
        data_suffix=".csv",
        write_data=lambda path, split, rows: write_csv(path, split, rows, schema.label.column),
        network=perceptron,
        budget_epsilon=4.0,
        budget_delta=1e-5,
        plain_epochs=60,
        plain_learning_rate=0.05,
    )
