"""``myelin measure --tee sgx`` and ``myelin sign-sgx``: from an image file to a reference value."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from myelin.attest import RealEvidence, load_measurements
from myelin.cli.app import run
from myelin.errors import InputError
from myelin.image import measure
from myelin.image.sgx import read_enclave, read_sigstruct
from myelin.measure import measure_sgx

sys.path.append(str(Path(__file__).resolve().parents[1] / "image" / "sgx"))

from elf_file import elf_file


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(elf_file())
    return path


def signed(image: Path, *words: str) -> Path:
    key = image.with_name("key.pem")
    make = () if key.exists() else ("--make-key",)
    assert run(["sign-sgx", str(image), "--key", str(key), *make, *words]) == 0
    return Path(f"{image}.sigstruct")


def test_a_reference_value_comes_from_the_image_alone(image: Path, tmp_path: Path) -> None:
    out = tmp_path / "reference.toml"
    assert run(["measure", "--tee", "sgx", str(image), "--policy", str(out)]) == 0
    (known,) = load_measurements(out)
    assert known.kind is RealEvidence.SGX
    assert known.registers == (("mrenclave", read_enclave(image).mrenclave),)
    assert known.image == measure(image)


def test_the_signer_comes_with_its_signature(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structure = signed(image, "--security-version", "4")
    assert image.with_name("key.pem").stat().st_mode & 0o777 == 0o600
    first = structure.read_bytes()
    assert signed(image, "--security-version", "4").read_bytes() == first
    out = tmp_path / "reference.toml"
    words = ["measure", "--tee", "sgx", str(image), "--sigstruct", str(structure)]
    assert run([*words, "--policy", str(out), "--security-version", "4"]) == 0
    (known,) = load_measurements(out)
    read = read_sigstruct(first)
    assert dict(known.registers) == {"mrenclave": read.mrenclave, "mrsigner": read.mrsigner}
    assert (known.minimum_security_version, read.security_version) == (4, 4)
    capsys.readouterr()
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["registers"]["mrsigner"] == read.mrsigner.hex()


def test_what_does_not_belong_together_is_refused(image: Path, tmp_path: Path) -> None:
    structure = read_sigstruct(signed(image).read_bytes())
    other = tmp_path / "other"
    other.write_bytes(elf_file(entry=0x1000_0020))
    with pytest.raises(InputError, match="sign the image again"):
        measure_sgx(other, structure)
    base = ["measure", "--tee", "sgx", str(image)]
    for wrong in (
        ["--security-version", "1", "--policy", str(tmp_path / "p")],
        ["--image", str(image), "--policy", str(tmp_path / "p")],
        ["--kernel", str(image)],
        ["--sigstruct", str(image)],
    ):
        assert run([*base, *wrong]) == InputError.exit_code
    assert run(["sign-sgx", str(image), "--key", str(tmp_path / "key.pem"), "--make-key"]) != 0
    assert run(["sign-sgx", str(image), "--key", str(image)]) != 0
