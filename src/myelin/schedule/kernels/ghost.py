"""Norms of convolutions' weight gradients from Gram matrices, no gradient made (the in-place ghost norm).

For one example, write a_t for the inputs that place t of the output meets, b_t for its gradient, t in row-
major order: the weight gradient is ``Σ a_t b_tᵀ``. The products ``⟨a_t, a_s⟩`` are sums over taps of products
of pixels, so they cost a matrix of pixel products, not one of unfolded inputs. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from ...graph.selection import selected
from .emit import Expr, Machine, Register, cleared, constant, fma, kernel, load, loop, pieces, spread, store
from .reorder import turned
from .taps import Axis, Image, Shape, channel_last, forward_axis

#: From the float64 sums of one example, by name below, to what stands for its norm, float32.
Bound = Callable[["GhostSums"], Expr]

_WIDE = "float64"
# Lanes of a vector of doubles over places, for every target: the order of sums does not depend on it.
_LANES = 8


@dataclass(frozen=True)
class GhostSums:
    """What the norm of ``Σ a_t b_tᵀ`` is bounded by; float64 scalars.

    Attributes:
        square: ``‖Σ a_t b_tᵀ‖²``, as computed.
        size: ``Σ ‖a_t‖·‖b_t‖``.
        walk: ``Σ_k √(max(‖Σ_{t ≤ k} a_t b_tᵀ‖², 0) + slack · size²)``: the lengths of all partial sums.
    """

    square: Expr
    size: Expr
    walk: Expr


@dataclass(frozen=True)
class _Lines:
    """Vectors of ``depth`` numbers at rows × columns places, and where their Gram matrix goes.

    The matrix's row is a place, its column a place of ``target_columns`` wide lines, moved by ``shift``.
    """

    rows: int
    columns: int
    depth: int
    target: int
    target_columns: int
    shift: int

    @property
    def places(self) -> int:
        return self.rows * self.columns


class _Scratch:
    """Parts of one float64 buffer."""

    def __init__(self) -> None:
        self.elements = 0

    def take(self, elements: int) -> int:
        """Where a new part begins: at a cache line."""
        start = self.elements
        self.elements += -(-elements // 8) * 8
        return start


def _turn(source: tirx.Buffer, at: Expr, image: Image, scratch: tirx.Buffer, to: int) -> None:
    """Write an image ``[places, channels]`` as ``[channels, places]``, float64."""
    places, channels, step = image.rows * image.columns, image.channels, 8

    def copy(place: Expr, channel: Expr) -> None:
        shift = place // image.columns * image.row + place % image.columns * image.column
        value = load(source, at + shift + channel * image.channel)
        store(scratch, to + channel * places + place, value.astype(_WIDE))

    packed = image.channel == 1 and image.column == channels and image.row == image.columns * channels
    if not packed or places % step or channels % step:
        with loop(channels) as channel, loop(places) as place:
            copy(place, channel)
        return
    with loop(places // step) as i, loop(channels // step) as j:
        rows = [load(source, at + (i * step + k) * channels + j * step, step) for k in range(step)]
        for k, value in enumerate(turned(rows, step)):
            start = to + (j * step + k) * places + i * step
            store(scratch, start, value.astype(f"{_WIDE}x{step}"), step)


def _gram(machine: Machine, lines: _Lines, source: int, scratch: tirx.Buffer) -> None:
    """``matrix[p, q] = Σ_i x[i, p] · x[i, q]`` for all q in p's line or a line before it."""
    lanes, places = machine.lanes // 2, lines.places
    high = min(lines.columns, machine.places(1))

    def tile(i: Expr, first: Expr, rows: int, k: Expr, offset: Expr, width: int) -> None:
        sums = [cleared(width, _WIDE) for _ in range(rows)]
        with loop(lines.depth) as step:
            at = source + step * places
            row = load(scratch, at + k * lines.columns + offset, width)
            for number, register in enumerate(sums):
                scalar = load(scratch, at + i * lines.columns + first + number)
                register.add_product(spread(scalar, width), row)
        for number, register in enumerate(sums):
            start = lines.target + (i * lines.columns + first + number) * _matrix_row(lines)
            to = start + k * lines.target_columns + offset + lines.shift
            store(scratch, to, register.value, width)

    with loop(lines.rows) as i:
        for first in range(0, lines.columns, high):
            rows = min(high, lines.columns - first)
            with T.serial(i + 1) as k:
                for piece in pieces(lines.columns, lanes):
                    tile(i, first, rows, k, piece.offset, piece.lanes)


def _matrix_row(lines: _Lines) -> int:
    """Elements of one row of a Gram matrix."""
    return lines.target_rows * lines.target_columns if isinstance(lines, _Padded) else lines.places


@dataclass(frozen=True)
class _Padded(_Lines):
    """Lines whose matrix has columns for a border of zeros too."""

    target_rows: int


@dataclass(frozen=True)
class _Plan:
    """Where everything is in the scratch."""

    rows: Axis
    columns: Axis
    inputs: _Padded
    outputs: _Lines
    turned_inputs: int
    turned_outputs: int
    line: int
    prefixes: int
    elements: int


def _plan(source: Image, gradient: Shape, size: Shape, strides: Shape, padding: Shape) -> _Plan:
    _, p, q, o = gradient
    top, left, bottom, right = padding
    wide = source.columns + left + right
    high = source.rows + top + bottom
    rows = forward_axis(source.rows, size[0], strides[0], top, p)
    columns = forward_axis(source.columns, size[1], strides[1], left, q)
    scratch = _Scratch()
    places = source.rows * source.columns
    matrix = scratch.take(places * high * wide)
    inputs = _Padded(
        source.rows, source.columns, source.channels, matrix, wide, top * wide + left, target_rows=high
    )
    outputs = _Lines(p, q, o, scratch.take(p * q * p * q), q, 0)
    return _Plan(
        rows,
        columns,
        inputs,
        outputs,
        scratch.take(source.channels * places),
        scratch.take(o * p * q),
        scratch.take(p * q + _LANES),
        scratch.take(p * q),
        scratch.elements,
    )


def _input_products(plan: _Plan, scratch: tirx.Buffer, i: Expr, j: Expr) -> None:
    """``⟨a_t, a_s⟩`` for place t = (i, j) and every s in its line or a line before it."""
    rows, columns, inputs = plan.rows, plan.columns, plan.inputs
    first_row, count_rows = rows.taps_of(i)
    first_column, count_columns = columns.taps_of(j)
    wide, step = inputs.target_columns, columns.stride
    with T.serial(i + 1) as k:
        for piece in pieces(columns.places, _LANES):
            total = cleared(piece.lanes, _WIDE)
            with _times(count_rows) as u_, _times(count_columns) as v_:
                u, v = first_row + u_, first_column + v_
                pixel = (i * rows.stride + rows.offset + u) * inputs.columns
                pixel = pixel + j * columns.stride + columns.offset + v
                start = inputs.target + pixel * _matrix_row(inputs)
                start = start + (k * rows.stride + u) * wide + piece.offset * step + v
                total.set(total.value + _apart(scratch, start, step, piece.lanes))
            store(scratch, plan.line + k * columns.places + piece.offset, total.value, piece.lanes)


def _times(count: Expr) -> AbstractContextManager[Expr]:
    return loop(count) if isinstance(count, int) else T.serial(count)


def _apart(buffer: tirx.Buffer, start: Expr, step: int, lanes: int) -> Expr:
    """Elements ``step`` apart as a vector."""
    if step == 1 or lanes == 1:
        return load(buffer, start, lanes)
    values = Register(lanes, _WIDE)
    for lane in range(lanes):
        values.set_part(lane, load(buffer, start + lane * step), 1)
    return values.value


def _walk(plan: _Plan, scratch: tirx.Buffer, slack: float) -> GhostSums:
    """Add up the products of both Gram matrices, place after place."""
    places = plan.outputs.places
    square, size = cleared(1, _WIDE), cleared(1, _WIDE)
    with loop(plan.outputs.rows) as i, loop(plan.outputs.columns) as j:
        t = i * plan.outputs.columns + j
        _input_products(plan, scratch, i, j)
        row, sums = plan.outputs.target + t * places, cleared(_LANES, _WIDE)
        whole = t // _LANES
        with T.serial(whole) as block:
            left = load(scratch, plan.line + block * _LANES, _LANES)
            sums.add_product(left, load(scratch, row + block * _LANES, _LANES))
        cross = cleared(1, _WIDE)
        with T.serial(t - whole * _LANES) as s:
            at = whole * _LANES + s
            cross.add_product(load(scratch, plan.line + at), load(scratch, row + at))
        for lane in range(_LANES):
            cross.set(cross.value + sums.lane(lane))
        own = T.Bind(load(scratch, plan.line + t) * load(scratch, row + t))
        two = tirx.FloatImm(_WIDE, 2.0)
        square.set(square.value + fma(two, cross.value, own, 1, _WIDE))
        size.set(size.value + tirx.sqrt(own))
        store(scratch, plan.prefixes + t, square.value)
    walk, zero = cleared(1, _WIDE), tirx.FloatImm(_WIDE, 0.0)
    more = T.Bind(size.value * size.value * tirx.FloatImm(_WIDE, slack))
    with loop(places) as t:
        prefix = load(scratch, plan.prefixes + t)
        walk.set(walk.value + tirx.sqrt(selected(prefix < zero, zero, prefix) + more))
    return GhostSums(T.Bind(square.value), T.Bind(size.value), T.Bind(walk.value))


def conv2d_ghost_norm(
    machine: Machine,
    data: Shape,
    gradient: Shape,
    kernel_size: Shape,
    strides: Shape,
    padding: Shape,
    bound: Bound,
    slack: float,
    source: Image | None = None,
) -> tirx.PrimFunc:
    """Data ``[m, h, w, c]`` and output gradient ``[m, p, q, o]`` to what ``bound`` makes of each example.

    The second output is scratch. Examples go one after the other.
    """
    image, out = source or channel_last(data), channel_last(gradient)
    plan, m = _plan(image, gradient, kernel_size, strides, padding), gradient[0]

    def body(x: tirx.Buffer, g: tirx.Buffer, norm: tirx.Buffer, raw: tirx.Buffer) -> None:
        scratch = T.decl_buffer((plan.elements,), _WIDE, data=raw.data, layout=None)
        border = plan.inputs.places * _matrix_row(plan.inputs)
        if any(padding):
            with loop(border // _LANES) as i:
                store(scratch, i * _LANES, constant(0.0, _LANES, _WIDE), _LANES)
            with loop(border % _LANES) as i:
                store(scratch, border // _LANES * _LANES + i, constant(0.0, 1, _WIDE))
        with loop(m) as n:
            _turn(x, n * image.example, image, scratch, plan.turned_inputs)
            _turn(g, n * out.example, out, scratch, plan.turned_outputs)
            _gram(machine, plan.inputs, plan.turned_inputs, scratch)
            _gram(machine, plan.outputs, plan.turned_outputs, scratch)
            store(norm, n, bound(_walk(plan, scratch, slack)))

    inputs = [(image.declared, "float32"), (tuple(gradient), "float32")]
    outputs = [((m,), "float32"), ((2 * plan.elements,), "float32")]
    return kernel("conv2d_ghost_norm", inputs, outputs, body)
