"""Puts the tests of evidence on the import path: what is measured here is judged there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "attest"))
