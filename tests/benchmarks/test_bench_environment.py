"""What the peers' environment and the machine's facts are made of: stand-ins, and the register-only loop."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
from benchmarks.cases import describe_allocator, find_preload
from benchmarks.environment import LOCK, NO_DEVICE, make_stand_ins, needed

from benchmarks import machine


def compile_library(folder: Path, name: str, code: str, *options: str) -> Path:
    source = folder / "source.c"
    source.write_text(code)
    words = ["cc", "-shared", "-fPIC", str(source), "-o", str(folder / name), *options]
    subprocess.run(words, check=True)
    source.unlink()
    return folder / name


def library_and_user(folder: Path, name: str, function: str, version: str) -> tuple[Path, Path]:
    """A library with one function, under a symbol version if one is given, and another that calls it."""
    code = f"int {function}(int x) {{ return x; }}\n"
    script = folder / "map"
    script.write_text(f"{version} {{ global: {function}; }};")
    options = [f"-Wl,-soname,{name}"] + ([f"-Wl,--version-script={script}"] if version else [])
    library = compile_library(folder, name, code, *options)
    script.unlink()
    caller = f"extern int {function}(int x);\nint ask(int x) {{ return {function}(x); }}\n"
    # Every symbol is looked for at once, so one that is missing is found here and not at a call.
    user = compile_library(folder, "libuser.so", caller, str(library), "-Wl,-rpath,$ORIGIN", "-Wl,-z,now")
    return library, user


@pytest.mark.parametrize(
    ("name", "function", "version"),
    [("libcutiny.so.7", "cuAnswer", "libcutiny.so.7"), ("libnccl.so.2", "ncclAnswer", "")],
)
def test_a_library_loads_and_finds_no_device(tmp_path: Path, name: str, function: str, version: str) -> None:
    library, user = library_and_user(tmp_path, name, function, version)
    assert needed(user) == {name}
    library.unlink()
    assert make_stand_ins(tmp_path) == [name]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "libuser.so"])
    assert ctypes.CDLL(str(user)).ask(3) == NO_DEVICE


def test_libraries_that_are_there_are_left_alone(tmp_path: Path) -> None:
    library, _ = library_and_user(tmp_path, "libcutiny.so.7", "cuAnswer", "")
    before = library.read_bytes()
    assert make_stand_ins(tmp_path) == []
    assert library.read_bytes() == before


def test_the_lock_pins_every_peer_and_nothing_for_a_gpu() -> None:
    names = {line.split("==")[0] for line in LOCK.read_text().splitlines() if "==" in line}
    assert {"torch", "opacus", "jax", "jax-privacy", "onnxruntime", "matplotlib"} <= names
    assert not [name for name in names if name.startswith(("nvidia", "cuda", "triton"))]
    assert LOCK.read_text().count("--hash=sha256:") > len(names)


def test_facts_of_a_processor() -> None:
    text = "model name\t: Fast One\ncpu family\t: 25\nmodel\t\t: 17\nflags\t\t: fpu avx2 avx512f hypervisor\n"
    assert machine.cpu_facts(text * 2) == {
        "processor": "Fast One (family 25 model 17)",
        "vectors": "AVX-512",
        "virtual": True,
    }


def test_the_register_only_loop_is_one_of_fused_multiply_adds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "CACHE", tmp_path)
    rate = machine.fma_gflops(1, machine.cores(), seconds=0.02)
    # Any processor with fused multiply-adds does at least 2 GFLOP/s on one lane of one chain.
    assert rate > 2
    code = subprocess.run(
        ["objdump", "-d", tmp_path / "fma_rate"], capture_output=True, text=True, check=True
    )
    assert code.stdout.count("vfmadd") >= 12


def test_the_allocator_is_named() -> None:
    assert "C library's" in describe_allocator(None)
    assert "libtcmalloc.so.4" in describe_allocator(Path("/somewhere/libtcmalloc.so.4"))
    assert "/somewhere" not in describe_allocator(Path("/somewhere/libtcmalloc.so.4"))
    assert find_preload(folders=()) is None


def test_the_best_allocator_is_found_in_a_folder_of_libraries(tmp_path: Path) -> None:
    folder = tmp_path / "x86_64-linux-gnu"
    folder.mkdir()
    (tmp_path / "libtcmalloc.so.4").touch()
    assert find_preload((str(tmp_path),)) == tmp_path / "libtcmalloc.so.4"
    (folder / "libtcmalloc_minimal.so.4").touch()
    assert find_preload((str(tmp_path),)) == folder / "libtcmalloc_minimal.so.4"
