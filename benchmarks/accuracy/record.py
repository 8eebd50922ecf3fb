"""What was run, in ``benchmarks/accuracy.json``: each finished run is there at once, and not run again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "accuracy.json"


def load(path: Path = RESULTS) -> list[dict[str, Any]]:
    """Every run, in the order in which they finished; none where there is no file."""
    return list(json.loads(path.read_text())["runs"]) if path.is_file() else []


def add(run: dict[str, Any], path: Path = RESULTS) -> None:
    """Put a run with the others; a reader, or a crash, sees the file as it was or as it is now."""
    text = json.dumps({"runs": [*load(path), run]}, indent=1) + "\n"
    beside = path.with_suffix(".part")
    beside.write_text(text)
    os.replace(beside, path)


def key(run: dict[str, Any]) -> tuple[str, str, float | None, int]:
    """What makes a run the same as another."""
    return run["task"], run["system"], run["target_epsilon"], run["seed"]
