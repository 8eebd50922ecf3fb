"""Schedules for kernels that have no hand-written one: elementwise chains and reductions.

Work is split over independent outputs only, and each example's arithmetic is the same code at every slot,
so that results depend neither on the number of threads nor on where in the batch an example is.
"""

from __future__ import annotations

import math

from tvm import s_tir, tirx

#: Attribute of a kernel: positions of the parameters that it reads and writes at one and the same place.
POINTWISE = "myelin.pointwise"

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

    def pointwise_parameters(self, function: tirx.PrimFunc) -> list[int]:
        """Parameters of a one-block kernel that are only accessed at the block's own place."""
        if len(self.blocks) != 1:
            return []
        node = self.schedule.get(self.blocks[0])
        own = [v.var for v in node.iter_vars]
        moved = []
        for access in [*node.reads, *node.writes]:
            index = [r.min for r in access.region if int(r.extent) == 1]
            if len(index) != len(own) or not all(a.same_as(b) for a, b in zip(index, own, strict=True)):
                moved.append(access.source)
        return [i for i, p in enumerate(function.params) if not any(p.same_as(other) for other in moved)]

    def place_of_reduction(self, block: s_tir.schedule.SBlockRV) -> str:
        """Which axis of the widest operand is reduced: ``"first"``, ``"last"``, or one ``"between"``."""
        node = self.schedule.get(block)
        reduced = [v.var for v in node.iter_vars if int(v.iter_type) == tirx.IterVar.CommReduce]
        region = max((list(access.region) for access in node.reads), key=len)

        def is_reduced(place: int) -> bool:
            return any(region[place].min.same_as(var) for var in reduced)

        if is_reduced(-1):
            return "last"
        return "first" if is_reduced(0) else "between"

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


def _sum_columns(kernel: _Kernel, block: s_tir.schedule.SBlockRV, over_first: bool) -> None:
    """[m, n] to [n], or [k, m, n] to [k, n]: a strip of columns stays in registers while the rows go by."""
    schedule = kernel.schedule
    spatial, reduced = kernel.loops(block)
    work = math.prod(kernel.extents([*spatial, *reduced]))
    outer, inner = (spatial[:0], spatial) if over_first else (spatial[:1], spatial[1:])
    columns = schedule.fuse(*inner) if len(inner) > 1 else inner[0]
    length = int(schedule.get(columns).extent)
    width = next((w for w in _WIDTHS if length % w == 0), None)
    if width is None:
        schedule.reorder(*outer, *reduced, columns)
        tasks = outer
    else:
        strip, lanes = schedule.split(columns, [None, width])
        schedule.reorder(*outer, strip, *reduced, lanes)
        schedule.vectorize(lanes)
        tasks = [*outer, strip]
    if work >= PARALLEL_ELEMENTS and tasks and int(schedule.get(tasks[0]).extent) > 1:
        schedule.parallel(tasks[0])
    # Last, because loops of a decomposed reduction take no further primitive.
    schedule.decompose_reduction(block, reduced[0])


def _partial_sums(kernel: _Kernel, block: s_tir.schedule.SBlockRV) -> s_tir.schedule.SBlockRV | None:
    """[m, n] to [m, width] to [m]: first sums side by side, in vectors; the block of this first half."""
    schedule = kernel.schedule
    spatial, reduced = kernel.loops(block)
    length = math.prod(kernel.extents(reduced))
    width = next((w for w in _WIDTHS if length % w == 0 and length > w), None)
    if width is None or length <= _SHORT or not spatial:
        return None
    line = schedule.fuse(*reduced) if len(reduced) > 1 else reduced[0]
    return schedule.rfactor(schedule.split(line, [None, width])[1], len(spatial))


def _vectorize_partial(kernel: _Kernel, partial: s_tir.schedule.SBlockRV) -> s_tir.schedule.LoopRV:
    """Make the loop over partial sums the innermost one, and vectors; the loop around it."""
    schedule = kernel.schedule
    lane, step = [loop for loop in schedule.get_loops(partial) if kernel.extents([loop]) != [1]][-2:]
    schedule.reorder(step, lane)
    schedule.vectorize(lane)
    return step


def _rows(kernel: _Kernel, blocks: list[s_tir.schedule.SBlockRV]) -> None:
    """Stages of one output: each row of it from beginning to end, in order, rows over threads."""
    schedule = kernel.schedule
    if any(not schedule.get_consumers(block) for block in blocks[:-1]):
        return
    work = max(math.prod(kernel.extents(list(schedule.get_loops(block)))) for block in blocks)
    reductions = [b for b in blocks if kernel.is_reduction(b) and kernel.place_of_reduction(b) == "last"]
    partials = [partial for partial in (_partial_sums(kernel, b) for b in reductions) if partial is not None]
    *producers, final = kernel.blocks
    row = schedule.get_loops(final)[0]
    for block in reversed(producers):
        schedule.compute_at(block, row, preserve_unit_loops=True)
    steps = [_vectorize_partial(kernel, partial) for partial in partials]
    if work >= PARALLEL_ELEMENTS and kernel.extents([row])[0] > 1:
        schedule.parallel(row)
    for partial, step in zip(partials, steps, strict=True):
        schedule.decompose_reduction(partial, step)


def _apply(kernel: _Kernel) -> None:
    blocks = kernel.blocks
    block = blocks[0]
    if len(blocks) > 1:
        _rows(kernel, blocks)
        return
    spatial, reduced = kernel.loops(block)
    if not kernel.is_reduction(block):
        if spatial:
            _pointwise(kernel, block)
        return
    if not spatial or not reduced:
        return
    place = kernel.place_of_reduction(block)
    if place == "last" or (place == "between" and len(spatial) < 2):
        _rows(kernel, blocks)
    else:
        _sum_columns(kernel, block, place == "first")


def schedule_generic(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Schedule one fused function; where no rule applies it is returned with chains inlined only.

    The attribute :data:`POINTWISE` of the result lists the parameters that may share memory.
    """
    kernel = _Kernel(function)
    _inline_chains(kernel)
    inlined = kernel.schedule.mod["main"]
    pointwise = kernel.pointwise_parameters(inlined)
    try:
        _apply(kernel)
    except s_tir.ScheduleError:
        return inlined.with_attr(POINTWISE, pointwise)
    return kernel.schedule.mod["main"].with_attr(POINTWISE, pointwise)
