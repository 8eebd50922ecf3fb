"""Whole private steps of every model of the zoo: ``make sidechannel``."""

from __future__ import annotations

from pathlib import Path

import pytest
from memcheck import compile_job, needs_valgrind, run_steps
from small_zoo import SMALL
from zoo_jobs import small

pytestmark = [needs_valgrind, pytest.mark.sidechannel]


@pytest.mark.parametrize("name", SMALL)
def test_steps_tell_nothing(name: str, tmp_path: Path) -> None:
    job = small(name, SMALL[name])
    compile_job(job, tmp_path)
    reports = run_steps(job, tmp_path).reports
    assert not reports, "\n\n".join(reports)
