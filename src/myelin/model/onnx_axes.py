"""Values whose first axis is not the batch, as exporters write recurrent layers and attention.

The compiler wants the batch first, and by itself, or nothing says that examples stay apart. So such a value
is a traced one with the batch first, and how its axes stand in the file. Transpose, Reshape, Squeeze,
Unsqueeze and an index change how they stand; a value that has the batch first again is an ordinary one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.relax.frontend.nn import Tensor, op

from myelin.errors import BuildError

from .functional import shape_of

__all__ = [
    "Turned",
    "along_last",
    "matmul",
    "part",
    "reshaped",
    "settled",
    "standing",
    "together",
    "transposed",
    "turned",
]

_Axes = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Turned:
    """A value that stands otherwise than it lies.

    Attributes:
        value: as it lies, the batch first; no other axis is of size one.
        axes: for each axis in the file those of ``value`` that it joins, in order. A batch of one is in none.
    """

    value: Tensor
    axes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """As it stands in the file."""
        sizes = shape_of(self.value)
        return tuple(math.prod(sizes[axis] for axis in group) for group in self.axes)

    @property
    def is_single(self) -> bool:
        """Whether the batch is of one example."""
        return shape_of(self.value)[0] == 1


def _lying(value: Tensor, axes: _Axes) -> Turned:
    """``value`` without its axes of size one, but the batch."""
    sizes = shape_of(value)
    kept = [axis for axis, size in enumerate(sizes) if axis == 0 or size != 1]
    if len(kept) < len(sizes):
        value = op.reshape(value, [sizes[axis] for axis in kept])
    place = {axis: new for new, axis in enumerate(kept) if new or sizes[0] != 1}
    return Turned(value, tuple(tuple(place[axis] for axis in group if axis in place) for group in axes))


def _ordered(x: Turned, axes: Sequence[int]) -> Tensor:
    """The value with the batch, then ``axes``, in this order."""
    order = [0, *(axis for axis in axes if axis)]
    return x.value if order == list(range(len(order))) else op.permute_dims(x.value, order)


def standing(value: Tensor, axes: _Axes) -> Tensor | Turned:
    """``value``, whose axes in the file are ``axes``: for each a list of its own that it joins."""
    return settled(_lying(value, axes))


def turned(x: Tensor | Turned) -> Turned:
    """A value as one that may stand otherwise."""
    return x if isinstance(x, Turned) else _lying(x, [[axis] for axis in range(len(x.shape))])


def settled(x: Turned) -> Tensor | Turned:
    """An ordinary value, if the batch is the first axis and by itself."""
    if not x.axes or not (x.axes[0] == (0,) or (x.is_single and x.shape[0] == 1)):
        return x
    flat = _ordered(x, [axis for group in x.axes for axis in group])
    return flat if shape_of(flat) == x.shape else op.reshape(flat, list(x.shape))


def transposed(x: Tensor | Turned, order: Sequence[int]) -> Tensor | Turned:
    """The axes in another order."""
    x = turned(x)
    if sorted(order) != list(range(len(x.axes))):
        raise BuildError(f"expected each of {len(x.axes)} axes once, got {list(order)}")
    return settled(Turned(x.value, tuple(x.axes[axis] for axis in order)))


def reshaped(x: Tensor | Turned, sizes: Sequence[int]) -> Tensor | Turned:
    """Other axes of the same numbers, as long as the batch is not cut."""
    x = turned(x)
    lengths, refusal = shape_of(x.value), BuildError(f"from {list(x.shape)} to {list(sizes)} has no rule")
    rest = [(axis, lengths[axis]) for group in x.axes for axis in group]
    pieces: list[list[int]] = [[] for _ in lengths]
    groups: list[list[tuple[int, int]]] = []
    for size in sizes:
        groups.append([])
        count = 1
        while count < size and rest:
            axis, length = rest.pop(0)
            used = min(length, size // count)
            if used < 2 or length % used or (axis == 0 and used != length):
                raise refusal
            groups[-1].append((axis, len(pieces[axis])))
            pieces[axis].append(used)
            count *= used
            if length > used:
                rest.insert(0, (axis, length // used))
        if count != size:
            raise refusal
    if rest:
        raise refusal
    pieces[0] = pieces[0] or [lengths[0]]
    new = [size for of_axis in pieces for size in of_axis]
    value = x.value if len(new) == len(lengths) else op.reshape(x.value, new)
    starts = [sum(map(len, pieces[:axis])) for axis in range(len(pieces))]
    return settled(Turned(value, tuple(tuple(starts[a] + place for a, place in group) for group in groups)))


def part(x: Tensor | Turned, axis: int, index: int) -> Tensor | Turned:
    """One place of an axis, which is gone after."""
    x = turned(x)
    axis %= len(x.axes)
    group, size = x.axes[axis], x.shape[axis]
    others = [*x.axes[:axis], *x.axes[axis + 1 :]]
    if not -size <= index < size:
        raise BuildError(f"index {index}: expected one of {size} places")
    if not group:
        return settled(Turned(x.value, tuple(others)))
    if len(group) != 1 or group[0] == 0:
        raise BuildError("an index along the batch has no rule, or along axes that were joined")
    ends = [place for place in (index % size, index % size + 1) if 0 < place < size]
    value = op.split(x.value, ends, axis=group[0])[1 if index % size else 0]
    return standing(value, others)


def along_last(x: Turned, then: Callable[[Tensor], Tensor]) -> Tensor | Turned:
    """What ``then`` makes of the last axis, all others as they are: of ``[batch, …, width]``."""
    *others, last = x.axes
    if 0 in last:
        raise BuildError(
            "its last axis has the batch in it; expected [batch, …, width], in any order but this"
        )
    before = [axis for group in others for axis in group if axis]
    sizes = shape_of(x.value)
    flat = _ordered(x, [*before, *last])
    y = then(op.reshape(flat, [sizes[0], *(sizes[axis] for axis in before), x.shape[-1]]))
    place = {0: 0, **{axis: new + 1 for new, axis in enumerate(before)}}
    return standing(y, [*([place[axis] for axis in group] for group in others), [len(before) + 1]])


def together(
    x: Tensor | Turned, y: Tensor | Turned, then: Callable[[Tensor, Tensor], Tensor]
) -> Tensor | Turned:
    """What ``then`` makes of two values that stand alike, number by number."""
    x, y = turned(x), turned(y)
    order = [axis for group in x.axes for axis in group if axis]
    parts = [_ordered(v, [axis for group in v.axes for axis in group]) for v in (x, y)]
    groups = [[len(group) for group in v.axes] for v in (x, y)]
    at = [[(i, j) for i, group in enumerate(v.axes) for j, a in enumerate(group) if not a] for v in (x, y)]
    if shape_of(parts[0]) != shape_of(parts[1]) or groups[0] != groups[1] or at[0] != at[1]:
        raise BuildError(f"expected two values with the same axes, got {list(x.shape)} and {list(y.shape)}")
    place = {0: 0, **{axis: new + 1 for new, axis in enumerate(order)}}
    return standing(then(*parts), [[place[axis] for axis in group] for group in x.axes])


def matmul(x: Tensor | Turned, y: Tensor | Turned) -> Tensor | Turned:
    """A product of the last two axes of both, the batch among those before."""
    x, y = turned(x), turned(y)
    factors, sizes = [], []
    for v in (x, y):
        *before, rows, columns = v.axes
        flat = [axis for group in before for axis in group if axis]
        if 0 in rows or 0 in columns:
            raise BuildError("a product along the batch would mix examples")
        lengths = shape_of(v.value)
        sizes.append([lengths[0], *(lengths[axis] for axis in flat)])
        whole = [*sizes[-1], *v.shape[-2:]]
        factors.append(op.reshape(_ordered(v, [*flat, *rows, *columns]), whole))
    if sizes[0] != sizes[1] or [len(g) for g in x.axes[:-2]] != [len(g) for g in y.axes[:-2]]:
        raise BuildError(f"expected factors with the same axes, got {list(x.shape)} and {list(y.shape)}")
    flat = [axis for group in x.axes[:-2] for axis in group if axis]
    place = {0: 0, **{axis: new + 1 for new, axis in enumerate(flat)}}
    count = len(sizes[0])
    groups = [[place[axis] for axis in group] for group in x.axes[:-2]]
    return standing(op.matmul(*factors), [*groups, [count], [count + 1]])
