"""Checks of a job's values, and their message: what, expected, got."""

from __future__ import annotations

import math

from myelin.errors import InputError

__all__ = ["MOST_STEPS", "is_real", "is_whole", "require"]

MOST_STEPS = 2**31 - 1
"""Steps are counted in an int32."""


def require(holds: bool, what: str, value: object, expected: str) -> None:
    """Raise :class:`~myelin.errors.InputError` unless ``holds``."""
    if not holds:
        raise InputError(f"{what}: expected {expected}, got {value!r}")


def is_real(value: object) -> bool:
    """Whether ``value`` is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object, least: int, most: int) -> bool:
    """Whether ``value`` is a whole number from ``least`` to ``most``."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
