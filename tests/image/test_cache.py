"""A kept image is taken only where building again would give the same bytes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from conftest import JOB
from myelin.graph import differentiate
from myelin.image import BuiltImage, build, build_job
from myelin.image.cache import MOST_IMAGES, ImageCache, cache_folder, image_key
from myelin.image.runtime import build_runtime
from myelin.model import load_job
from myelin.privacy import make_private


def test_nothing_changed_and_nothing_is_compiled(
    built: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    first = build_job(JOB, tmp_path / "first.myelin", cache=kept)
    monkeypatch.setattr(build, "build_image", None)
    again = build_job(JOB, tmp_path / "again.myelin", cache=kept)
    assert again == dataclasses.replace(first, path=again.path)
    assert again.measurement == built.measurement
    assert again.path.read_bytes() == built.path.read_bytes()


def test_whatever_the_bytes_depend_on_is_in_the_key() -> None:
    job = load_job(JOB)
    runtime = build_runtime("x86-64-v3")

    def key(job: object = job, target: str = "x86-64-v3", simulated: bool = True, **changed: object) -> str:
        private = make_private(differentiate(job), job.plan)  # type: ignore[arg-type,attr-defined]
        return image_key(dataclasses.replace(private, **changed), job, target, simulated, runtime)  # type: ignore[arg-type]

    keys = {
        key(),
        key(target="x86-64-v4"),
        key(simulated=False),
        key(sensitivity_e9=7),
        *(
            key(dataclasses.replace(job, **change))
            for change in (
                {"seed": job.seed + 1},
                {"name": "other"},
                {"lanes": 1},
                {"plan": dataclasses.replace(job.plan, steps=job.plan.steps + 1)},
                {"optimizer": dataclasses.replace(job.optimizer, learning_rate=0.123)},
                {"schema": job.schema.model_copy(update={"normalize": "unit"})},
            )
        ),
    }
    assert len(keys) == 10
    assert key() in keys


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "cache")
    assert cache.get("a") is None
    cache.put("a", b"image")
    assert cache.get("a") == b"image"
    for damaged in (b"", b"short", (cache.folder / "a").read_bytes() + b"!", bytes(32) + b"image"):
        (cache.folder / "a").write_bytes(damaged)
        assert cache.get("a") is None


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ImageCache(tmp_path / "file" / "cache")
    cache.put("a", b"image")
    assert cache.get("a") is None


def test_the_oldest_go_first(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    for number in range(MOST_IMAGES):
        cache.put(str(number), b"image")
        os.utime(tmp_path / str(number), (number, number))
    assert cache.get("0") == b"image"
    cache.put("new", b"image")
    assert cache.get("0") is not None
    assert cache.get("1") is None
    assert len(list(tmp_path.iterdir())) == MOST_IMAGES


def test_the_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "myelin" / "images"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "myelin" / "images"
