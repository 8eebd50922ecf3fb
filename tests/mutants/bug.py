"""What a planted bug is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """A defect to plant, and who must notice.

    Attributes:
        name: few words, one of a kind in the list.
        file: from the root of the tree.
        original: text that occurs in the file exactly once.
        planted: what stands in its place.
        tests: each of them must fail on an assertion. ``tests/…py``, with ``::name`` for one test of it, is
            pytest's; ``enclave/<crate>`` and ``loader`` are cargo's, with ``::name`` for the tests whose
            path has that name.
        field: the failure of the field that it stands for, and where that was seen.
    """

    name: str
    file: str
    original: str
    planted: str
    tests: tuple[str, ...]
    field: str
