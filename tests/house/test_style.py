"""The rules of the house that a machine can check: size, names, layout, and what no file may say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
RATCHET = tomllib.loads((Path(__file__).with_name("ratchet.toml")).read_text())
ROOT_ENTRIES = set(RATCHET["root_entries"])
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "stuff"}
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70


def tracked(*suffixes: str) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return sorted(
        ROOT / name for name in names if (not suffixes or name.endswith(suffixes)) and (ROOT / name).exists()
    )


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_root_holds_only_what_is_listed() -> None:
    found = {relative(path).split("/")[0] for path in tracked()}
    assert found <= ROOT_ENTRIES, f"not on the list of root entries: {sorted(found - ROOT_ENTRIES)}"


def test_files_are_short() -> None:
    long = {relative(p): len(p.read_text().splitlines()) for p in tracked(".py", ".rs")}
    allowed = RATCHET["file_lines"]
    over = {n: k for n, k in long.items() if k > allowed.get(n, FILE_LINES_MAX)}
    assert not over, f"split by noun (limit {FILE_LINES_MAX} lines, exceptions may only shrink): {over}"
    stale = {n for n in allowed if long.get(n, 0) <= FILE_LINES_MAX}
    assert not stale, f"no longer needed in ratchet.toml: {stale}"


def functions(tree: ast.AST) -> list[tuple[str, int]]:
    return [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_python_functions_are_short() -> None:
    allowed = RATCHET["function_lines"]
    over, seen = {}, {}
    for path in tracked(".py"):
        for name, length in functions(ast.parse(path.read_text())):
            key = f"{relative(path)}:{name}"
            seen[key] = max(length, seen.get(key, 0))
            if length > allowed.get(key, FUNCTION_LINES_MAX):
                over[key] = length
    assert not over, f"split (limit {FUNCTION_LINES_MAX} lines): {over}"
    stale = {n for n in allowed if seen.get(n, 0) <= FUNCTION_LINES_MAX}
    assert not stale, f"no longer needed in ratchet.toml: {stale}"


RUST_FN = re.compile(
    r"^(\s*)(?:pub(?:\([^)]*\))?\s+)?(?:const\s+)?(?:unsafe\s+)?(?:extern\s+\"[^\"]*\"\s+)?fn\s+(\w+)"
)


def rust_functions(text: str) -> list[tuple[str, int]]:
    found, lines = [], text.splitlines()
    for start, line in enumerate(lines):
        if match := RUST_FN.match(line):
            indent = match.group(1)
            for end in range(start, len(lines)):
                if lines[end].startswith(indent + "}") and not lines[end].startswith(indent + " "):
                    found.append((match.group(2), end - start + 1))
                    break
                if end == start and lines[end].rstrip().endswith(("}", ";")):
                    break
    return found


def test_rust_functions_are_short() -> None:
    over = {
        f"{relative(path)}:{name}": length
        for path in tracked(".rs")
        for name, length in rust_functions(path.read_text())
        if length > FUNCTION_LINES_MAX
    }
    assert not over, f"split (limit {FUNCTION_LINES_MAX} lines): {over}"


def test_no_drawer_modules() -> None:
    bad = [
        relative(p)
        for p in tracked(".py", ".rs")
        if {p.stem, *p.parent.relative_to(ROOT).parts} & BANNED_NAMES
    ]
    assert not bad, f"name the noun instead: {bad}"


@pytest.mark.parametrize(
    "package", sorted(p.parent for p in (ROOT / "src/myelin").glob("*/__init__.py")), ids=str
)
def test_packages_export_their_public_surface(package: Path) -> None:
    tree = ast.parse((package / "__init__.py").read_text())
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and "__all__"
        in [getattr(t, "id", "") for t in getattr(node, "targets", [getattr(node, "target", None)])]
    ]
    assert values, f"{relative(package)}/__init__.py has no __all__ (its order is the linter's)"


FORBIDDEN_TEXT = [
    (re.compile(r"/(?:work|root|home/\w+)/"), "a path of one machine"),
    (
        re.compile(r"\b(?:pypi\.org|pythonhosted|crates\.io|registry\.npmjs|proxy\.golang)\b"),
        "a package host",
    ),
    (re.compile(r"TO" r"DO|FIX" r"ME|X" r"XX"), "unfinished work"),
]


def test_no_file_says_what_it_must_not() -> None:
    bad = []
    for path in tracked(".py", ".rs", ".md", ".toml", ".ld", ".cddl", ".yml", ".sh"):
        if path == Path(__file__) or path.name == "Cargo.lock":
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            bad += [
                f"{relative(path)}:{number}: {why}" for pattern, why in FORBIDDEN_TEXT if pattern.search(line)
            ]
    assert not bad, "\n".join(bad)


def test_unsafe_rust_lives_in_its_places() -> None:
    allowed = tuple(RATCHET["unsafe_rust"])
    bad = []
    for path in tracked(".rs"):
        code = re.sub(r"//[^\n]*", "", path.read_text())
        if re.search(r"\bunsafe\b(?!_)", code) and not relative(path).startswith(allowed):
            bad.append(relative(path))
    assert not bad, f"unsafe outside {allowed}: {bad}"


ROOMS_WITHOUT_COMPILER = (
    "boot",
    "attest",
    "measure",
    "contract",
    "endorsements",
    "log",
    "broker",
    "certificate",
    "host",
    "train",
    "cli",
    "demo",
)


def test_only_the_compiler_rooms_import_tvm() -> None:
    bad = []
    for room in ROOMS_WITHOUT_COMPILER:
        for path in (ROOT / "src/myelin" / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                bad += [relative(path) for name in names if name.split(".")[0] == "tvm"]
    assert not bad


ROOMS = (
    "errors",
    "wire",
    "model",
    "zoo",
    "graph",
    "privacy",
    "schedule",
    "image",
    "boot",
    "attest",
    "measure",
    "contract",
    "endorsements",
    "log",
    "broker",
    "host",
    "train",
    "certificate",
    "demo",
    "cli",
)
"""In the order a value passes through them: a room imports only earlier ones."""

RUNS_COMMANDS = "src/myelin/demo/role.py"
"""A demo's party types commands, as a person would: the one import the other way."""


def imported_rooms(path: Path) -> set[str]:
    here = path.relative_to(ROOT / "src/myelin").parts
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            base = list(("myelin", *here[:-1])[: len(here) + 1 - node.level]) if node.level else []
            full = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{full}.{alias.name}" for alias in node.names] if full == "myelin" else [full]
        rooms |= {n.split(".")[1] for n in names if n.startswith("myelin.")}
    return rooms & set(ROOMS)


def test_a_room_imports_only_earlier_rooms() -> None:
    bad = []
    for path in sorted((ROOT / "src/myelin").rglob("*.py")):
        room = path.relative_to(ROOT / "src/myelin").parts[0].removesuffix(".py")
        if room == "__init__" or relative(path) == RUNS_COMMANDS:
            continue
        assert room in ROOMS, f"{relative(path)}: a room that the order does not know"
        later = {other for other in imported_rooms(path) if ROOMS.index(other) > ROOMS.index(room)}
        bad += [f"{relative(path)} imports {sorted(later)}"] if later else []
    assert not bad, "\n".join(bad)
