"""Schedules for kernels that have no hand-written one: elementwise chains and reductions.

Work is split over independent outputs only, and each example's arithmetic is the same code at every slot, so that
results depend neither on the number of threads nor on where in the batch an example is.
"""

from __future__ import annotations

import math

from tvm import s_tir, tirx

#: Below this many elements a kernel is not worth waking other threads for.
PARALLEL_ELEMENTS = 8192
# Widths to try for vectors and for partial sums, best first.
_WIDTHS = (64, 32, 16, 8)
# Loops of at most this many iterations are left as they are.
_SHORT = 16


class _Kernel:
    """One function under its schedule."""

    def __init__(self, function: tirx.PrimFunc) -> None:
        self.schedule = s_tir.Schedule(function)
        self.root = self.schedule.get_sblock("root")

    @property
    def blocks(self) -> list[s_tir.schedule.SBlockRV]:
        return list(self.schedule.get_child_blocks(self.root))

    def is_reduction(self, block: s_tir.schedule.SBlockRV) -> bool:
        return any(int(v.iter_type) == tirx.IterVar.CommReduce for v in self.schedule.get(block).iter_vars)

    def extents(self, loops: list[s_tir.schedule.LoopRV]) -> list[int]:
        return [int(self.schedule.get(loop).extent) for loop in loops]

    def loops(
        self, block: s_tir.schedule.SBlockRV
    ) -> tuple[list[s_tir.schedule.LoopRV], list[s_tir.schedule.LoopRV]]:
        """The block's loops, spatial ones first and those it reduces over second."""
        kinds = [int(v.iter_type) for v in self.schedule.get(block).iter_vars]
        loops = list(self.schedule.get_loops(block))[-len(kinds) :] if kinds else []
        spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != tirx.IterVar.CommReduce]
        return spatial, [loop for loop in loops if loop not in spatial]


    def is_pointwise(self, block: s_tir.schedule.SBlockRV) -> bool:
        """Whether every access is at the block's own place, or at a place fixed by its first axis alone."""
        node = self.schedule.get(block)
        own = [v.var for v in node.iter_vars]
        for access in [*node.reads, *node.writes]:
            index = [r.min for r in access.region]
            same = len(index) == len(own) and all(a.same_as(b) for a, b in zip(index, own, strict=True))
            if not same and not (len(index) <= 1 and all(a.same_as(own[0]) for a in index)):
                return False
        return True

    def reduces_first_axis(self, block: s_tir.schedule.SBlockRV) -> bool:
        """Whether neighbours in memory are neighbouring outputs: the last index of every read is a spatial axis."""
        node = self.schedule.get(block)
        reduced = [v.var for v in node.iter_vars if int(v.iter_type) == tirx.IterVar.CommReduce]
        lasts = [list(access.region)[-1].min for access in node.reads if len(access.region)]
        return not any(last.same_as(var) for last in lasts for var in reduced)

    def vectorize(self, loop: s_tir.schedule.LoopRV, widest: int = 16) -> None:
        """Use vectors for a loop whose length they divide; the code generator deals with the others."""
        length = int(self.schedule.get(loop).extent)
        for width in (w for w in _WIDTHS if w <= widest):
            if length % width == 0:
                self.schedule.vectorize(self.schedule.split(loop, [None, width])[1])
                return


def _inline_chains(kernel: _Kernel) -> None:
    """Put each elementwise block into the blocks that read it, unless that repeats costly work."""
    schedule = kernel.schedule
    for block in kernel.blocks:
        consumers = schedule.get_consumers(block)
        if kernel.is_reduction(block) or not consumers:
            continue
        if len(consumers) > 1 and "power" in str(schedule.get(block).name_hint):
            continue
        try:
            schedule.compute_inline(block)
        except s_tir.ScheduleError:
            continue


def _pointwise(kernel: _Kernel, block: s_tir.schedule.SBlockRV) -> None:
    """First axis over threads, the rest in vectors."""
    schedule = kernel.schedule
    flat = kernel.is_pointwise(block)
    first, *rest = schedule.get_loops(block)
    extents = kernel.extents([first, *rest])
    if flat and rest:
        rest = [schedule.fuse(*rest)]
    elif flat:
        first, inner = schedule.split(first, [None, _chunk(extents[0])])
        rest = [inner]
    if rest:
        kernel.vectorize(rest[-1])
    if math.prod(extents) >= PARALLEL_ELEMENTS and int(schedule.get(first).extent) > 1:
        schedule.parallel(first)


def _chunk(length: int) -> int:
    """The largest power of two, at most 4096, that divides a length."""
    return min(length & -length, 4096)


def _sum_over_first(kernel: _Kernel, block: s_tir.schedule.SBlockRV) -> None:
    """[m, n] to [n]: a strip of columns stays in registers while the rows go by."""
    schedule = kernel.schedule
    spatial, reduced = kernel.loops(block)
    columns = schedule.fuse(*spatial) if len(spatial) > 1 else spatial[0]
    length = int(schedule.get(columns).extent)
    width = next((w for w in _WIDTHS if length % w == 0), None)
    if width is None:
        schedule.reorder(*reduced, columns)
        return
    outer, inner = schedule.split(columns, [None, width])
    schedule.reorder(outer, *reduced, inner)
    if length * math.prod(kernel.extents(reduced)) >= PARALLEL_ELEMENTS and length > width:
        schedule.parallel(outer)
    init = schedule.decompose_reduction(block, reduced[0])
    schedule.vectorize(inner)
    schedule.vectorize(schedule.get_loops(init)[-1])


def _sum_over_last(kernel: _Kernel, block: s_tir.schedule.SBlockRV) -> None:
    """[m, n] to [m]: partial sums side by side, then one sum of them."""
    schedule = kernel.schedule
    spatial, reduced = kernel.loops(block)
    extents = kernel.extents(spatial), kernel.extents(reduced)
    length = math.prod(extents[1])
    work = length * math.prod(extents[0])
    width = next((w for w in _WIDTHS if length % w == 0 and length > w), None)
    if width is None or length <= _SHORT or not spatial:
        if spatial and work >= PARALLEL_ELEMENTS and extents[0][0] > 1:
            schedule.parallel(spatial[0])
        return
    line = schedule.fuse(*reduced) if len(reduced) > 1 else reduced[0]
    _, lanes = schedule.split(line, [None, width])
    partial = schedule.rfactor(lanes, len(spatial))
    row = schedule.get_loops(block)[0]
    schedule.compute_at(partial, row, preserve_unit_loops=True)
    _, lane, *inner = schedule.get_loops(partial)
    schedule.reorder(*inner, lane)
    init = schedule.decompose_reduction(partial, inner[-1])
    schedule.vectorize(schedule.get_loops(partial)[-1])
    schedule.vectorize(schedule.get_loops(init)[-1])
    if work >= PARALLEL_ELEMENTS and extents[0][0] > 1:
        schedule.parallel(schedule.get_loops(block)[0])


def _rows(kernel: _Kernel, blocks: list[s_tir.schedule.SBlockRV]) -> None:
    """Several stages for one output: each row of it from beginning to end, rows over threads."""
    schedule = kernel.schedule
    *producers, final = blocks
    if any(not schedule.get_consumers(block) for block in producers):
        return
    row, *_ = schedule.get_loops(final)
    work = math.prod(kernel.extents(schedule.get_loops(final)))
    for block in reversed(producers):
        work = max(work, math.prod(kernel.extents(schedule.get_loops(block))))
        schedule.compute_at(block, row, preserve_unit_loops=True)
    if work >= PARALLEL_ELEMENTS and kernel.extents([row])[0] > 1:
        schedule.parallel(row)


def _apply(kernel: _Kernel) -> None:
    blocks = kernel.blocks
    if len(blocks) > 1:
        _rows(kernel, blocks)
        return
    (block,) = blocks
    if not kernel.is_reduction(block):
        if kernel.schedule.get_loops(block):
            _pointwise(kernel, block)
        return
    spatial, reduced = kernel.loops(block)
    if not spatial or not reduced:
        return
    first = list(kernel.schedule.get_loops(block))[0]
    if first in reduced or kernel.reduces_first_axis(block):
        _sum_over_first(kernel, block)
    else:
        _sum_over_last(kernel, block)


def schedule_generic(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Schedule one fused function; where no rule applies it is returned with chains inlined only."""
    kernel = _Kernel(function)
    _inline_chains(kernel)
    inlined = kernel.schedule.mod["main"]
    try:
        _apply(kernel)
    except s_tir.ScheduleError:
        return inlined
    return kernel.schedule.mod["main"]
