"""Whole private steps of the demos: draw, gather, forward, backward, norms, clip, sum, noise, update."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memcheck import compile_job, needs_valgrind, run_steps, set_oblivious
from small_zoo import SMALL
from zoo_jobs import small

from myelin.model.loading import load_job

ROOT = Path(__file__).resolve().parents[2]

pytestmark = needs_valgrind


def demo(name: str, **plan: Any) -> Any:
    """A demo's job with fewer records and slots; the microbatch, which kernels are compiled for, stays."""
    job = load_job(ROOT / "examples" / name / "job.py")
    return replace(job, plan=replace(job.plan, **plan))


def test_steps_of_the_hospitals_tell_nothing(tmp_path: Path) -> None:
    """Records brought to their slots; then read where they lie, where who was drawn is declared public."""
    job = replace(demo("01_hospitals", steps=5), oblivious_gather=True)
    compile_job(job, tmp_path)
    for oblivious in (True, False):
        set_oblivious(tmp_path, oblivious)
        reports = run_steps(job, tmp_path).reports
        assert not reports, "\n\n".join(reports)


def test_steps_of_mnist_tell_nothing(tmp_path: Path) -> None:
    job = demo("mnist", dataset_size=300, expected_batch_size=70, capacity=96, steps=5)
    job = replace(job, lanes=1, oblivious_gather=True)
    compile_job(job, tmp_path)
    reports = run_steps(job, tmp_path).reports
    assert not reports, "\n\n".join(reports)


@pytest.mark.sidechannel
def test_addresses_of_an_embedding_s_tokens_are_seen(tmp_path: Path) -> None:
    """What is known to leak is found, and nothing else is: that a kernel's address would be."""
    job = replace(small("transformer", SMALL["transformer"]), oblivious_tokens=False)
    kernels = compile_job(job, tmp_path)
    assert any("embedding_gather" in kernel for kernel in kernels)
    watched = run_steps(job, tmp_path)
    assert watched.reports
    assert all("embedding" in place for place in watched.places), watched.places
