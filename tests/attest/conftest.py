"""Recorded evidence: real, from real hardware, in a folder of its own beside the repository."""

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parents[2].parent / "shared" / "evidence"


@pytest.fixture(scope="session")
def recorded():
    """Gives the bytes of a recorded file by its name; skips where the folder is absent."""
    folder = Path(os.environ.get("MYELIN_EVIDENCE_DIR", _DEFAULT))

    def read(name: str) -> bytes:
        path = folder / name
        if not path.is_file():
            pytest.skip(f"no recorded evidence: {name} is not in MYELIN_EVIDENCE_DIR ({folder})")
        return path.read_bytes()

    return read
