"""The tree of checks that an appraisal leaves behind: nothing is trusted without one, and none is hidden."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

__all__ = ["Check", "Verdict", "at_least", "compare", "duration", "utc", "within"]


class Verdict(enum.Enum):
    """How a check ended. Only :attr:`PASSED` counts as passed."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One check: its name, whose word it rests on, what was expected, what was got, and the verdict.

    A check with ``children`` groups them; it passes only if it and every one of them passed. A group without
    children has failed: nothing was checked. ``margin`` says how far from the other verdict it was ("31 days
    left", "3 below the minimum"); it is empty where there is no such distance.
    """

    name: str
    trust_anchor: str
    expected: str
    got: str
    verdict: Verdict
    children: tuple[Check, ...] = ()
    margin: str = ""

    @property
    def passed(self) -> bool:
        """Whether this check and all below it passed. A skipped check is a failed check."""
        return self.verdict is Verdict.PASSED and all(child.passed for child in self.children)

    @classmethod
    def made(
        cls, name: str, trust_anchor: str, expected: str, got: str, good: bool, *, margin: str = ""
    ) -> Check:
        """A check that was made: passed if ``good`` is exactly true."""
        verdict = Verdict.PASSED if good is True else Verdict.FAILED
        return cls(name, trust_anchor, expected, got, verdict, margin=margin)

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
            "margin": self.margin,
            "verdict": self.verdict.value,
            "passed": self.passed,
            "checks": [child.to_dict() for child in self.children],
        }


def compare(name: str, trust_anchor: str, expected: object, got: object) -> Check:
    """Check that two values are equal; bytes are shown as hex."""
    verdict = Verdict.PASSED if type(expected) is type(got) and expected == got else Verdict.FAILED
    return Check(name, trust_anchor, _shown(expected), _shown(got), verdict)


def at_least(name: str, trust_anchor: str, minimum: int, got: int) -> Check:
    """Check that a version is not below its minimum; the margin is the distance."""
    if got < minimum:
        margin = f"{minimum - got} below the minimum"
    elif got == minimum:
        margin = "exactly the minimum"
    else:
        margin = f"{got - minimum} above the minimum"
    return Check.made(name, trust_anchor, f"at least {minimum}", str(got), got >= minimum, margin=margin)


def within(name: str, trust_anchor: str, from_s: int, until_s: int, now_s: int) -> Check:
    """Check that a time is from ``from_s`` to ``until_s``, both included; the margin is what is left."""
    if now_s < from_s:
        margin = f"begins in {duration(from_s - now_s)}"
    elif now_s > until_s:
        margin = f"ended {duration(now_s - until_s)} ago"
    else:
        margin = f"{duration(until_s - now_s)} left"
    expected = f"valid from {utc(from_s)} to {utc(until_s)}"
    return Check.made(
        name, trust_anchor, expected, f"at {utc(now_s)}", from_s <= now_s <= until_s, margin=margin
    )


def utc(at_s: int) -> str:
    """A Unix time as people write it; the number itself where the calendar ends."""
    try:
        return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at_s} s after 1970"


def duration(length_s: int) -> str:
    """A length of time in the largest unit that says enough: days, hours, minutes or seconds."""
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if length_s >= 2 * unit:
            return f"{length_s // unit} {name}"
    return f"{length_s} seconds"


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
