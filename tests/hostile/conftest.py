"""One image for all attacks, built once a session; a fresh world for each test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from myelin.image import build_job, read_manifest
from world import JOB, SCHEMA, World, make_world


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("image")
    (folder / "job.py").write_text(JOB.format(steps=6))
    (folder / "schema.toml").write_text(SCHEMA)
    return build_job(folder / "job.py", folder / "attacked.myelin", "x86-64-v3")


@pytest.fixture
def world(built: Any, tmp_path: Path) -> World:
    manifest = read_manifest(built.path)
    return make_world(tmp_path, built.path, manifest, built.measurement, built.plan_digest)
