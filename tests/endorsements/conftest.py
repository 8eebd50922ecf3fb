"""The vendors of the attestation tests, and a server that speaks their services' interfaces."""

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
