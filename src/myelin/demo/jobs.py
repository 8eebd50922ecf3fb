"""Where the demos' job files are: in the examples of a source checkout, the one place that holds them."""

from __future__ import annotations

from pathlib import Path

from myelin.errors import InputError

__all__ = ["job_folder"]


def job_folder(name: str) -> Path:
    """The folder ``examples/NAME``; :class:`~myelin.errors.InputError` where there is no source checkout."""
    folder = Path(__file__).resolve().parents[3] / "examples" / name
    if not (folder / "job.py").is_file():
        raise InputError(
            f"the demo needs {folder}: run it from a source checkout, where the enclave's source is as well"
        )
    return folder
