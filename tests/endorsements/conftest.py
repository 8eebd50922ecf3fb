"""The vendors of the attestation tests, and a server that speaks their services' interfaces."""

import os
import sys
from pathlib import Path

import pytest

ATTEST = Path(__file__).resolve().parents[1] / "attest"
sys.path.insert(0, str(ATTEST))

from standin import StandIn  # noqa: E402


@pytest.fixture(scope="session")
def standin_session():
    with StandIn() as server:
        yield server


@pytest.fixture
def standin(standin_session):
    """The server, with nothing to say yet."""
    standin_session.forget()
    return standin_session


@pytest.fixture(scope="session")
def recorded():
    """Reads a recorded file by its name; skips the test where the folder is absent."""
    usual = ATTEST.parents[1].parent / "shared" / "evidence"
    folder = Path(os.environ.get("MYELIN_EVIDENCE_DIR") or usual)
    if not (folder / "MANIFEST.tsv").is_file():
        pytest.skip(f"no recorded evidence in {folder}; set MYELIN_EVIDENCE_DIR to a folder that has it")
    return lambda name: (folder / name).read_bytes()
