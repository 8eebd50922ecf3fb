"""What was fetched for evidence: a file's name and bytes, where it came from, and when."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Endorsement"]


@dataclass(frozen=True)
class Endorsement:
    """One endorsement, as appraisal takes it; not yet believed. ``fetched_s`` is when the oldest of its parts
    came from ``source``, in Unix seconds."""

    name: str
    body: bytes
    source: str
    fetched_s: int
