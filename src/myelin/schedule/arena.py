"""Place tensors in one arena so that values that are alive at the same time never overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .program import ALIGNMENT_BYTES


@dataclass(frozen=True)
class Lifetime:
    """A tensor's size and the calls between which it is alive, both ends included.

    ``first`` is the index of the call that writes it and ``last`` of the last call that touches it. A
    ``pinned`` tensor is alive always.
    """

    size_bytes: int
    first: int
    last: int
    pinned: bool = False


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def place(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Give every tensor an offset; return the offsets and the arena's size, in bytes.

    Pinned tensors come first, in order. The others are placed largest first at the lowest offset that is
    free for their whole life ("greedy by size", Pisarchyk and Lee 2020, arXiv:2001.03288, section 4.2),
    with ties broken by index, so the result depends on nothing but the argument.
    """
    offsets = [0] * len(lifetimes)
    end = 0
    for index, lifetime in enumerate(lifetimes):
        if lifetime.pinned:
            offsets[index] = end
            end += _aligned(max(lifetime.size_bytes, 1))
    base = end
    order = sorted(
        (i for i, lifetime in enumerate(lifetimes) if not lifetime.pinned),
        key=lambda i: (-lifetimes[i].size_bytes, i),
    )
    placed: list[tuple[int, int, int]] = []
    for index in order:
        lifetime = lifetimes[index]
        size = _aligned(max(lifetime.size_bytes, 1))
        busy = sorted(
            (begin, stop)
            for begin, stop, other in placed
            if lifetimes[other].first <= lifetime.last and lifetime.first <= lifetimes[other].last
        )
        offset = base
        for begin, stop in busy:
            if offset + size <= begin:
                break
            offset = max(offset, stop)
        offsets[index] = offset
        placed.append((offset, offset + size, index))
        end = max(end, offset + size)
    return offsets, end
