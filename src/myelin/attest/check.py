"""The tree of checks that an appraisal leaves behind: nothing is trusted without one, and none is hidden."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Check", "Verdict", "compare"]


class Verdict(enum.Enum):
    """How a check ended. Only :attr:`PASSED` counts as passed."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One check: its name, whose word it rests on, what was expected, what was got, and the verdict.

    A check with ``children`` groups them; it passes only if it and every one of them passed. A group without
    children has failed: nothing was checked.
    """

    name: str
    trust_anchor: str
    expected: str
    got: str
    verdict: Verdict
    children: tuple[Check, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether this check and all below it passed. A skipped check is a failed check."""
        return self.verdict is Verdict.PASSED and all(child.passed for child in self.children)

    @classmethod
    def group(cls, name: str, trust_anchor: str, children: tuple[Check, ...] | list[Check]) -> Check:
        """Join checks under one name."""
        children = tuple(children)
        good = sum(child.passed for child in children)
        verdict = Verdict.PASSED if children and good == len(children) else Verdict.FAILED
        expected = f"all {len(children)} checks pass" if children else "at least one check"
        return cls(name, trust_anchor, expected, f"{good} of {len(children)} passed", verdict, children)

    @classmethod
    def skipped(cls, name: str, trust_anchor: str, expected: str, why: str) -> Check:
        """Name a check that could not be made, and why."""
        return cls(name, trust_anchor, expected, f"not checked: {why}", Verdict.SKIPPED)

    def failures(self) -> Iterator[Check]:
        """The checks that did not pass, without the groups above them, in order."""
        for child in self.children:
            yield from child.failures()
        if not self.children and self.verdict is not Verdict.PASSED:
            yield self

    def to_dict(self) -> dict[str, object]:
        """The tree as JSON-ready values."""
        return {
            "name": self.name,
            "trust_anchor": self.trust_anchor,
            "expected": self.expected,
            "got": self.got,
            "verdict": self.verdict.value,
            "passed": self.passed,
            "checks": [child.to_dict() for child in self.children],
        }


def compare(name: str, trust_anchor: str, expected: object, got: object) -> Check:
    """Check that two values are equal; bytes are shown as hex."""
    verdict = Verdict.PASSED if type(expected) is type(got) and expected == got else Verdict.FAILED
    return Check(name, trust_anchor, _shown(expected), _shown(got), verdict)


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
