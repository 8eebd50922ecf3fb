"""Views: transposed and reshaped values that kernels read where they lie, so that nothing is copied."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tvm import relax, tirx
from tvm.relax import op

from ...graph.relax_ir import shape_of
from ..kernels import Factor
from .rewriter import FamilyRule, Rewriter, Rule, Site, integers


@dataclass(frozen=True)
class View:
    """A value as strides, in elements, over a tensor that is there or can be asked for.

    Attributes:
        source: the old variable whose plain value is read.
        shape: of the view.
        strides: one per axis.
        start: place of the first element.
    """

    source: relax.Var
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int = 0

    @property
    def is_packed(self) -> bool:
        """Whether these are the source's elements, all and in order."""
        size = math.prod(shape_of(self.source))
        return self.strides == packed_strides(self.shape) and math.prod(self.shape) == size

    def permuted(self, order: Sequence[int]) -> View:
        """Axes in another order."""
        return replace(
            self, shape=tuple(self.shape[a] for a in order), strides=tuple(self.strides[a] for a in order)
        )

    def reshaped(self, shape: tuple[int, ...]) -> View | None:
        """The same elements in order under another shape; None if no strides say so."""
        strides: list[int] = []
        axes = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n > 1]
        for size in reversed(shape):
            if size == 1:
                strides.append(0)
                continue
            if not axes:
                return None
            length, stride = axes.pop()
            while length % size and axes and axes[-1][1] == length * stride:
                length *= axes.pop()[0]
            if length % size:
                return None
            strides.append(stride)
            if length > size:
                axes.append((length // size, stride * size))
        return replace(self, shape=shape, strides=tuple(reversed(strides)))

    def factor(self, base: tuple[int, ...], batch: Sequence[int], row: int, column: int) -> Factor:
        """What a kernel is told; axes by number, −1 in ``batch`` for a shared matrix."""
        outer = tuple(0 if axis < 0 else self.strides[axis] for axis in batch)
        return Factor(base, outer, self.strides[row], self.strides[column], self.start)


def packed_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor in memory order; 0 for axes of length one."""
    return tuple(0 if n == 1 else math.prod(shape[axis + 1 :]) for axis, n in enumerate(shape))


def view_of(rewriter: Rewriter, value: relax.Var) -> View:
    """The view that a value is known as, or the value itself as one."""
    shape = shape_of(value)
    return rewriter.views.get(value) or View(value, shape, packed_strides(shape))


def _is_float(value: relax.Expr) -> bool:
    return isinstance(value, relax.Var) and str(value.ty.dtype) == "float32"


def _permute_dims(site: Site) -> bool:
    r, (value,), axes = site.rewriter, site.call.args, site.call.attrs.axes
    if not _is_float(value):
        return False
    order = integers(axes) if axes is not None else tuple(reversed(range(len(site.shape))))
    order = tuple(axis % len(order) for axis in order)
    r.views[site.var] = view_of(r, value).permuted(order)
    r.later[site.var] = lambda: r.reorder(r.get_plain(value), order)
    return True


def _reshape(site: Site) -> bool:
    r, value = site.rewriter, site.call.args[0]
    if not _is_float(value):
        return False
    view = view_of(r, value).reshaped(site.shape)
    if view is None:
        return False
    r.views[site.var] = view
    r.later[site.var] = lambda: r.emit(op.reshape(r.get_plain(value), site.shape))
    return True


def _split(site: Site) -> bool:
    """Parts of a tensor, each as a view; they are cut out only if something else than a product reads one."""
    r, value, attrs = site.rewriter, site.call.args[0], site.call.attrs
    if not _is_float(value):
        return False
    view = view_of(r, value)
    axis = int(attrs.axis) % len(view.shape)
    where, size = attrs.indices_or_sections, view.shape[axis]
    if isinstance(where, int | tirx.IntImm):
        if size % int(where):
            return False
        cuts = list(range(0, size + 1, size // int(where)))
    else:
        cuts = [0, *integers(where), size]
    if len(cuts) < 3 or any(end <= start for start, end in pairwise(cuts)):
        return False
    parts = [
        replace(
            view,
            shape=(*view.shape[:axis], end - start, *view.shape[axis + 1 :]),
            start=view.start + start * view.strides[axis],
        )
        for start, end in pairwise(cuts)
    ]
    made: list[relax.Expr] = []

    def part(index: int) -> Callable[[], relax.Expr]:
        def make() -> relax.Expr:
            if not made:
                made.append(r.emit(op.split(r.get_plain(value), cuts[1:-1], axis)))
            return r.emit(relax.TupleGetItem(made[0], index))

        return make

    r.parts[site.var] = [(own, part(i)) for i, own in enumerate(parts)]
    return True


OPERATORS: Mapping[str, Rule] = {"permute_dims": _permute_dims, "reshape": _reshape, "split": _split}
"""Rules of Relax operators, by name."""

FAMILIES: Mapping[str, FamilyRule] = {}
"""Rules of families, by name."""
