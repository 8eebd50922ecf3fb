"""The list of planted bugs is in order, and what runs it tells a caught bug from a survivor."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from bug import Bug
from planted import BUGS
from trial import ROOT, copy_tree, is_cargos, try_bug

QUICK = (
    "sampling rate of one over the number of batches",
    "another mechanism or relation passes as this one",
    "the accountant is fed another sigma",
    "an auditor's bound above what the theorem allows",
)
"""A few whose tests take a moment: that the runner itself does not rot. All of them: ``make mutants``."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_bug_has_one_place(bug: Bug) -> None:
    assert (ROOT / bug.file).read_text("utf-8").count(bug.original) == 1
    assert bug.original != bug.planted


def test_names_are_names_and_every_bug_stands_for_something() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert all(bug.field and bug.tests for bug in BUGS)


@pytest.mark.parametrize("test", sorted({test for bug in BUGS for test in bug.tests}))
def test_every_test_that_is_named_exists(test: str) -> None:
    place, _, name = test.partition("::")
    if is_cargos(test):
        sources = (p.read_text("utf-8") for p in (ROOT / place).rglob("*.rs"))
        assert any(re.search(rf"fn \w*{name}", source) for source in sources)
    elif name:
        assert f"def {name.partition('[')[0]}(" in (ROOT / place).read_text("utf-8")
    else:
        assert (ROOT / place).exists()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutants") / "tree"
    folder.mkdir()
    copy_tree(folder)
    return folder


def command() -> ModuleType:
    """``tests/mutants/__main__.py``, which pytest itself is the ``__main__`` of here."""
    path = Path(__file__).with_name("__main__.py")
    spec = importlib.util.spec_from_file_location("mutants_command", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["mutants_command"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_few_are_caught(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command itself; then again from what it kept, without running a test."""
    arguments = ["--unchecked", "--folder", str(tmp_path), *(w for name in QUICK for w in ("--only", name))]
    assert command().main(arguments) == 0
    assert f"{len(QUICK)} planted, {len(QUICK)} caught" in capsys.readouterr().out
    assert command().main(arguments) == 0
    assert "caught in" not in capsys.readouterr().out


HARMLESS = Bug(
    "nothing at all",
    "src/myelin/privacy/event.py",
    'TYPE: Final = "truncated-poisson-gaussian"',
    'TYPE: Final = "truncated-poisson-gaussian"  # the same',
    ("tests/privacy/test_event.py::test_goes_through_and_back",),
    "a test that cannot fail",
)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "passed: tests/privacy/test_event.py::test_goes_through_and_back"),
        ({"planted": "import nothing_of_that_name"}, "not an assertion"),
        ({"planted": "TYPE: Final = 1 / 0"}, "not an assertion"),
        ({"original": "import"}, "occurs"),
    ],
)
def test_what_is_not_caught_on_an_assertion_survives(tree: Path, changes: dict[str, str], why: str) -> None:
    bug = Bug(**{**vars(HARMLESS), **changes})
    before = (tree / bug.file).read_bytes()
    outcome = try_bug(tree, bug)
    assert not outcome.caught
    assert why in outcome.by
    assert (tree / bug.file).read_bytes() == before


def test_the_copy_is_no_link_to_the_tree(tree: Path) -> None:
    file = "src/myelin/privacy/event.py"
    assert (tree / file).read_bytes() == (ROOT / file).read_bytes()
    assert not (tree / file).samefile(ROOT / file)
