"""Progress bars and results, the same for every verb: people read stderr, programs stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

__all__ = ["Report", "bar", "console", "emit_json", "plain"]


def _visible(text: str, kept: str = "") -> str:
    return "".join(c if c.isprintable() or c in kept else "\N{REPLACEMENT CHARACTER}" for c in text)


class _Terminal(Console):
    """Lets no control character through: a file or message of a stranger must not steer the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(_visible(text, "\n"), **options)


console: Console = _Terminal(stderr=True, highlight=False)
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


def plain(value: Any) -> Any:
    """What a stranger wrote, to be shown as it stands: on one line, its brackets no markup.

    Maps and lists are gone through; what is not text stays as it is.
    """
    if isinstance(value, str):
        return escape(_visible(value))
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def emit_json(values: Mapping[str, Any]) -> None:
    """One JSON object on standard output, on one line, keys as they stand."""
    json.dump(values, sys.stdout, default=_plain)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)
