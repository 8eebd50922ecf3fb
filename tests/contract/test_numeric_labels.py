"""Labels that are numbers, from CSV and ``.npz`` to the record's last four bytes."""

import numpy as np
import pytest

from myelin.contract import DataSchema, read_records
from myelin.errors import InputError

SCHEMA = DataSchema.model_validate(
    {
        "columns": [{"name": "x", "lower": -1.0, "upper": 1.0}],
        "label": {"column": "dose", "lower": 0.1, "upper": 20.0},
    }
)


def csv(tmp_path, cell):
    (tmp_path / "d.csv").write_text(f"dose,x\n3.25,0\n0.1,0.5\n20,1\n{cell},-1\n")
    return np.concatenate(list(read_records(tmp_path / "d.csv", SCHEMA)))


def npz(tmp_path, values):
    labels = np.array([3.25, 0.1, 20, *values])
    np.savez(tmp_path / "d.npz", features=np.zeros((len(labels), 1)), dose=labels)
    return np.concatenate(list(read_records(tmp_path / "d.npz", SCHEMA)))


@pytest.mark.parametrize("read", [lambda p: csv(p, "7e-1"), lambda p: npz(p, [0.7])])
def test_they_are_the_last_four_bytes_as_float32(tmp_path, read):
    block = read(tmp_path)
    assert block.dtype.itemsize == 8
    assert block["label"].dtype == np.dtype("<f4")
    assert np.frombuffer(block.tobytes(), "<f4")[1::2].tolist() == block["label"].tolist()
    assert block["label"].tolist() == pytest.approx([3.25, 0.1, 20, 0.7])
    # float32 of 0.1 is above 0.1; had it been below, the image would have refused the record.
    assert block["label"].astype(np.float64).min() >= 0.1


@pytest.mark.parametrize("cell", ["", "high", "nan", "inf", "0.0999", "20.01", "1_0"])
def test_a_cell_that_does_not_fit_is_named(tmp_path, cell):
    with pytest.raises(InputError, match=r"row 4, column 'dose': expected a number from 0\.1 to 20, got"):
        csv(tmp_path, cell)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 21.0])
def test_so_is_a_number_of_an_array(tmp_path, value):
    with pytest.raises(InputError, match=r"row 4, label: expected a number from 0\.1 to 20, got"):
        npz(tmp_path, [value])


def test_rounding_stays_inside_the_range(tmp_path):
    """0.7 and 0.3 as float32 are below and above themselves."""
    label = {"column": "dose", "lower": 0.3, "upper": float(np.float64(0.7))}
    schema = DataSchema.model_validate({**SCHEMA.model_dump(), "label": label})
    np.savez(tmp_path / "d.npz", features=np.zeros((2, 1)), dose=np.array([0.3, 0.7]))
    (block,) = read_records(tmp_path / "d.npz", schema)
    low, high = block["label"].astype(np.float64)
    assert 0.3 <= low < 0.3001
    assert 0.6999 < high <= 0.7
