"""The tree of checks as people see it; no decision is made here."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from myelin.attest.check import Check, Verdict

__all__ = ["check_tree", "render_checks"]

_SIGNS = {
    Verdict.PASSED: ("PASS", "green"),
    Verdict.FAILED: ("FAIL", "bold red"),
    Verdict.SKIPPED: ("SKIP", "bold yellow"),
}
_MOST_SHOWN = 160


def check_tree(check: Check) -> Tree:
    """Draw a check and all below it as a :class:`rich.tree.Tree`."""
    tree = Tree(_line(check), guide_style="dim")
    _grow(tree, check)
    return tree


def _grow(tree: Tree, check: Check) -> None:
    for child in check.children:
        _grow(tree.add(_line(child)), child)


def _line(check: Check) -> Text:
    verdict = Verdict.FAILED if check.verdict is Verdict.PASSED and not check.passed else check.verdict
    sign, style = _SIGNS[verdict]
    line = Text.assemble((sign, style), " ", (check.name, "bold"))
    if check.children:
        line.append(f": {check.got}")
    elif verdict is Verdict.PASSED:
        line.append(f": {_short(check.got)}")
    else:
        line.append(f": expected {_short(check.expected)}, got {_short(check.got)}")
    if check.margin:
        line.append(f" ({_short(check.margin)})")
    line.append(f"  [by {check.trust_anchor}]", "dim")
    return line


def _short(text: str) -> str:
    printable = "".join(c if c.isprintable() else "�" for c in text)
    return printable if len(printable) <= _MOST_SHOWN else printable[: _MOST_SHOWN - 1] + "…"


def render_checks(check: Check, *, width: int = 120) -> str:
    """Draw a check and all below it as plain text, without colours."""
    console = Console(width=width, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(check_tree(check))
    return capture.get()
