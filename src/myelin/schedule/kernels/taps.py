"""Where the taps of a convolution meet an image: borders are left out, not padded with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx

from .emit import Expr

Shape = Sequence[int]


@dataclass(frozen=True)
class Image:
    """How examples × rows × columns × channels lie in a flat buffer; strides count elements.

    Attributes:
        declared: shape that the kernel's argument is checked against.
        rows, columns, channels: extents of one example.
        example, row, column, channel: distance of neighbours along each axis.
    """

    declared: tuple[int, ...]
    rows: int
    columns: int
    channels: int
    example: int
    row: int
    column: int
    channel: int

    @property
    def examples(self) -> int:
        """How many images there are."""
        return self.declared[0]


def channel_last(shape: Shape) -> Image:
    """``[m, h, w, c]``."""
    m, h, w, c = shape
    return Image((m, h, w, c), h, w, c, h * w * c, w * c, c, 1)


def channel_first(shape: Shape) -> Image:
    """``[m, c, h, w]``, as features come: read where they are, for a first layer of few channels."""
    m, c, h, w = shape
    return Image((m, c, h, w), h, w, c, h * w * c, w, 1, h * w)


@dataclass(frozen=True)
class Axis:
    """Place ``i`` of ``places`` meets the source at ``i * stride + offset + t`` for every tap t < ``taps``.

    Sources outside ``[0, size)`` are not there, and their taps are left out.
    """

    places: int
    stride: int
    offset: int
    taps: int
    size: int

    def meets(self, place: int, tap: int) -> bool:
        """Whether there is a source."""
        return 0 <= place * self.stride + self.offset + tap < self.size

    def is_inner(self, place: int) -> bool:
        """Whether a place meets all its taps."""
        return all(self.meets(place, tap) for tap in range(self.taps))

    def taps_of(self, place: Expr) -> tuple[Expr, Expr]:
        """First tap that a place meets, and how many: integers where that is the same for every place."""
        if all(self.is_inner(i) for i in range(self.places)):
            return 0, self.taps
        start = place * self.stride + self.offset
        if isinstance(start, int):
            met = [t for t in range(self.taps) if self.meets(place, t)]
            return (met[0], len(met)) if met else (0, 0)
        first = tirx.max(0, -start)
        return first, tirx.max(0, tirx.min(self.taps, self.size - start) - first)

    def places_of(self, tap: int) -> tuple[int, int]:
        """First place that meets a tap, and how many do."""
        met = [i for i in range(self.places) if self.meets(i, tap)]
        return (met[0], len(met)) if met else (0, 0)


def forward_axis(size: int, taps: int, stride: int, before: int, places: int) -> Axis:
    """Outputs over the data's places."""
    return Axis(places, stride, -before, taps, size)


@dataclass(frozen=True)
class Phase:
    """Data places that meet taps ``first_tap``, ``first_tap + stride``, …: those of one residue.

    ``axis`` counts these places, and their taps backwards, over the output gradient.
    """

    first_place: int
    first_tap: int
    axis: Axis


def backward_phases(size: int, taps: int, stride: int, before: int, outputs: int) -> list[Phase]:
    """One axis of the data gradient, cut by the data's residue modulo the stride.

    Each residue is a dense convolution: nothing is multiplied by zeros between the outputs.
    """
    phases = []
    for first_tap in range(stride):
        first = (first_tap - before) % stride
        places = max(0, -(-(size - first) // stride))
        count = max(0, -(-(taps - first_tap) // stride))
        start = (first + before - first_tap) // stride
        if places:
            axis = Axis(places, 1, start - max(count - 1, 0), count, outputs)
            phases.append(Phase(first, first_tap, axis))
    return phases


@dataclass(frozen=True)
class Run:
    """``count`` tiles of ``length`` places from ``start``, whose places meet the same taps.

    ``met[t]`` lists the places of a tile that meet tap t.
    """

    start: int
    length: int
    count: int
    met: tuple[tuple[int, ...], ...]


def runs(axis: Axis, length: int) -> list[Run]:
    """Cut the places of an axis into tiles, neighbours that meet the same taps together."""
    cut: list[Run] = []
    for start in range(0, axis.places, length):
        wide = min(length, axis.places - start)
        met = tuple(tuple(i for i in range(wide) if axis.meets(start + i, tap)) for tap in range(axis.taps))
        last = cut[-1] if cut else None
        if last is not None and (last.length, last.met) == (wide, met):
            cut[-1] = Run(last.start, wide, last.count + 1, met)
        else:
            cut.append(Run(start, wide, 1, met))
    return cut
