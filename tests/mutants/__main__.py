"""Plants every bug of the list, one at a time, in a copy of the tree, and wants its tests to notice.

``make mutants``, or ``python tests/mutants [--list] [--only WORDS]… [--jobs N] [--fresh]``. What was found
out is kept in ``build/mutants`` for as long as no file of the tree changes: an interrupted run goes on where
it was. Ends with 1 if a bug survives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import queue
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bug import Bug
from planted import BUGS
from rich.console import Console
from rich.table import Table
from trial import ROOT, Outcome, TrialError, copy_tree, run_tests, try_bug

FOLDER = ROOT / "build" / "mutants"


def main(arguments: list[str] | None = None) -> int:
    """Run the list, or print it."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the bugs and end")
    parser.add_argument("--only", action="append", default=[], help="bugs with these words in name or file")
    parser.add_argument("--jobs", type=int, default=1, help="trees to work in at once (1)")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs found out")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=argparse.SUPPRESS)
    parser.add_argument("--unchecked", action="store_true", help="do not run the tests without a bug first")
    chosen = parser.parse_args(arguments)
    bugs = [bug for bug in BUGS if _is_wanted(bug, chosen.only)]
    console = Console(width=None if sys.stdout.isatty() else 150)
    if chosen.list:
        console.print(_listing(bugs))
        return 0
    if not bugs:
        console.print(f"no bug has {' or '.join(chosen.only)} in its name or file")
        return 2
    if chosen.fresh:
        shutil.rmtree(chosen.folder, ignore_errors=True)
    folder = chosen.folder.resolve()
    trees = [folder / f"tree-{number}" for number in range(max(1, chosen.jobs))]
    for tree in trees:
        tree.mkdir(parents=True, exist_ok=True)
        copy_tree(tree)
    found = Found(folder / "found.json", trees[0])
    left = [bug for bug in bugs if found.outcome(bug) is None]
    if left and not chosen.unchecked and not _pass_without(trees[0], left, console):
        return 1
    run_all(left, trees, found, console)
    outcomes = {bug.name: outcome for bug in bugs if (outcome := found.outcome(bug))}
    console.print(_table(bugs, outcomes))
    survivors = [name for name, outcome in outcomes.items() if not outcome.caught]
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    console.print(f"{len(bugs)} planted, {len(bugs) - len(survivors)} caught, {seconds:.0f} s in all")
    return 1 if survivors else 0


def _is_wanted(bug: Bug, words: list[str]) -> bool:
    return not words or any(word.lower() in f"{bug.name} {bug.file}".lower() for word in words)


class Found:
    """Outcomes so far, in a file: each counts for as long as the tree and the bug are what they were."""

    def __init__(self, path: Path, tree: Path) -> None:
        state = hashlib.sha256()
        for file in sorted(p for p in tree.rglob("*") if p.is_file() and _matters(p.relative_to(tree))):
            state.update(file.relative_to(tree).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
        self._path, self._tree = path, state.digest()
        self._kept: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}

    def _key(self, bug: Bug) -> str:
        return hashlib.sha256(self._tree + repr(bug).encode()).hexdigest()

    def outcome(self, bug: Bug) -> Outcome | None:
        """What became of ``bug``, if that is known."""
        kept = self._kept.get(self._key(bug))
        return Outcome(**kept) if kept else None

    def add(self, bug: Bug, outcome: Outcome) -> None:
        """Note an outcome, and keep it."""
        self._kept[self._key(bug)] = asdict(outcome)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._kept, indent=1), "utf-8")
        partial.replace(self._path)


def _matters(path: Path) -> bool:
    """Whether a file has a say in what tests find: neither what compilers leave, nor prose, nor the list."""
    built = {"target", "build", "__pycache__", ".cache", ".hypothesis"} & set(path.parts)
    return not built and path.parts[:2] != ("tests", "mutants") and path.suffix != ".md"


def _pass_without(tree: Path, bugs: list[Bug], console: Console) -> bool:
    """Whether the tests pass where nothing is planted: else their failing says nothing."""
    tests = sorted({test for bug in bugs for test in bug.tests})
    console.print(f"the {len(tests)} tests without a bug first")
    try:
        failed = run_tests(tree, tuple(tests))
    except TrialError as error:
        failed = [str(error)]
    if failed:
        console.print(f"[bold red]fail without any bug:[/] {'; '.join(failed)}")
    return not failed


def run_all(bugs: list[Bug], trees: list[Path], found: Found, console: Console) -> None:
    """Try every bug, as many at once as there are trees."""
    free: queue.Queue[Path] = queue.Queue()
    for tree in trees:
        free.put(tree)

    def run(bug: Bug) -> tuple[Bug, Outcome]:
        tree = free.get()
        try:
            return bug, try_bug(tree, bug)
        finally:
            free.put(tree)

    with ThreadPoolExecutor(len(trees)) as pool:
        waiting = [pool.submit(run, bug) for bug in bugs]
        try:
            for number, done in enumerate(as_completed(waiting), 1):
                bug, outcome = done.result()
                found.add(bug, outcome)
                word = "caught" if outcome.caught else "SURVIVED"
                line = f"{number}/{len(bugs)} {word} in {outcome.seconds:.0f} s: {bug.name} — {outcome.by}"
                console.print(line, markup=False, highlight=False)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def _listing(bugs: list[Bug]) -> Table:
    table = Table("bug", "file", "tests that must fail", "stands for", title=f"{len(bugs)} planted bugs")
    for bug in bugs:
        table.add_row(bug.name, bug.file, "\n".join(bug.tests), bug.field)
    return table


def _table(bugs: list[Bug], outcomes: dict[str, Outcome]) -> Table:
    table = Table("", "bug", "stands for", "caught by", "s", title="planted bugs")
    for bug in bugs:
        outcome = outcomes[bug.name]
        mark = "[green]✓[/]" if outcome.caught else "[bold red]survived[/]"
        table.add_row(mark, bug.name, bug.field, outcome.by.replace("[", "\\["), f"{outcome.seconds:.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
