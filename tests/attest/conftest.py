"""Recorded evidence of real hardware, which is not part of this repository."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

EXAMPLES = int(os.environ.get("MYELIN_FUZZ_EXAMPLES") or settings().max_examples)
"""`make fuzz` gives more; tests marked `fuzz` name no number themselves. No example may take seconds."""
settings.register_profile("evidence", parent=settings(), max_examples=EXAMPLES, deadline=2000)
settings.load_profile("evidence")

DEFAULT = Path(__file__).resolve().parents[2].parent / "shared" / "evidence"


@pytest.fixture(scope="session")
def recorded() -> Callable[[str], bytes]:
    """Reads a recorded file by its name; skips the test where the folder is absent."""
    folder = Path(os.environ.get("MYELIN_EVIDENCE_DIR") or DEFAULT)
    if not (folder / "MANIFEST.tsv").is_file():
        pytest.skip(f"no recorded evidence in {folder}; set MYELIN_EVIDENCE_DIR to a folder that has it")
    return lambda name: (folder / name).read_bytes()
