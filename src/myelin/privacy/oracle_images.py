"""The oracle's image operators on one example, in float64: convolution and pooling, with their pullbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["conv2d", "pool2d"]

Array = npt.NDArray[np.float64]
Pullback = Callable[[Any], Sequence[Any]]
"""Output gradient → gradient of each argument, None where it is a constant."""


def _windows(x: Array, size: tuple[int, int], strides: tuple[int, int]) -> Array:
    """View ``[…, rows, columns, *size]`` of every window of the last two axes."""
    view = np.lib.stride_tricks.sliding_window_view(x, size, axis=(-2, -1))
    return view[..., :: strides[0], :: strides[1], :, :]


def _pad(x: Array, padding: Sequence[int], fill: float = 0.0) -> Array:
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)


def _scatter(shape: tuple[int, ...], padding: Sequence[int], place: Callable[[Array], None]) -> Array:
    """Gradient of a padded input: ``place`` adds to the padded array, then the padding is cut off."""
    top, left, bottom, right = padding
    padded = np.zeros((*shape[:2], shape[2] + top + bottom, shape[3] + left + right))
    place(padded)
    return padded[:, :, top : top + shape[2], left : left + shape[3]]


def conv2d(attrs: Any, x: Array, w: Array) -> tuple[Array, Pullback]:
    """``nn.conv2d`` of NCHW data and OIHW kernel, with strides, padding and groups."""
    strides, padding = tuple(int(s) for s in attrs.strides), [int(p) for p in attrs.padding]
    groups, (out, group_in, *size) = int(attrs.groups), w.shape
    group_out = out // groups
    windows = _windows(_pad(x, padding), (size[0], size[1]), (strides[0], strides[1]))

    def part(array: Array, group: int, width: int) -> Array:
        return array[:, group * width : (group + 1) * width]

    y = np.concatenate(
        [
            np.einsum("ncyxuv,ocuv->noyx", part(windows, g, group_in), w[g * group_out : (g + 1) * group_out])
            for g in range(groups)
        ],
        axis=1,
    )

    def pullback(dy: Array) -> tuple[Array, Array]:
        dw = np.concatenate(
            [
                np.einsum("ncyxuv,noyx->ocuv", part(windows, g, group_in), part(dy, g, group_out))
                for g in range(groups)
            ]
        )

        def place(padded: Array) -> None:
            for row, column in np.ndindex(dy.shape[2:]):
                for g in range(groups):
                    kernel = w[g * group_out : (g + 1) * group_out]
                    patch = np.einsum("no,ocuv->ncuv", part(dy, g, group_out)[:, :, row, column], kernel)
                    top, left = row * strides[0], column * strides[1]
                    target = part(padded, g, group_in)
                    target[:, :, top : top + size[0], left : left + size[1]] += patch

        return _scatter(x.shape, padding, place), dw

    return y, pullback


def pool2d(attrs: Any, x: Array, is_max: bool) -> tuple[Array, Pullback]:
    """Greatest value, or mean without the padding, of each window; the first of equals is the greatest."""
    strides, size = tuple(int(s) for s in attrs.strides), tuple(int(s) for s in attrs.pool_size)
    padding = [int(p) for p in attrs.padding]
    windows = _windows(
        _pad(x, padding, -np.inf if is_max else 0.0), (size[0], size[1]), (strides[0], strides[1])
    )
    inside = _windows(_pad(np.ones_like(x), padding), (size[0], size[1]), (strides[0], strides[1]))
    flat = windows.reshape(*windows.shape[:4], -1)
    if is_max:
        share = flat.argmax(-1)[..., None] == np.arange(flat.shape[-1])
        y = flat.max(-1)
    else:
        weights = inside.reshape(flat.shape)
        share = weights / weights.sum(-1, keepdims=True)
        y = (flat * share).sum(-1)
    share = share.astype(np.float64).reshape(windows.shape)

    def pullback(dy: Array) -> tuple[Array]:
        def place(padded: Array) -> None:
            for row, column in np.ndindex(dy.shape[2:]):
                top, left = row * strides[0], column * strides[1]
                patch = dy[:, :, row, column, None, None] * share[:, :, row, column]
                padded[:, :, top : top + size[0], left : left + size[1]] += patch

        return (_scatter(x.shape, padding, place),)

    return y, pullback
