"""One planted bug: put in its place in a copy of the tree, its tests run there, the place put right again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from bug import Bug

ROOT = Path(__file__).resolve().parents[2]
LOADER = ROOT / "build" / "loader" / "release" / "myelin-loader"
"""Bugs in its sources are for its own tests, so a copy need not compile the program again."""

TIMEOUT_S = 1800
_ASSERTED = re.compile(r"(AssertionError|assert\b|Failed: |ExceptionGroup|Hypothesis|myelin\.errors\.)")
"""How the message of a test begins that failed because a promise was broken, not because the tree was."""


@dataclass(frozen=True)
class Outcome:
    """What became of a bug.

    Attributes:
        caught: whether every one of its tests failed on an assertion.
        by: tests that did, or why it counts as not caught.
        seconds: that it took.
    """

    caught: bool
    by: str
    seconds: float


def copy_tree(to: Path) -> None:
    """Copy what git tracks, or would, to ``to``, and what cargo has compiled of other people's crates.

    What is there already and the same keeps its times, by which cargo tells what to compile again.
    """
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = {name for name in names if (ROOT / name).is_file()}
    for path in [p for p in to.rglob("*") if p.is_file() and not _built(p.relative_to(to))]:
        if path.relative_to(to).as_posix() not in wanted:
            path.unlink()
    for name in sorted(wanted):
        source, target = ROOT / name, to / name
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        shutil.copymode(source, target)
    for workspace in ("enclave", "loader"):
        compiled, own = ROOT / workspace / "target", to / workspace / "target"
        if compiled.is_dir() and not own.exists():
            # With its times: cargo takes what other crates were compiled to, and compiles the workspace anew.
            shutil.copytree(compiled, own, ignore=shutil.ignore_patterns("tmp", "incremental"))


def _built(path: Path) -> bool:
    """What tests and compilers leave in a copy."""
    return bool({"target", "build", "__pycache__"} & set(path.parts)) or path.parts[0] == ".cache"


def try_bug(tree: Path, bug: Bug) -> Outcome:
    """Plant ``bug`` in ``tree``, a copy; run its tests; put the file right again, whatever happens."""
    path, started = tree / bug.file, time.monotonic()
    source = path.read_text("utf-8")
    if (count := source.count(bug.original)) != 1:
        return Outcome(False, f"its text occurs {count} times in {bug.file}", 0.0)
    path.write_text(source.replace(bug.original, bug.planted), "utf-8")
    try:
        failed = run_tests(tree, bug.tests)
    except TrialError as error:
        return Outcome(False, str(error), time.monotonic() - started)
    finally:
        path.write_text(source, "utf-8")
    missing = [test for test in bug.tests if not any(_is_of(name, test) for name in failed)]
    seconds = time.monotonic() - started
    if missing:
        return Outcome(False, f"passed: {', '.join(missing)}", seconds)
    return Outcome(
        True, ", ".join(failed[:2]) + (f" and {len(failed) - 2} more" if failed[2:] else ""), seconds
    )


def is_cargos(test: str) -> bool:
    """Whether a test is run by cargo: of a crate of the enclave, or of the loader."""
    return test.startswith("enclave/") or test.partition("::")[0] == "loader"


class TrialError(Exception):
    """Tests could not be run, or failed for another reason than an assertion."""


def _is_of(name: str, test: str) -> bool:
    """Whether a failed test is (one of) the tests named."""
    if is_cargos(test):
        crate, _, part = test.removeprefix("enclave/").partition("::")
        return name.startswith(f"{crate}: ") and part in name
    return name == test or name.startswith((f"{test}::", f"{test}["))


def run_tests(tree: Path, tests: tuple[str, ...]) -> list[str]:
    """Names of the tests that failed on an assertion.

    Raises:
        TrialError: a test ended any other way, or nothing could be run.
    """
    failed = []
    for test in tests:
        if is_cargos(test):
            failed += _run_cargo(tree, test)
    if python := [test for test in tests if not is_cargos(test)]:
        failed += _run_pytest(tree, python)
    return failed


def _environment(tree: Path, **more: str) -> dict[str, str]:
    """Without what this process has of pytest or another target folder; caches are the copy's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "CARGO_", "MYELIN_"))}
    for name in ("CARGO_HOME", "CARGO_BUILD_JOBS"):
        if name in os.environ:
            kept[name] = os.environ[name]
    if LOADER.is_file():
        kept["MYELIN_LOADER"] = str(LOADER)
    own = {
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(tree / ".cache"),
    }
    return kept | own | more


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run to its end; what takes too long is ended, and all that it started."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TrialError(f"not done after {TIMEOUT_S} s") from None
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _run_pytest(tree: Path, tests: list[str]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            "junit_family=xunit1",
        ]
        command += [f"--junitxml={report}", f"--basetemp={folder}/tests", *tests]
        if len(tests) == 1:
            command.insert(3, "-x")
        ran = _run(command, tree, _environment(tree))
        if not report.is_file():
            raise TrialError(f"pytest: {(ran.stdout + ran.stderr)[-300:].strip()}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = []
    for case in cases:
        for end in (*case.iter("failure"), *case.iter("error")):
            message = end.get("message", "")
            if end.tag == "error" or not _ASSERTED.match(message):
                raise TrialError(f"not an assertion in {case.get('name')}: {message[:200]}")
            failed.append(f"{case.get('file')}::{case.get('name')}")
    if not cases:
        raise TrialError(f"no test was run: {ran.stdout[-300:].strip()}")
    return failed


def _targets(crate: Path, part: str) -> list[str]:
    """The programs of a crate's tests that have one of this name: to compile the others would take longer."""
    named = re.compile(rf"\bfn \w*{part}")
    files = sorted(path for path in (crate / "tests").glob("*.rs") if named.search(path.read_text("utf-8")))
    targets = [word for path in files for word in ("--test", path.stem)]
    if any(named.search(path.read_text("utf-8")) for path in (crate / "src").rglob("*.rs")):
        targets.append("--lib" if (crate / "src" / "lib.rs").is_file() else "--bins")
    return targets if part and targets else ["--tests"]


def _run_cargo(tree: Path, test: str) -> list[str]:
    """Unoptimised where the bugs are, for that is compiled again and again; dependencies as ever."""
    crate, _, part = test.removeprefix("enclave/").partition("::")
    workspace = tree / ("loader" if crate == "loader" else "enclave")
    folder = workspace if crate == "loader" else workspace / crate
    command = ["cargo", "test", "--locked", *_targets(folder, part)]
    for manifest in sorted(workspace.glob("*/Cargo.toml")):
        if manifest.parent.name != "fuzz":
            command += ["--config", f"profile.dev.package.myelin-{manifest.parent.name}.opt-level=0"]
    command += ["-p", f"myelin-{crate}", "--", part]
    ran = _run(command, workspace, _environment(tree))
    if "test result: " not in ran.stdout:
        errors = [line for line in ran.stderr.splitlines() if line.startswith("error")]
        raise TrialError(f"cargo: {' '.join(errors)[:300]}")
    if not re.search(r"^test \S", ran.stdout, re.MULTILINE):
        raise TrialError(f"{test}: no test of that name")
    return [f"{crate}: {name}" for name in re.findall(r"^test (\S+) \.\.\. FAILED", ran.stdout, re.MULTILINE)]
