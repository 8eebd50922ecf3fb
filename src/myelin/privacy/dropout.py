"""Masks of dropout layers, as the enclave draws them. A NumPy reference, bit for bit.

A mask is a function of the dropout key (docs/protocol.md, section 8), the step, the record's index, the view
of it, the layer and the element, and of nothing else: not of the slot that the record has, the records beside
it, the microbatch, lanes or threads.

*Guarantee*: masks change no sensitivity. They are drawn under a key of their own, so independently of the
sample, the noise and all data; given them, an example's gradient is a function of that example and the
parameters alone, and it is clipped after its mask is applied. Two neighbouring datasets have the same masks
for the records that they share, so their clipped sums differ by the one record's part, of at most the
clipping norm (:func:`myelin.privacy.make_private`); the mechanism is then a mixture, over masks that do not
depend on the data, of mechanisms of the same guarantee, which has it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from myelin.errors import InputError

from .keystream import GROUP_WORDS, groups

__all__ = ["MaskedLayer", "draw_masks", "dropout_scale", "masks_from_seed"]

_MOST_GROUPS: Final = 2**26


class MaskedLayer(Protocol):
    """A dropout layer: the shape of an example's mask, and the threshold that words are compared with."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the batch."""

    @property
    def threshold(self) -> int:
        """An element is kept with probability ``threshold / 2³²``."""


def dropout_scale(threshold: int) -> np.float32:
    """What a kept element is multiplied by: ``2³² / threshold``, the inverse of the probability of that."""
    return np.float32(2.0**32 / threshold)


def draw_masks(
    key: bytes,
    step: int,
    records: Sequence[int] | npt.NDArray[np.uint32],
    layers: Sequence[MaskedLayer],
    views: int = 1,
) -> list[npt.NDArray[np.float32]]:
    """The masks of some records at a step: for each layer ``[records × views, *shape]``.

    A record's words are those of its own stream. Each layer's begin with a group of their own, so layers
    count by the groups of those before, and views by the groups of all layers.

    Raises:
        InputError: a key that is not 32 bytes, or more elements than a stream has words.
    """
    counts = [math.prod(layer.shape) for layer in layers]
    sizes = [-(-count // GROUP_WORDS) for count in counts]
    if sum(sizes) * views > _MOST_GROUPS:
        raise InputError(
            f"dropout: expected at most {_MOST_GROUPS * GROUP_WORDS:,} masked elements of a record, "
            f"got {sum(counts) * views:,}"
        )
    masks = [np.empty((len(records) * views, *layer.shape), np.float32) for layer in layers]
    for row, record in enumerate(record for record in records for _ in range(views)):
        words = groups(key, step, int(record), row % views * sum(sizes), sum(sizes)).ravel()
        first = 0
        for mask, layer, count, size in zip(masks, layers, counts, sizes, strict=True):
            kept = words[first * GROUP_WORDS :][:count].reshape(layer.shape) < layer.threshold
            mask[row] = np.where(kept, dropout_scale(layer.threshold), np.float32(0))
            first += size
    return masks


def masks_from_seed(
    seed: int, records: Sequence[int], layers: Sequence[MaskedLayer], views: int = 1
) -> list[npt.NDArray[np.float32]]:
    """The masks of step 1 under a key that everyone knows: for steps outside of an enclave.

    Raises:
        InputError: the seed is below 0 or does not fit in 64 bits.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"dropout seed: expected 0 to 2^64 - 1, got {seed}")
    return draw_masks(seed.to_bytes(32, "little"), 1, records, layers, views)
