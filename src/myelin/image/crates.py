"""The Rust crates that an image is linked from, and how much code each holds."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from .runtime import cargo_metadata

__all__ = ["Crate", "count_rust", "crates"]

_SKIPPED_FOLDERS = frozenset({"tests", "benches", "examples", "fuzz"})
_UNSAFE = re.compile(r"\bunsafe\s*(?:\{|fn\b|impl\b|extern\b|trait\b)")


@dataclass(frozen=True)
class Crate:
    """One crate of an image: lines of Rust without comments and blank lines, and uses of ``unsafe``.

    ``own`` says that it is part of this repository. Lines count every source file of the crate but tests,
    also code that the image does not use: an upper bound.
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
    """The crates that an image is linked from, sorted by name.

    Procedural macros and build scripts run on the builder's machine only and are not among them.

    Args:
        source: folder of the enclave's workspace.
        simulated: with the simulated attester.

    Raises:
        BuildError: cargo is missing or cannot read the workspace.
    """
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
        waiting += [
            dependency["pkg"]
            for dependency in nodes[key]["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"])
        ]
    listed = [_crate(packages[key]) for key in found]
    return sorted(listed, key=lambda crate: (crate.name, crate.version))


def count_rust(text: str) -> tuple[int, int]:
    """Lines of code and uses of ``unsafe`` in a source file.

    Not counted: blank lines, comments, and a module ``tests`` at the end (by rustfmt's custom it closes the
    file).
    """
    lines, unsafe_count, depth, is_test = 0, 0, 0, False
    for row in text.splitlines():
        depth, code = _without_comments(row, depth)
        if is_test and re.match(r"(?:pub )?mod \w+ \{", code):
            break
        is_test = code == "#[cfg(test)]" or (is_test and code.startswith("#["))
        if code:
            lines += 1
            unsafe_count += len(_UNSAFE.findall(code))
    return lines, unsafe_count


def _is_macro(package: dict[str, Any]) -> bool:
    return any("proc-macro" in target["kind"] for target in package["targets"])


def _crate(package: dict[str, Any]) -> Crate:
    folder = Path(package["manifest_path"]).parent
    lines, unsafe_count = 0, 0
    for path in sorted((folder / "src").rglob("*.rs")):
        if path.stem.endswith(("_tests", "_test")) or path.stem in ("tests", "test"):
            continue
        if not _SKIPPED_FOLDERS.isdisjoint(path.relative_to(folder).parts):
            continue
        more_lines, more_unsafe = count_rust(path.read_text("utf-8", "replace"))
        lines, unsafe_count = lines + more_lines, unsafe_count + more_unsafe
    return Crate(package["name"], package["version"], package["source"] is None, lines, unsafe_count)


def _without_comments(row: str, depth: int) -> tuple[int, str]:
    """A line without its comments, and how deep block comments are open behind it."""
    kept, position = [], 0
    while position < len(row):
        pair = row[position : position + 2]
        if pair == "/*":
            depth, position = depth + 1, position + 2
        elif pair == "*/" and depth:
            depth, position = depth - 1, position + 2
        elif depth:
            position += 1
        elif pair == "//":
            break
        else:
            kept.append(row[position])
            position += 1
    return depth, "".join(kept).strip()
