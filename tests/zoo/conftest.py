"""Puts the rooms whose oracle and doors are used here on the import path."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / room) for room in ("privacy", "model") if str(TESTS / room) not in sys.path]
