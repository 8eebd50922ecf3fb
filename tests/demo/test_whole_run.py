"""Everything at once, as a newcomer sees it: the demo by its one command, and the example by its many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
KEYS = {
    "image",
    "contract",
    "certificate",
    "sealed_model",
    "model",
    "measurement",
    "epsilon",
    "delta",
    "accuracy",
    "accuracy_non_private",
    "seconds",
    "simulated",
}


def myelin(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "myelin"), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, object]:
    done = myelin("demo", "hospitals", "--workdir", folder / "run", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


def test_the_demo_gives_what_it_promises(result: dict[str, object], folder: Path) -> None:
    assert set(result) == KEYS
    for key in ("image", "contract", "certificate", "sealed_model", "model"):
        assert (folder / "run") in Path(str(result[key])).parents
        assert Path(str(result[key])).is_file()
    assert result["simulated"] is True
    assert result["delta"] == 1e-5
    assert 2.0 < float(str(result["epsilon"])) < 3.0
    assert float(str(result["accuracy"])) > 0.85
    assert float(str(result["accuracy_non_private"])) > 0.9


def test_a_simulated_certificate_is_refused_unless_allowed(result: dict[str, object], folder: Path) -> None:
    words = ["verify", result["certificate"], "--contract", result["contract"]]
    assert myelin(*words, cwd=folder).returncode == 1
    allowed = myelin(*words, "--allow-simulated", cwd=folder)
    assert allowed.returncode == 0
    assert "SIMULATED" in allowed.stderr


def test_only_the_recipient_opens_the_model(result: dict[str, object], folder: Path) -> None:
    for name, code in (("north", 1), ("researcher", 0)):
        key = folder / "run" / name / f"{name}.key"
        done = myelin("open", result["sealed_model"], "--key", key, "-o", folder / f"{name}.out", cwd=folder)
        assert done.returncode == code, done.stderr
        assert (folder / f"{name}.out").exists() == (code == 0)


def test_no_secret_is_where_others_can_read_it(result: dict[str, object], folder: Path) -> None:
    """What lies in the exchange is ciphertext, public or signed: no record, no parameter, no private key."""
    private = [(folder / "run" / name / f"{name}.key").read_text() for name in ("north", "researcher")]
    model = Path(str(result["model"])).read_bytes()
    rows = (folder / "run" / "north" / "records.csv").read_text().splitlines()
    needles = [line.split('"')[1].encode() for key in private for line in key.splitlines() if '"' in line][:4]
    needles += [model[-64:], rows[1][:40].encode()]
    for path in (folder / "run" / "exchange").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(len(n) > 20 and n in content for n in needles), path


def test_the_example_runs_as_it_is_written(folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    script = ROOT / "examples" / "01_hospitals" / "walk.sh"
    done = subprocess.run(
        ["bash", str(script), str(folder / "walk")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "held-out biopsies" in done.stdout
