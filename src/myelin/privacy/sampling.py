"""Secret Poisson sampling into a fixed number of slots: what the enclave's sampler does, bit for bit, in
NumPy.

*Guarantee*: every record is drawn independently with probability exactly ``threshold / 2^64``; if more than
``capacity`` are drawn, those with the smallest words stay, which is a uniformly random subset given the
number drawn, but for words that are equal (:func:`sampler_slack`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from myelin.errors import InputError

from .keystream import GROUP_WORDS, block_collisions, groups

__all__ = ["EMPTY", "draw", "sampler_slack", "words"]

EMPTY: Final = 2**32 - 1
"""What an empty slot holds."""

_GROUP_RECORDS: Final = GROUP_WORDS // 2


def words(key: bytes, step: int, dataset_size: int) -> npt.NDArray[np.uint64]:
    """The 64-bit word of every record at ``step``: uint64 ``[dataset_size]``.

    Record ``i`` has words ``2 i`` (low half) and ``2 i + 1`` (high half) of stream 0.
    """
    made = groups(key, step, 0, 0, -(-dataset_size // _GROUP_RECORDS)).reshape(-1, 2).astype(np.uint64)
    return (made[:, 0] | (made[:, 1] << np.uint64(32)))[:dataset_size]


def draw(
    key: bytes, step: int, dataset_size: int, threshold: int, capacity: int
) -> tuple[npt.NDArray[np.uint32], int]:
    """One step's sample.

    Returns:
        uint32 ``[capacity]`` of record indices in ascending order, then :data:`EMPTY`; and how many are
        filled.

    Errors: :class:`myelin.errors.InputError` for a value outside its range.
    """
    if not (0 <= dataset_size <= 2**31 and 0 <= threshold < 2**64 and capacity >= 0):
        raise InputError(
            "draw: expected dataset_size up to 2^31, threshold below 2^64 and capacity of at least 0, got "
            f"{dataset_size}, {threshold}, {capacity}."
        )
    value = words(key, step, dataset_size)
    drawn = np.flatnonzero(value < np.uint64(threshold))
    if len(drawn) > capacity:
        order = np.lexsort((drawn, value[drawn]))
        drawn = np.sort(drawn[order[:capacity]])
    slots = np.full(capacity, EMPTY, dtype=np.uint32)
    slots[: len(drawn)] = drawn
    return slots, len(drawn)


def sampler_slack(dataset_size: int, steps: int) -> float:
    """Bound of the total variation distance between this sampler and the ideal, over all steps.

    Equal words are ranked by index, which matters only if a record has the very word at which a truncated
    batch is cut: at most ``dataset_size × 2^-64`` in a step. And no block of words, two records each, comes
    twice.
    """
    return steps * dataset_size / 2**64 + block_collisions(steps * (dataset_size + 1) // 2)
