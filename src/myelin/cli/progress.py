"""Progress bars and results, the same for every verb: people read stderr, programs stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

__all__ = ["Report", "bar", "console", "emit_json"]

console = Console(stderr=True, highlight=False)
"""Where people read: standard error, so that standard output stays a program's."""

Report = Callable[[int, int], None]


@contextmanager
def bar(title: str, shown: bool = True) -> Iterator[Report]:
    """A progress bar that is called with (done, total) and vanishes when its work is over."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def emit_json(values: Mapping[str, Any]) -> None:
    """One JSON object on standard output, on one line, keys as they stand."""
    json.dump(values, sys.stdout, default=_plain)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)
