"""What a built image is: small, checked, the same bytes everywhere; and what building says when it cannot."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import JOB, ROOT
from myelin.errors import BuildError
from myelin.image import BuiltImage, build_image, build_job, check_image, measure, read_manifest, read_plan
from myelin.image.assembly import Memory, generate_assembly
from myelin.image.check import check_kernels
from myelin.image.runtime import build_runtime, enclave_source, run_tool


def test_is_small_and_names_itself(built: BuiltImage) -> None:
    content = built.path.read_bytes()
    assert len(content) < 2_000_000
    assert built.measurement == measure(built.path) == hashlib.sha256(content).digest()
    check_image(built.path)
    manifest, plan = read_manifest(built.path), read_plan(built.path)
    assert manifest == built.manifest
    assert manifest["plan"] == built.plan_digest
    assert (manifest["name"], manifest["target"], manifest["simulated"]) == ("hospitals", "x86-64-v3", True)
    assert plan["kernels"] == len(manifest["graph"]["kernels"])
    assert plan["data"]["max_records"] == manifest["dp"]["dataset_size"] == 455
    assert len(built.layers) == 1 + 4


def test_holds_no_path_of_this_machine(built: BuiltImage) -> None:
    content = built.path.read_bytes()
    for path in (ROOT, Path.home(), Path("/tmp"), Path(sys.prefix)):
        assert os.fsencode(path) + b"/" not in content, path


def test_same_bytes_in_another_folder_with_another_hash_seed(built: BuiltImage, tmp_path: Path) -> None:
    job = tmp_path / "elsewhere" / "job.py"
    shutil.copytree(JOB.parent, job.parent)
    script = "import sys; from myelin.image import build_job; build_job(sys.argv[1], sys.argv[2])"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    subprocess.run(
        [sys.executable, "-c", script, job, tmp_path / "again.myelin"],
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert (tmp_path / "again.myelin").read_bytes() == built.path.read_bytes()


@pytest.mark.slow
def test_runtime_has_the_same_bytes_from_other_sources(built: BuiltImage, tmp_path: Path) -> None:
    source = tmp_path / "a checkout" / "enclave"
    shutil.copytree(enclave_source(), source, ignore=shutil.ignore_patterns("target"))
    here = build_runtime("x86-64-v3").library
    there = build_runtime("x86-64-v3", source=source).library
    assert there != here
    assert there.read_bytes() == here.read_bytes()


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for tool in ("cargo", "rustc", "cc", "ld"):
        with pytest.raises(BuildError, match=f"{tool} is not on the PATH; it is needed to link.*Install"):
            run_tool([tool], "link the image")


def test_a_failing_tool_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"ld failed to link the image \(exit code 1\):\n.*nowhere"):
        run_tool(["ld", "nowhere.o"], "link the image", tmp_path)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(BuildError, match=r"'x86-64-v2': expected .* x86-64-v3, x86-64-v3-vaes, x86-64-v4"):
        build_runtime("x86-64-v2")


def test_kernels_that_call_a_library_are_refused(tmp_path: Path) -> None:
    (tmp_path / "k.c").write_text("float expf(float); float k(float x) { return expf(x); }")
    run_tool(["cc", "-O1", "-c", "k.c"], "compile", tmp_path)
    with pytest.raises(BuildError, match="the kernels call expf, which no image has"):
        check_kernels((tmp_path / "k.o").read_bytes())


def test_a_kernel_name_cannot_carry_assembly() -> None:
    with pytest.raises(BuildError, match="expected a symbol name"):
        generate_assembly(['k\n.incbin "/etc/passwd"'], Memory(1, 1, 1))


def test_nothing_is_written_when_the_parts_do_not_fit(tmp_path: Path) -> None:
    from myelin.graph import differentiate
    from myelin.model import load_job
    from myelin.privacy import make_private
    from myelin.schedule import schedule

    job = load_job(JOB)
    private_graph = make_private(differentiate(job), job.plan)
    scheduled = schedule(private_graph, "x86-64-v3")
    out = tmp_path / "never.myelin"
    with pytest.raises(BuildError, match="scheduled for x86-64-v3"):
        build_image(scheduled, private_graph, job, out, "x86-64-v4")
    huge = dataclasses.replace(scheduled, lane_bytes=2 << 30)
    with pytest.raises(BuildError, match=r"arena 4,\d{3},\d{3},\d{3}, .*fit below 2 GiB. Use fewer lanes"):
        build_image(huge, private_graph, job, out, "x86-64-v3")
    assert not out.exists()
    with pytest.raises(BuildError, match="need 32 examples of 30 features"):
        other = dataclasses.replace(job, plan=dataclasses.replace(job.plan, microbatch=32))
        build_image(scheduled, private_graph, other, out, "x86-64-v3")


def test_a_folder_that_is_not_there_is_named(built: BuiltImage, tmp_path: Path) -> None:
    from myelin.errors import InputError

    with pytest.raises(InputError, match="cannot be written: No such file"):
        build_job(JOB, tmp_path / "none" / "x.myelin")
