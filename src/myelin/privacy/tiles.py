"""What a convolution costs by tiles of 2×2 outputs (Winograd's F(2×2, 3×3)).

The kernels of :mod:`myelin.schedule.kernels` that do so, and the cost model, count by the same rule.
"""

from __future__ import annotations

__all__ = ["KEPT_FINISH", "SUM_FINISH", "tiled_multiply_adds", "tiles_pay"]

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
    return _paying(kernel, strides, places, finish) if _tiles(places) <= _TILES_MAX else None


def tiles_pay(kernel: tuple[int, ...], strides: tuple[int, ...], places: tuple[int, int]) -> bool:
    """Whether a convolution, or the gradient of its data, is made by tiles: any number of them."""
    return _paying(kernel, strides, places, 0) is not None


def _tiles(places: tuple[int, int]) -> int:
    return -(-places[0] // 2) * -(-places[1] // 2)


def _paying(
    kernel: tuple[int, ...], strides: tuple[int, ...], places: tuple[int, int], finish: int
) -> int | None:
    """A transform of one channel of one tile counts as 48, from its loads, sums and stores. A decision of
    shapes alone, so that every machine computes the same."""
    *size, c, o = kernel
    if tuple(size) != (3, 3) or tuple(strides) != (1, 1):
        return None
    counted = _tiles(places) * (16 * c * o + 48 * (c + o)) + finish * c * o
    return counted if counted < 0.8 * (9 * places[0] * places[1] * c * o) else None
