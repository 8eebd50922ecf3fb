"""What a convolution's weight gradient costs by tiles of 2×2 outputs (Winograd's F(2×2, 3×3)).

The kernels of :mod:`myelin.schedule.kernels` that do so, and the cost model, count by the same rule.
"""

from __future__ import annotations

__all__ = ["KEPT_FINISH", "SUM_FINISH", "tiled_multiply_adds"]

KEPT_FINISH = 112
"""Multiply-adds that an example's sums take, for each pair of channels, to become its kept gradient: they go
to memory and back."""
SUM_FINISH = 16
"""The same where it happens once for a batch."""

_TILES_MAX = 256


def tiled_multiply_adds(
    kernel: tuple[int, ...], strides: tuple[int, ...], places: tuple[int, int], finish: int
) -> int | None:
    """Multiply-adds of one example's weight gradient by tiles, or None where tiles do not pay.

    Args:
        kernel: height, width, inputs and outputs of the kernel.
        strides: of the convolution.
        places: height and width of the output.
        finish: :data:`KEPT_FINISH` or :data:`SUM_FINISH`.
    """
    *size, c, o = kernel
    if tuple(size) != (3, 3) or tuple(strides) != (1, 1):
        return None
    tiles = -(-places[0] // 2) * -(-places[1] // 2)
    counted = tiles * (16 * c * o + 48 * (c + o)) + finish * c * o
    pays = tiles <= _TILES_MAX and counted < 0.8 * (9 * places[0] * places[1] * c * o)
    return counted if pays else None
