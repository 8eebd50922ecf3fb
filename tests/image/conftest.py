"""One image, that of the hospitals' example, built once for all tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from myelin.image import BuiltImage, build_job

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "examples" / "01_hospitals" / "job.py"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    return build_job(JOB, tmp_path_factory.mktemp("image") / "hospitals.myelin", "x86-64-v3")
