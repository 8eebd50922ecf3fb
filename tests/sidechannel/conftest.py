"""Puts the repository, for what benchmarks share, and the zoo's small models on the import path."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
for folder in (TESTS.parent, TESTS / "zoo", TESTS / "privacy"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
