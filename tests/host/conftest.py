"""Images that only tests run, made with the C compiler, and the loader that runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "attest"))  # what makes vendors' evidence

from stand_in import stand_in_loader

from myelin.host import Enclave, find_loader, survey_backends
from myelin.host.backends import LOADER_BACKENDS
from myelin.image.sgx import make_key

SOURCES = Path(__file__).with_name("images")
FREESTANDING = [
    *("-O2", "-Wall", "-Wextra", "-Werror", "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector"),
    *("-fno-pic", "-no-pie", "-mno-red-zone", "-fcf-protection=none"),
    *("-Wl,--build-id=none", "-Wl,-z,norelro", f"-Wl,-T,{SOURCES / 'link.ld'}"),
]

STAND_IN = "sgx-stand-in"
"""SGX, where a stand-in of the tests takes the place of driver and processor."""

MakeImage = Callable[..., Path]


@pytest.fixture(scope="session")
def program() -> Path:
    """The loader itself, whatever the backend."""
    return find_loader()


@pytest.fixture(scope="session", params=(*LOADER_BACKENDS, STAND_IN))
def backend(request: pytest.FixtureRequest) -> str:
    """Every test of a running image is run on every backend that this machine has."""
    for there in survey_backends():
        if there.name == request.param and not there.available:
            pytest.skip(str(there))
    return str(request.param)


@pytest.fixture(scope="session")
def loader(backend: str, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The loader, with the backend of this round as its last word."""
    if backend == "process":
        return program
    script = tmp_path_factory.mktemp("loader") / f"loader-{backend}"
    if backend in ("sgx", STAND_IN):
        key = script.with_name("key.pem")
        key.write_bytes(make_key())
        inner = stand_in_loader() if backend == STAND_IN else program
        signing = Path(__file__).with_name("signed_loader.py")
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {signing} {inner} {key} "$@"\n')
        script.chmod(0o755)
        return script
    script.write_text(f'#!/bin/sh\nexec {program} "$@" --backend {backend}\n')
    script.chmod(0o755)
    return script


@pytest.fixture(scope="session")
def make_image(tmp_path_factory: pytest.TempPathFactory) -> MakeImage:
    folder = tmp_path_factory.mktemp("images")

    def make(**defines: str | int) -> Path:
        words = [
            f'-D{name}="{value}"' if isinstance(value, str) else f"-D{name}={value}"
            for name, value in defines.items()
        ]
        path = folder / ("-".join(str(value) for value in defines.values()) or "image")
        if not path.exists():
            command = [
                os.environ.get("CC", "cc"),
                *FREESTANDING,
                *words,
                "-o",
                str(path),
                str(SOURCES / "image.c"),
            ]
            subprocess.run(command, check=True)
        return path

    return make


@pytest.fixture(scope="session")
def image(make_image: MakeImage) -> Path:
    return make_image()


@pytest.fixture(scope="session")
def deny(tmp_path_factory: pytest.TempPathFactory, loader: Path) -> Callable[[int, list[int]], Path]:
    """A loader under which some system calls answer an error."""
    folder = tmp_path_factory.mktemp("deny")
    program = folder / "deny"
    subprocess.run(
        [os.environ.get("CC", "cc"), "-O1", "-o", str(program), str(SOURCES / "deny.c")], check=True
    )

    def denied(number: int, calls: list[int]) -> Path:
        listed = ",".join(map(str, calls))
        script = folder / f"loader-{number}-{listed}"
        script.write_text(f'#!/bin/sh\nexec {program} {number} {listed} {loader} "$@"\n')
        script.chmod(0o755)
        return script

    return denied


@pytest.fixture
def enclave(image: Path, loader: Path) -> Iterator[Enclave]:
    with Enclave.start(image, threads=2, loader=loader) as running:
        yield running
