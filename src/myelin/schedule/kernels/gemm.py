"""Matrix products: ``C[b] = A[b] B[b]``, all row-major, float32."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from .emit import PARALLEL_WORK, Expr, Machine, balanced, kernel, loop, store, strips, tile


def gemm(
    machine: Machine,
    left: tuple[int, ...],
    right: tuple[int, ...],
    shared_left: bool = False,
    shared_right: bool = False,
) -> tirx.PrimFunc:
    """A kernel for ``[*batch, m, k] × [*batch, k, n] → [*batch, m, n]``.

    A ``shared`` operand is a plain matrix that every product of the batch uses. Each element of the result
    is summed in order of k. Rows are cut into blocks, which are the tasks of the threads.
    """
    (*outer_left, m, k), (*outer_right, _, n) = left, right
    outer = tuple(outer_right if shared_left else outer_left)
    batch = 1
    for extent in outer:
        batch *= extent
    cuts = strips(n, machine.lanes, 2)
    height = balanced(m, machine.tile_rows(min(2, -(-n // machine.lanes)), 14))
    whole, rest = divmod(m, height)
    blocks = whole + (1 if rest else 0)

    def body(a: tirx.Buffer, b: tirx.Buffer, c: tirx.Buffer) -> None:
        with loop(batch * blocks, parallel=batch * m * n * k >= PARALLEL_WORK) as task:
            number, block = task // blocks, task % blocks
            a_start = (0 if shared_left else number * (m * k)) + block * (height * k)
            b_start = 0 if shared_right else number * (k * n)
            c_start = number * (m * n) + block * (height * n)
            if rest == 0 or whole == 0:
                rows(height if whole else rest, a_start, b_start, c_start, a, b, c)
                return
            with T.If(block < whole):
                with T.Then():
                    rows(height, a_start, b_start, c_start, a, b, c)
                with T.Else():
                    rows(rest, a_start, b_start, c_start, a, b, c)

    def rows(
        count: int,
        a_start: Expr,
        b_start: Expr,
        c_start: Expr,
        a: tirx.Buffer,
        b: tirx.Buffer,
        c: tirx.Buffer,
    ) -> None:
        for strip in cuts:
            with loop(strip.count) as j:
                column = strip.start + j * strip.step

                def steps(step: object, column: Expr = column) -> None:
                    with loop(k) as i:
                        step(i, b_start + i * n + column)  # type: ignore[operator]

                sources = [a_start + r * k for r in range(count)]
                registers = tile(sources, strip.pieces, steps, a, b)
                for r, line in enumerate(registers):
                    for piece, register in zip(strip.pieces, line, strict=True):
                        store(c, c_start + r * n + column + piece.offset, register.value, piece.lanes)

    result = (*outer, m, n)
    return kernel("gemm", [(left, "float32"), (right, "float32")], [(result, "float32")], body)
