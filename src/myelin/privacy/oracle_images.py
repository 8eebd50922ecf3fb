"""The oracle's image operators on one example, in float64: convolution and pooling, with their pullbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["conv2d", "conv2d_transpose", "pool2d"]

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
    """``nn.conv2d`` of NCHW data and OIHW kernel, with strides, padding, dilation and groups."""
    strides, padding = tuple(int(s) for s in attrs.strides), [int(p) for p in attrs.padding]
    down, across = (int(d) for d in attrs.dilation)
    groups, (out, group_in, *size) = int(attrs.groups), w.shape
    group_out = out // groups
    reach = ((size[0] - 1) * down + 1, (size[1] - 1) * across + 1)
    windows = _windows(_pad(x, padding), reach, (strides[0], strides[1]))[..., ::down, ::across]

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
                    target[:, :, top : top + reach[0] : down, left : left + reach[1] : across] += patch

        return _scatter(x.shape, padding, place), dw

    return y, pullback


def conv2d_transpose(attrs: Any, x: Array, w: Array) -> tuple[Array, Pullback]:
    """``nn.conv2d_transpose`` of NCHW data and IOHW kernel: every pixel puts down the kernel."""
    (stride_y, stride_x), groups = (int(s) for s in attrs.strides), int(attrs.groups)
    top, left, bottom, right = (int(p) for p in attrs.padding)
    more = [int(p) for p in attrs.output_padding]
    (inputs, group_out, *size), (_, _, rows, columns) = w.shape, x.shape
    full = ((rows - 1) * stride_y + size[0] + more[0], (columns - 1) * stride_x + size[1] + more[1])
    group_in = inputs // groups
    y = np.zeros((1, group_out * groups, *full))
    places = list(np.ndindex(inputs, group_out, rows, columns, *size))

    def target(i: int, o: int, row: int, column: int, u: int, v: int) -> tuple[int, int, int, int]:
        return 0, i // group_in * group_out + o, row * stride_y + u, column * stride_x + v

    for i, o, row, column, u, v in places:
        y[target(i, o, row, column, u, v)] += x[0, i, row, column] * w[i, o, u, v]

    def pullback(dy: Array) -> tuple[Array, Array]:
        whole, dx, dw = np.zeros(y.shape), np.zeros(x.shape), np.zeros(w.shape)
        whole[:, :, top : full[0] - bottom, left : full[1] - right] = dy
        for i, o, row, column, u, v in places:
            slope = whole[target(i, o, row, column, u, v)]
            dx[0, i, row, column] += slope * w[i, o, u, v]
            dw[i, o, u, v] += slope * x[0, i, row, column]
        return dx, dw

    return y[:, :, top : full[0] - bottom, left : full[1] - right], pullback


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
