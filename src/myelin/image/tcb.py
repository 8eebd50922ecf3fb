"""``TCB.lock``: everything that an image is made of, counted, with a budget that growth must not exceed unseen.

``python -m myelin.image.tcb --write`` regenerates the file, ``--check`` fails where it differs or a budget is exceeded.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from .runtime import cargo_metadata

__all__ = ["Crate", "count_rust", "crates"]

_TEST_PATHS = ("tests.rs", "test.rs")
_SKIPPED_FOLDERS = ("tests", "benches", "examples", "fuzz")
_UNSAFE = re.compile(r"\bunsafe\s*(\{|fn\b|impl\b|extern\b|trait\b)")


@dataclass(frozen=True)
class Crate:
    """One crate of an image: lines of Rust without comments and blank lines, and uses of ``unsafe``.

    ``own`` says that it is part of this repository. Lines count every source file of the crate, also code that the image
    does not use: an upper bound.
    """

    name: str
    version: str
    own: bool
    lines: int
    unsafe_count: int

    def as_dict(self) -> dict[str, Any]:
        """As a plain map."""
        return asdict(self)


def crates(source: Path, simulated: bool = True) -> list[Crate]:
    """The crates that an image is linked from, sorted by name; procedural macros and build scripts are not in it."""
    metadata = cast(dict[str, Any], cargo_metadata(source, simulated))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(key for key, package in packages.items() if package["name"] == "myelin-image")
    found: set[str] = set()
    waiting = [root]
    while waiting:
        key = waiting.pop()
        if key in found or _is_macro(packages[key]):
            continue
        found.add(key)
        for dependency in nodes[key]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    listed = [_crate(packages[key]) for key in found]
    return sorted(listed, key=lambda crate: (crate.name, crate.version))


def _is_macro(package: dict[str, Any]) -> bool:
    return any("proc-macro" in target["kind"] for target in package["targets"])


def _crate(package: dict[str, Any]) -> Crate:
    folder = Path(package["manifest_path"]).parent
    lines, unsafe_count = 0, 0
    for path in sorted((folder / "src").rglob("*.rs")):
        relative = path.relative_to(folder)
        if path.name in _TEST_PATHS or any(part in _SKIPPED_FOLDERS for part in relative.parts):
            continue
        more_lines, more_unsafe = count_rust(path.read_text("utf-8", "replace"))
        lines, unsafe_count = lines + more_lines, unsafe_count + more_unsafe
    return Crate(package["name"], package["version"], package["source"] is None, lines, unsafe_count)


def count_rust(text: str) -> tuple[int, int]:
    """Lines of code (without blank lines, comments and a closing test module) and uses of ``unsafe`` in a file."""
    lines, unsafe_count, depth = 0, 0, 0
    rows = iter(text.splitlines())
    for row in rows:
        code = row.strip()
        if code.startswith("#[cfg(test)]"):
            following = next(rows, "").strip()
            if following.startswith("mod tests {"):
                # A test module closes the file by this repository's and rustfmt's custom.
                break
            continue
        depth, code = _without_comments(code, depth)
        if not code:
            continue
        lines += 1
        unsafe_count += len(_UNSAFE.findall(code))
    return lines, unsafe_count


def _without_comments(code: str, depth: int) -> tuple[int, str]:
    """A line without its comments, and how deep block comments are open behind it."""
    kept, position = [], 0
    while position < len(code):
        pair = code[position : position + 2]
        if pair == "/*":
            depth, position = depth + 1, position + 2
        elif pair == "*/" and depth:
            depth, position = depth - 1, position + 2
        elif depth:
            position += 1
        elif pair == "//":
            break
        else:
            kept.append(code[position])
            position += 1
    return depth, "".join(kept).strip()
